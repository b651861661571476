"""The sections of the jobs' configuration: immutable, unknown keys are errors, every unit is in the field's name.

Defaults stand here; the shipped YAML files spell them out.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from schemas.limits import Limits
from schemas.packing import PACKING_VERSION, PACKING_VERSIONS
from schemas.topics import UPDATES
from streaming.examples.labels import Acted, AllOf, AnyOf, Not, Rule, Watched
from streaming.examples.settings import JoinLimits

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
PackingVersion = Annotated[int, Field(ge=PACKING_VERSIONS[0], le=PACKING_VERSION)]
Milliseconds = Annotated[int, Field(ge=0)]
PositiveMilliseconds = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a configuration: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Field by field what `schemas.limits.Limits` has, so that the two cannot drift apart; and so `JoinLimitsSection` below.
_limit_fields: dict[str, Any] = {field.name: (int, field.default) for field in fields(Limits)}
LimitsSection: Any = create_model("LimitsSection", __base__=Section, __module__=__name__, **_limit_fields)


class JobSection(Section):
    """How Flink runs the graph."""

    name: Name
    #: None: what `flink run -p` or the cluster says.
    parallelism: Count | None = None
    #: The number of key groups: a job's state can never be spread wider. Fixed once there is state.
    max_parallelism: Count = 128
    checkpoint_interval_ms: PositiveMilliseconds = 10_000
    checkpoint_timeout_ms: PositiveMilliseconds = 600_000
    #: How long a record may wait for company on its way between operators.
    buffer_timeout_ms: Milliseconds = 5
    #: Failures in a row before the job ends as FAILED, where it is seen: offsets that are gone do not come back.
    restart_attempts: Count = 10
    #: The pause before a restart doubles from 1 s up to this; all pauses together outlast a lost TaskManager's return.
    restart_max_delay_ms: Annotated[int, Field(ge=1_000)] = 30_000
    #: Without a failure for so long, failures are counted from 0 again. A lost TaskManager counts twice.
    restart_calm_ms: PositiveMilliseconds = 300_000


class BatchSection(Section):
    """How many records enter Python together."""

    #: A batch this large does not wait.
    max_records: Annotated[int, Field(ge=1, le=1 << 16)] = 512
    #: Likewise, for records with what comes with them; a larger record is a batch of its own.
    max_bytes: Annotated[int, Field(ge=1_024, le=1 << 28)] = 1 << 20
    #: How long a record may wait for company.
    max_delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 2


class KafkaSection(Section):
    """The brokers, and how sources and sinks talk to them."""

    bootstrap: Name = "localhost:9092"
    #: Whose committed offsets the job starts from.
    group_id: Name
    #: Client properties of sources and sinks alike (security.protocol, sasl.*, ssl.*).
    properties: dict[str, str] = {}


class WatermarkSection(Section):
    """Event time of the sources, per partition."""

    #: How far behind the newest record's timestamp the watermark stays; SQL's intervals have three digits of days.
    out_of_orderness_ms: Annotated[int, Field(ge=0, lt=1_000 * 86_400_000)] = 5_000
    #: A partition silent for so long no longer holds the watermark back; 0: it does for ever (heartbeats move it).
    idle_timeout_ms: Milliseconds = 60_000


class AlignedWatermarkSection(WatermarkSection):
    """Event time of several topics that are read together."""

    #: A partition is not read on while it is so far ahead of the slowest one of any topic: in a replay of days, the
    #: state would have to hold what came of the faster ones. 0: they may run ahead as far as they like.
    max_drift_ms: Milliseconds = 3_600_000


class SinkSection(Section):
    """The producers."""

    #: Records that come within it travel together: one request for each record costs the job a third of its rate.
    linger_ms: Milliseconds = 5
    #: gzip is the one that both Flink's connector jar and the locked Python packages bring; the jar has lz4 too.
    compression: Literal["none", "gzip", "lz4"] = "gzip"


class TransactionalSinkSection(SinkSection):
    """The producer of the examples."""

    #: Unique to the job within the Kafka cluster and the same for ever: it names the transactions to finish or abort.
    transactional_id_prefix: Name = "longrank.example-job"
    #: Above checkpoint interval and the longest restart; the broker's transaction.max.timeout.ms must allow it.
    transaction_timeout_ms: PositiveMilliseconds = 3_600_000


class SequenceSection(Section):
    """The rules of the sequences; they change only across stop-with-savepoint."""

    #: Raise it when the job starts without its old state.
    generation: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    #: Refuse to start without state in a generation that is not above the recorded ones. To be switched off where
    #: something else than `flink run -s` restores the state (high availability in application mode runs the job's
    #: entry point again).
    check_generation: bool = True
    capacity: Count = 10_000
    as_of_events: Annotated[int, Field(ge=0)] = 4_000


class DedupeSection(Section):
    """Duplicates are found among each user's last accepted events."""

    window_events: Annotated[int, Field(ge=1, le=65_535)] = 256


