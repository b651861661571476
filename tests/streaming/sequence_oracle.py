"""What the contracts say of a user's sequence, kept whole: for the step over a dict and for the job on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.digest import extend_digest, make_epoch, origin_digest
from schemas.history import encode_event
from schemas.packing import unpack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent
from streaming.sequence.memory import MemoryUserState
from streaming.sequence.step import SequenceSettings


@dataclass
class DictState(MemoryUserState):
    """One user's state, what it cost, and that nothing full is written twice."""

    touched_chunks: int = 0

    def put_chunk(self, number: int, chunk: bytes) -> None:
        assert number < 0 or number not in self.chunks, "a full chunk is never rewritten"
        self.touched_chunks += 1
        super().put_chunk(number, chunk)

    def remove_chunk(self, number: int) -> None:
        self.touched_chunks += 1
        super().remove_chunk(number)

    def put_ids(self, number: int, ids: bytes) -> None:
        assert number not in self.ids, "a full block is never rewritten"
        super().put_ids(number, ids)


@dataclass
class Oracle:
    """What the contracts say, without any economy."""

    user_id: int
    rules: SequenceSettings
    resets: int = 0
    ids: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    seed_done: bytes = b""
    seed: list[BehaviourEvent] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        return make_epoch(self.rules.generation, self.resets)

    def digest(self, seq_no: int) -> int:
        digest = origin_digest(self.user_id, self.epoch)
        for encoded in self.events[:seq_no]:
            digest = extend_digest(digest, encoded)
        return digest

    def take(self, event: BehaviourEvent) -> str:
        if event.HasField("seed"):
            return self._take_seed(event)
        if event.event_id in self.ids[-self.rules.dedupe_window_events :]:
            return "duplicate"
        if event.HasField("erase"):
            self.resets, self.ids, self.events = self.resets + 1, [event.event_id], []
            if self.seed:
                self.seed_done = self.seed[0].event_id
            self.seed = []
            return "erased"
        self.ids.append(event.event_id)
        self.events.append(encode_event(event.event_time_ms, event.interaction))
        return "accepted"

    def _take_seed(self, event: BehaviourEvent) -> str:
        if event.event_id == self.seed_done:
            return "duplicate"
        if event.seed.rebuild and self.resets:
            return "refused"
        if self.seed and self.seed[0].event_id == event.event_id and event.seed.part < len(self.seed):
            return "duplicate"
        if event.seed.part == 0:
            self.seed = []
        elif not self.seed or (event.event_id, event.seed.parts, event.seed.part) != (
            self.seed[0].event_id,
            self.seed[0].seed.parts,
            len(self.seed),
        ):
            return "refused"
        events = sum(len(unpack_history(part.seed.packed)) for part in [*self.seed, event])
        if len(event.seed.event_ids) > 16 * events:
            return "refused"
        self.seed.append(event)
        if len(self.seed) < event.seed.parts:
            return "part"
        seeded = [row.tobytes() for part in self.seed for row in unpack_history(part.seed.packed)]
        self.seed, self.seed_done = [], event.event_id
        raw = event.seed.event_ids
        seeded_ids = [raw[at : at + 16] for at in range(0, len(raw), 16)]
        named = [bytes(16)] * (len(seeded) - len(seeded_ids)) + seeded_ids
        ids = self.ids[-self.rules.dedupe_window_events :]
        older, aligned = ids[: max(0, len(ids) - len(self.events))], ids[-len(self.events) :] if self.events else []
        known = [None] * (len(self.events) - len(aligned)) + aligned
        there = list(zip(self.events, known, strict=True))[self.first_seq_no() - 1 :]
        self.events = seeded + [row for row, event_id in there if event_id not in seeded_ids]
        live = [event_id or bytes(16) for _, event_id in there]
        self.ids = [*(i for i in older if i not in seeded_ids), *named, *(i for i in live if i not in seeded_ids)]
        self.resets += 1
        return "seeded"

    def first_seq_no(self) -> int:
        return max(1, len(self.events) - self.rules.kept_events + 1)
