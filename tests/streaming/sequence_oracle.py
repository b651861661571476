"""What the contracts say of a user's sequence, kept whole: for the step over a dict and for the job on a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.digest import extend_digest, make_epoch, origin_digest
from schemas.history import encode_event
from schemas.v1.behaviour_pb2 import BehaviourEvent
from streaming.sequence.step import SequenceSettings


@dataclass
class DictState:
    """One user's state, and what it cost."""

    header: bytes | None = None
    chunks: dict[int, bytes] = field(default_factory=dict)
    touched_chunks: int = 0

    def get_header(self) -> bytes | None:
        return self.header

    def put_header(self, header: bytes) -> None:
        self.header = header

    def get_chunks(self, numbers: range) -> Iterable[bytes | None]:
        return [self.chunks.get(number) for number in numbers]

    def put_chunk(self, number: int, chunk: bytes) -> None:
        assert number not in self.chunks, "a full chunk is never rewritten"
        self.touched_chunks += 1
        self.chunks[number] = chunk

    def remove_chunk(self, number: int) -> None:
        self.touched_chunks += 1
        del self.chunks[number]


@dataclass
class Oracle:
    """What the contracts say, without any economy."""

    user_id: int
    rules: SequenceSettings
    resets: int = 0
    ids: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        return make_epoch(self.rules.generation, self.resets)

    def digest(self, seq_no: int) -> int:
        digest = origin_digest(self.user_id, self.epoch)
        for encoded in self.events[:seq_no]:
            digest = extend_digest(digest, encoded)
        return digest

    def take(self, event: BehaviourEvent) -> str:
        if event.event_id in self.ids[-self.rules.dedupe_window_events :]:
            return "duplicate"
        if event.HasField("erase"):
            self.resets, self.ids, self.events = self.resets + 1, [event.event_id], []
            return "erased"
        self.ids.append(event.event_id)
        self.events.append(encode_event(event.event_time_ms, event.interaction))
        return "accepted"

    def first_seq_no(self) -> int:
        return max(1, len(self.events) - self.rules.kept_events + 1)
