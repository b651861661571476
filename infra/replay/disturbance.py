"""What goes wrong in real traffic, by a seed: duplicates, late events, malformed records. Pure.

Every disturbance is planned before the replay starts, so that the report can account for each of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas import SCHEMA_VERSION
from schemas.limits import Limits
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction


class Malformation(StrEnum):
    """A kind of record that must become a dead letter."""

    TRUNCATED = "truncated"
    FOREIGN_KEY = "foreign_key"
    NOISE_KEY = "noise_key"
    WRONG_PARTITION = "wrong_partition"
    SHORT_EVENT_ID = "short_event_id"
    NO_BODY = "no_body"
    ITEM_ZERO = "item_zero"
    FUTURE_SCHEMA = "future_schema"
    SKEWED_TIME = "skewed_time"


#: What the sequence job must say of each kind.
REASON: Final = {
    Malformation.TRUNCATED: Reason.MALFORMED_VALUE,
    Malformation.FOREIGN_KEY: Reason.KEY_MISMATCH,
    Malformation.NOISE_KEY: Reason.MALFORMED_KEY,
    Malformation.WRONG_PARTITION: Reason.WRONG_PARTITION,
    Malformation.SHORT_EVENT_ID: Reason.MALFORMED_EVENT_ID,
    Malformation.NO_BODY: Reason.UNKNOWN_KIND,
    Malformation.ITEM_ZERO: Reason.ID_OUT_OF_RANGE,
    Malformation.FUTURE_SCHEMA: Reason.UNKNOWN_SCHEMA_VERSION,
    Malformation.SKEWED_TIME: Reason.SKEW,
}
_KINDS: Final = tuple(Malformation)


@dataclass(frozen=True, kw_only=True)
class DisturbanceSettings:
    """Shares of the events, each drawn independently."""

    duplicate_share: float = 0.01
    late_share: float = 0.01
    malformed_share: float = 0.001
    #: A duplicate, and an event held back, follows within so many sent events. Below the dedupe window.
    max_delay: int = 100

    def __post_init__(self) -> None:
        for name in ("duplicate_share", "late_share", "malformed_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not a share in [0, 1]")
        if self.max_delay < 1:
            raise ValueError(f"max_delay is {self.max_delay}; at least 1")


@dataclass(frozen=True, kw_only=True)
class DisturbancePlan:
    """Per event of a log: how many steps later its duplicate, itself (when held back) or a malformed record comes."""

    #: 0: no duplicate; int32 [E].
    duplicate_after: NDArray[np.int32]
    #: 0: on time; int32 [E].
    held_for: NDArray[np.int32]
    #: -1: none, else an index into `Malformation`; int8 [E].
    malformation: NDArray[np.int8]

    @classmethod
    def draw(cls, events: int, settings: DisturbanceSettings, rng: np.random.Generator) -> DisturbancePlan:
        """A plan for `events` events."""

        def chosen(share: float) -> NDArray[np.bool_]:
            return rng.random(events) < share

        def delays() -> NDArray[np.int32]:
            return rng.integers(1, settings.max_delay + 1, events, dtype=np.int32)

        return cls(
            duplicate_after=np.where(chosen(settings.duplicate_share), delays(), 0).astype(np.int32),
            held_for=np.where(chosen(settings.late_share), delays(), 0).astype(np.int32),
            malformation=np.where(
                chosen(settings.malformed_share), rng.integers(0, len(_KINDS), events, dtype=np.int8), -1
            ).astype(np.int8),
        )

    def kind(self, event: int) -> Malformation | None:
        """What malformed record accompanies the event."""
        index = int(self.malformation[event])
        return None if index < 0 else _KINDS[index]

    def expected_reasons(self) -> Counter[str]:
        """How many dead letters of each reason the whole plan makes."""
        return Counter(REASON[_KINDS[index]].value for index in self.malformation[self.malformation >= 0].tolist())


def malformed_record(
    kind: Malformation, event: BehaviourEvent, timestamp_ms: int, partitions: int, limits: Limits
) -> tuple[bytes, bytes, int]:
    """(key, value, partition) of a malformed relative of `event`.

    Its event id differs from the real event's, so that an accepted one would show as an event too many.
    """
    bad = BehaviourEvent()
    bad.CopyFrom(event)
    bad.event_id = bytes(byte ^ 0xFF for byte in event.event_id)
    bad.ClearField("request")
    key = user_key(event.user_id)
    partition = partition_of(key, partitions)
    match kind:
        case Malformation.TRUNCATED:
            return key, bad.SerializeToString()[:-3], partition
        case Malformation.FOREIGN_KEY:
            key = user_key(event.user_id + 1)
            partition = partition_of(key, partitions)
        case Malformation.NOISE_KEY:
            key = b"user:" + key
            partition = partition_of(key, partitions)
        case Malformation.WRONG_PARTITION:
            partition = (partition + 1) % partitions
        case Malformation.SHORT_EVENT_ID:
            bad.event_id = bad.event_id[:7]
        case Malformation.NO_BODY:
            bad.ClearField("interaction")
        case Malformation.ITEM_ZERO:
            bad.interaction.CopyFrom(Interaction(item_id=0, action=1))
        case Malformation.FUTURE_SCHEMA:
            bad.schema_version = SCHEMA_VERSION + 1000
        case Malformation.SKEWED_TIME:
            bad.event_time_ms = timestamp_ms + limits.max_earliness_ms + 60_000
    return key, bad.SerializeToString(), partition
