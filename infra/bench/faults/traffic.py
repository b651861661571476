"""Seeded behaviour events: Zipf users, duplicates, late events, malformed records, erases, seeds. Pure.

The same settings give the same bytes. An event's id carries its number, so that whoever reads an update back knows
which event it was.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np

from infra.replay.disturbance import DisturbancePlan, DisturbanceSettings, malformed_record
from infra.replay.messages import Outgoing
from schemas import SCHEMA_VERSION
from schemas.history import HISTORY_DTYPE
from schemas.limits import Limits
from schemas.packing import pack_history
from schemas.partitioner import partition_of, user_key
from schemas.topics import EVENTS, PARTITIONS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, Seed

#: An old log, in ms: nothing of the sequences may depend on the wall clock.
START_MS: Final = 1_500_000_000_000
_RUN_BYTES: Final = 8
_MAX_LATENESS_MS: Final = 3_600_000


@dataclass(frozen=True, kw_only=True)
class TrafficSettings:
    """What is sent. The shares are of the events, each drawn independently."""

    events: int
    seed: int
    users: int = 400
    #: Exponent of the users' rank in the probability of the next event being theirs.
    zipf: float = 1.1
    duplicate_share: float = 0.02
    #: Events that happened up to an hour before those that arrive with them.
    late_share: float = 0.02
    malformed_share: float = 0.005
    erase_share: float = 0.0005
    #: Histories from before the traffic, in one record or two.
    seed_share: float = 0.001

    def __post_init__(self) -> None:
        if self.events < 1 or self.users < 1:
            raise ValueError(f"{self.events} events of {self.users} users are no traffic; at least one of each")


class Traffic:
    """The events 0 .. events - 1, and what accompanies them."""

    def __init__(self, settings: TrafficSettings, limits: Limits) -> None:
        self.settings = settings
        #: (key, value, partition) of the malformed records so far: none of them may get a number.
        self.malformed: set[tuple[bytes, bytes, int]] = set()
        self._limits = limits
        self._run = blake2b(b"faults/%d" % settings.seed, digest_size=_RUN_BYTES).digest()
        rng = np.random.default_rng(settings.seed)
        disturbances = DisturbanceSettings(
            duplicate_share=settings.duplicate_share, late_share=0, malformed_share=settings.malformed_share
        )
        self._plan = DisturbancePlan.draw(settings.events, disturbances, rng)
        weights = 1 / np.arange(1, settings.users + 1) ** settings.zipf
        self._user = rng.choice(settings.users, settings.events, p=weights / weights.sum()) + 1
        late = rng.random(settings.events) < settings.late_share
        self._lateness_ms = np.where(late, rng.integers(1, _MAX_LATENESS_MS, settings.events), 0)
        drawn = rng.random(settings.events)
        self._erases = drawn < settings.erase_share
        self._seeds = (drawn >= settings.erase_share) & (drawn < settings.erase_share + settings.seed_share)
        #: Which events open an epoch: erases and seeds, which get a snapshot and no update.
        self.resets = self._erases | self._seeds
        self._item = rng.integers(1, 1 << 40, settings.events)

    def steps(self) -> Iterator[list[Outgoing]]:
        """Per event the records to send: itself, its malformed relative, and the duplicates that are due by then."""
        due: list[tuple[int, int, Outgoing]] = []
        for number in range(self.settings.events):
            step, message = self._event(number)
            record = step[-1]
            if delay := int(self._plan.duplicate_after[number]):
                heapq.heappush(due, (min(number + delay, self.settings.events - 1), number, record))
            kind = self._plan.kind(number)
            # An erase and a seed have no interaction to damage.
            if kind is not None and not self.resets[number]:
                key, value, partition = malformed_record(kind, message, record.timestamp_ms, PARTITIONS, self._limits)
                self.malformed.add((key, value, partition))
                step.append(Outgoing(EVENTS.name, key, value, record.timestamp_ms, partition))
            while due and due[0][0] <= number:
                step.append(heapq.heappop(due)[2])
            yield step

    def number_of(self, event_id: bytes) -> int:
        """Which event has this id.

        Raises:
            ValueError: none of this traffic has.
        """
        number = int.from_bytes(event_id[_RUN_BYTES:], "big")
        if event_id[:_RUN_BYTES] != self._run or number >= self.settings.events:
            raise ValueError(f"event id {event_id.hex()} is not of the traffic with seed {self.settings.seed}")
        return number

    def _event(self, number: int) -> tuple[list[Outgoing], BehaviourEvent]:
        """The event's records, one but for seeds, and the last one's message."""
        sent_ms = START_MS + number
        message = BehaviourEvent(
            schema_version=SCHEMA_VERSION,
            user_id=int(self._user[number]),
            event_id=self._id(number),
            event_time_ms=sent_ms - int(self._lateness_ms[number]),
        )
        item = int(self._item[number])
        messages = [message]
        if self._erases[number]:
            message.erase.CopyFrom(Erase())
        elif self._seeds[number]:
            messages = self._parts(message, number, item)
        else:
            interaction = Interaction(item_id=item, action=item % 7)
            if item % 3:
                interaction.watch_ms, interaction.duration_ms = item % 60_000, 60_000
            if item % 2:
                interaction.group_id = item % 1_000 + 1
            message.interaction.CopyFrom(interaction)
        key = user_key(message.user_id)
        partition = partition_of(key, PARTITIONS)
        sent = [Outgoing(EVENTS.name, key, each.SerializeToString(), sent_ms, partition) for each in messages]
        return sent, messages[-1]

    def _id(self, number: int) -> bytes:
        return self._run + number.to_bytes(16 - _RUN_BYTES, "big")

    def _parts(self, message: BehaviourEvent, number: int, item: int) -> list[BehaviourEvent]:
        parts, sizes = 1 + item % 2, (1 + item % 40, 1 + item % 23)
        messages = []
        for part, size in enumerate(sizes[:parts]):
            rows = np.zeros(size, dtype=HISTORY_DTYPE)
            rows["event_time_ms"] = START_MS - 1_000_000 + 1_000 * part + np.arange(size)
            rows["item_id"], rows["action"] = item % 1_000 + 1 + np.arange(size), part
            one = BehaviourEvent()
            one.CopyFrom(message)
            one.seed.CopyFrom(Seed(part=part, parts=parts, packed=pack_history(rows)))
            messages.append(one)
        # Of no event that is sent by itself.
        messages[-1].seed.event_ids = self._id(number + (1 << 40))
        return messages
