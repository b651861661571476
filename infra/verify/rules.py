"""The labels' rules, read from the configuration's document: not by the code that labels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from streaming.config import ExampleJobConfig


class Act(NamedTuple):
    """One piece of feedback. In the order in which feedback takes effect."""

    published_ms: int
    event_id: bytes
    acted_ms: int
    item_id: int
    action: int
    #: None: not told.
    watch_ms: int | None
    duration_ms: int | None


#: Is a target positive, by the feedback to it?
Rule: TypeAlias = Callable[[Sequence[Act]], bool]


@dataclass(frozen=True, kw_only=True)
class TaskRule:
    """What one label says."""

    name: str
    holds: Rule
    #: Feedback counts when the user acted at most so long after the request, ms.
    window_ms: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class ExampleRules:
    """What an example is; times in ms."""

    tasks: tuple[TaskRule, ...]
    revision_window_ms: int = 0
    attribution_window_ms: int = 0
    emit_unshown: bool = False

    @property
    def label_window_ms(self) -> int:
        """A request's: the longest of its tasks'."""
        return max(task.window_ms for task in self.tasks)

    @property
    def kept_ms(self) -> int:
        """From a request to when feedback to it comes too late."""
        return max(self.label_window_ms, self.revision_window_ms)

    def due_ms(self, request_time_ms: int) -> int:
        """The label time: what was published up to then is in version 1."""
        return request_time_ms + self.label_window_ms


def rules_of(config: ExampleJobConfig) -> ExampleRules:
    """The rules of a configuration."""
    document = config.model_dump(mode="json", by_alias=True)
    return ExampleRules(
        tasks=tuple(
            TaskRule(
                name=label["task"],
                holds=rule_of(label["when"]),
                window_ms=label["window_ms"] or document["label_window_ms"],
                weight=label["weight"],
            )
            for label in document["labels"]
        ),
        revision_window_ms=document["revision_window_ms"],
        attribution_window_ms=document["attribution_window_ms"],
        emit_unshown=document["emit_unshown"],
    )


def rule_of(document: Mapping[str, Any]) -> Rule:
    """One rule as it stands in the YAML.

    Raises:
        ValueError: it is not exactly one of actions, watch_ms, watch_fraction, all, any, not.
    """
    given = {kind: content for kind, content in document.items() if content is not None}
    if len(given) != 1:
        raise ValueError(f"a rule is one thing, this is {len(given)}: {', '.join(given)}")
    ((kind, content),) = given.items()
    if kind == "actions":
        return _done(None if content == "any" else frozenset(content))
    if kind in ("watch_ms", "watch_fraction"):
        return _watched(content, of_duration=kind == "watch_fraction")
    if kind == "not":
        inner = rule_of(content)
        return lambda acts: not inner(acts)
    if kind == "all":
        every = [rule_of(each) for each in content]
        return lambda acts: all(rule(acts) for rule in every)
    if kind == "any":
        some = [rule_of(each) for each in content]
        return lambda acts: any(rule(acts) for rule in some)
    raise ValueError(f"no rule is called {kind}")


def _done(actions: Collection[int] | None) -> Rule:
    if actions is None:
        return lambda acts: len(acts) > 0
    return lambda acts: any(act.action in actions for act in acts)


def _watched(bound: Mapping[str, float | None], *, of_duration: bool) -> Rule:
    at_least, below = bound.get("at_least"), bound.get("below")
    limit = float(below if at_least is None and below is not None else at_least or 0.0)

    def reached(acts: Sequence[Act]) -> list[bool]:
        """Of the feedback that says how long (and of how much): is it as long as the bound?"""
        told = []
        for act in acts:
            if act.watch_ms is not None and not of_duration:
                told.append(act.watch_ms >= limit)
            elif act.watch_ms is not None and act.duration_ms:
                told.append(act.watch_ms >= limit * act.duration_ms)
        return told

    if at_least is not None:
        return lambda acts: any(reached(acts))
    return lambda acts: (told := reached(acts)) != [] and not any(told)