class SnapshotSection(Section):
    """When a whole history is written again."""

    every_events: Count = 1_000
    max_age_ms: PositiveMilliseconds = 86_400_000
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.5
    #: Of a subtask, for age: when the job stood still, all that fell due meanwhile is due at once. It must be more than
    #: the subtask's users per max_age_ms, or they are covered ever later.
    max_per_second: Annotated[float, Field(gt=0)] = 200.0
    #: Layout of the packed history (schemas/packing); every reader takes the older ones, too.
    write_version: PackingVersion = PACKING_VERSION

    @model_validator(mode="after")
    def _before_the_updates_expire(self) -> Self:
        if self.max_age_ms > UPDATES.retention_ms // 3:
            raise ValueError(f"max_age_ms is above {UPDATES.retention_ms // 3}, a third of the updates' retention")
        return self


class StateSection(Section):
    """The layout of the keyed state."""

    #: Events in a chunk; a user keeps what it was when the user's epoch began.
    chunk_events: Annotated[int, Field(ge=1, le=65_535)] = 64
    #: Layout of new chunks; all are read. Raise it a release after the readers have it: then a release can be undone.
    #: (64 events seldom repeat what layout 2 would say once, and it takes six times as long.)
    write_version: PackingVersion = 1
    #: Users whose headers a subtask keeps in Python, 4 to 8 KiB each, those who acted last; others' are read from the
    #: state.
    cached_users: Annotated[int, Field(ge=0)] = 16_384


class BoundSection(Section):
    """At least the bound, or below it."""

    at_least: Annotated[float, Field(ge=0)] | None = None
    below: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.at_least is None) == (self.below is None):
            raise ValueError("a bound is either at_least or below")
        return self


class RuleSection(Section):
    """When a target is positive: exactly one of these."""

    #: Codes of which one was done to it, or any action at all.
    actions: Literal["any"] | Annotated[frozenset[int], Field(min_length=1)] | None = None
    #: How long it was watched.
    watch_ms: BoundSection | None = None
    #: Likewise, as a share of its duration.
    watch_fraction: BoundSection | None = None
    all: Annotated[tuple[RuleSection, ...], Field(min_length=1)] | None = None
    any: Annotated[tuple[RuleSection, ...], Field(min_length=1)] | None = None
    not_: Annotated[RuleSection | None, Field(alias="not")] = None

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = sorted(self.model_fields_set - {name for name in self.model_fields_set if getattr(self, name) is None})
        if len(given) != 1:
            raise ValueError(
                "a rule is exactly one of actions, watch_ms, watch_fraction, all, any, not;"
                f" given: {', '.join(name.rstrip('_') for name in given) or 'none'}"
            )
        return self

    def rule(self) -> Rule:
        """The rule as the join applies it."""
        if self.actions is not None:
            return Acted(None if self.actions == "any" else self.actions)
        for bound, of_duration in ((self.watch_ms, False), (self.watch_fraction, True)):
            if bound is not None and bound.at_least is not None:
                return Watched(bound.at_least, of_duration)
            if bound is not None and bound.below is not None:
                return Watched(bound.below, of_duration, below=True)
        if self.not_ is not None:
            return Not(self.not_.rule())
        rules = tuple(each.rule() for each in self.all or self.any or ())
        return AllOf(rules) if self.all is not None else AnyOf(rules)


class LabelSection(Section):
    """One task's label."""

    task: Annotated[str, Field(min_length=1, max_length=64)]
    #: In the training loss.
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    #: Feedback counts when the user acted at most so long after the request; None: the job's label_window_ms.
    window_ms: PositiveMilliseconds | None = None
    when: RuleSection = RuleSection(actions="any")


_NEARLY_ALL: Final = 0.95
#: Watched to the end, or for moments only; liked, with the code that infra/logs/kuairand.py gives it.
SHORT_VIDEO_LABELS: Final = (
    LabelSection(task="finish", when=RuleSection(watch_fraction=BoundSection(at_least=_NEARLY_ALL))),
    LabelSection(
        task="skip",
        when=RuleSection(
            all=(
                RuleSection(watch_ms=BoundSection(below=3_000)),
                RuleSection(watch_fraction=BoundSection(below=_NEARLY_ALL)),
            )
        ),
    ),
    LabelSection(task="like", when=RuleSection(actions=frozenset({3}))),
)


_join_limit_fields: dict[str, Any] = {field.name: (Count, field.default) for field in fields(JoinLimits)}
JoinLimitsSection: Any = create_model("JoinLimitsSection", __base__=Section, __module__=__name__, **_join_limit_fields)


class PendingSection(Section):
    """The keyed state of the join."""

    #: Requests that a subtask keeps decoded in Python, 1 to 4 KiB each, the newest; and as many users' own values,
    #: those used last. Others are read from the state.
    cached_requests: Annotated[int, Field(ge=0)] = 16_384
    #: Timers that a subtask keeps in Python, 200 bytes each; checkpoints save them. With more, the later are Flink's.
    cached_timers: Annotated[int, Field(ge=2)] = 262_144
