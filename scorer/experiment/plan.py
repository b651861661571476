"""What an experiment compares, and how: one plan, as data; JSON on the machine that trains, YAML for people."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from schemas.settings import require
from scorer.experiment.metrics import BUCKETS
from scorer.features.settings import FeatureSettings
from scorer.training.recipe import Recipe
from scorer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

_FORBID: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """`log`: the log's own, within each user by time. `time`: one for all users; needs the two times, ms UTC."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    by: Literal["log", "time"] = "log"
    valid_from_ms: int | None = None
    test_from_ms: int | None = None
    #: With `time`: of the requests from test_from_ms on, only those that the log's own split tests on, too.
    logs_test_only: bool = False

    def __post_init__(self) -> None:
        times = (self.valid_from_ms, self.test_from_ms)
        require(
            (self.by == "time") == (None not in times) and (self.by == "time" or times == (None, None)),
            "by: time needs valid_from_ms and test_from_ms; by: log takes neither",
        )
        require(self.by == "time" or not self.logs_test_only, "logs_test_only goes with by: time")
        if self.valid_from_ms is not None and self.test_from_ms is not None:
            require(self.valid_from_ms <= self.test_from_ms, "valid_from_ms must not be after test_from_ms")


@dataclass(frozen=True, kw_only=True)
class BoostingPlan:
    """Boosted trees on hand-made features; fitted for each serving length by itself."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    features: Literal["basic", "strong"] = "basic"
    #: Training requests, drawn by the seed; 0 for all.
    train_requests: int = 40_000
    #: Share of them with a history of 1,000 events or more; None: as it comes.
    long_share: float | None = None
    trees: int = 100
    learning_rate: float = 0.1
    leaves: int = 31
    min_leaf: int = 20
    l2: float = 0.0

    def __post_init__(self) -> None:
        require(self.train_requests >= 0, "train_requests must not be negative")
        require(self.long_share is None or 0 <= self.long_share <= 1, "long_share is in [0, 1]")
        require(min(self.trees, self.min_leaf) >= 1 and self.leaves >= 2, "trees, min_leaf: 1 up, leaves: 2 up")
        require(self.learning_rate > 0 and self.l2 >= 0, "learning_rate must be positive, l2 not negative")


@dataclass(frozen=True, kw_only=True)
class BaselinePlan:
    """Sizes of a neural baseline; those of parts that a kind does not have are not looked at."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    kind: Literal["pooling", "din", "two_stage"]
    d: int = 64
    #: Width of the trained id tables.
    table_dim: int = 16
    #: Of the MLP at the end.
    hidden: int = 128
    #: Most candidates of a request.
    most_targets: int = 32
    #: DIN: width that its activation unit sees, and its hidden units.
    unit_width: int = 32
    unit_hidden: int = 16
    #: Two stages: events that the search keeps, and the attention over them.
    top_k: int = 100
    heads: int = 2
    head_dim: int = 32

    def __post_init__(self) -> None:
        sizes = [value for value in dataclasses.asdict(self).values() if isinstance(value, int)]
        require(min(sizes) >= 1, "every size must be positive")


@dataclass(frozen=True, kw_only=True)
class BaselineRecipe:
    """What makes a neural baseline beside its data and its seed; fields as in STCA's recipe where both have them."""

    __pydantic_config__: ClassVar[Any] = _FORBID

    model: BaselinePlan
    features: FeatureSettings = field(default_factory=FeatureSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan:
    """Frozen. Scorers have names of their own; no two the same.

    Raises:
        ValueError: a field is out of range, or a name is taken or unknown.
    """

    __pydantic_config__: ClassVar[Any] = _FORBID

    split: SplitPlan = field(default_factory=SplitPlan)
    #: Which time of an event the models see: when it happened or when it became known.
    event_time: Literal["event", "arrival"] = "arrival"
    #: Serving lengths, events; the last is the one that differences are told at.
    lengths: tuple[int, ...] = (100, 500, 1_000, 2_000, 5_000, 10_000)
    buckets: tuple[int, ...] = BUCKETS
    #: Of the neural models.
    seeds: tuple[int, ...] = (0,)
    #: Of boosting, which depends on its seed less.
    boosting_seeds: tuple[int, ...] = (0,)
    #: Resamples of users.
    draws: int = 1_000
    boosting: dict[str, BoostingPlan] = field(default_factory=dict)
    baselines: dict[str, BaselineRecipe] = field(default_factory=dict)
    stca: dict[str, Recipe] = field(default_factory=dict)
    #: Scorers whose log odds, of all seeds, are averaged into one more scorer.
    averages: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: The scorer that all others are compared with; "" for none.
    reference: str = ""

    def __post_init__(self) -> None:
        require(bool(self.lengths) and min(self.lengths) >= 1, "lengths must be positive, and there must be one")
        require(tuple(sorted(set(self.lengths))) == self.lengths, "lengths must rise")
        require(bool(self.buckets) and min(self.buckets) >= 0, "buckets must not be negative, and there must be one")
        require(bool(self.seeds) and bool(self.boosting_seeds), "seeds must not be empty")
        require(len(set(self.seeds)) == len(self.seeds), "seeds must differ")
        require(self.draws >= 1, "draws must be positive")
        names = [*self.boosting, *self.baselines, *self.stca]
        everyone = names + list(self.averages)
        twice = sorted({name for name in everyone if everyone.count(name) > 1})
        require(not twice, f"two scorers are called {', '.join(twice)}")
        bad = [name for name in everyone if not name or not all(c.isalnum() or c in " .+=_-" for c in name)]
        require(not bad, f"{', '.join(map(repr, bad))}: letters, digits, spaces and . + = _ - make a scorer's name")
        for name, parts in self.averages.items():
            unknown = sorted(set(parts) - set(names))
            require(not unknown and bool(parts), f"averages: {name}: no scorer {', '.join(unknown) or 'is named'}")
        require(not self.reference or self.reference in everyone, f"reference: no scorer {self.reference!r}")

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds that a scorer is trained with."""
        return self.boosting_seeds if name in self.boosting else self.seeds

    def settings_of(self, name: str) -> DataclassInstance:
        """What makes a scorer that is trained, beside data and seed."""
        every: dict[str, Any] = {**self.boosting, **self.baselines, **self.stca}
        found: DataclassInstance = every[name]
        return found


def plan_of(mapping: Mapping[str, Any]) -> ExperimentPlan:
    """The plan in a parsed JSON or YAML mapping.

    Raises:
        ValueError: with the place of the mistake: an unknown key, or what a part refuses.
    """
    return _build(ExperimentPlan, mapping, "")


def mapping_of(settings: DataclassInstance) -> dict[str, Any]:
    """JSON types that give the same settings again."""
    found: dict[str, Any] = _as_json(dataclasses.asdict(settings))
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, tuple | list) else value


def _build(cls: type[S], mapping: Any, place: str) -> S:
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{place or 'the whole'}: must be a mapping of {cls.__name__}'s fields")
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    if unknown := sorted(set(mapping) - set(known)):
        raise ValueError(f"{place or 'the whole'}: unknown {', '.join(unknown)}; there are {', '.join(known)}")
    values = {name: _value(hints[name], value, f"{place}.{name}".lstrip(".")) for name, value in mapping.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place or 'the whole'}: {error}") from error


def _value(hint: Any, value: Any, place: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, place)
    if get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{place}: must be a mapping of names")
        return {name: _value(get_args(hint)[1], one, f"{place}.{name}") for name, one in value.items()}
    return tuple(value) if isinstance(value, list) else value
