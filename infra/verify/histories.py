"""Every user's history, rebuilt from `behaviour.events.v1` alone.

Own numbering, dedupe, encoding and digest, after the contracts' text: nothing of the sequence job or of the store is
called; of the contracts' code, only the unpacking that golden vectors pin. A record that the job refused is known by
its dead letter; all others are accepted or duplicates.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from infra.verify.findings import Findings
from schemas.packing import unpack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent
from scorer.landing.bounded import Landed

_DIGEST_VERSION: Final = 1
_ROW = struct.Struct("<qQQIIIIB")
_ROW_BYTES: Final = 41
#: In the place of an id that nobody knows any more.
_FORGOTTEN: Final = bytes(16)


def _hash(*parts: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8, person=b"longrank.seq.v1").digest(), "little")


def encode_row(event: BehaviourEvent) -> bytes:
    """The canonical 41 bytes of an interaction."""
    it = event.interaction
    optional = ("watch_ms", 1), ("duration_ms", 2), ("surface", 4), ("group_id", 8)
    present = sum(bit for name, bit in optional if it.HasField(name))
    return _ROW.pack(
        event.event_time_ms, it.item_id, it.group_id, it.action, it.surface, it.watch_ms, it.duration_ms, present
    )


def origin_of(user: int, epoch: int) -> int:
    """digest(0)."""
    return _hash(struct.pack("<BQQ", _DIGEST_VERSION, user, epoch))


@dataclass
class Epoch:
    """One user's history within one epoch; entry n - 1 of every list is seq_no n."""

    origin: int
    rows: bytearray = field(default_factory=bytearray)
    digests: list[int] = field(default_factory=list)
    event_ids: list[bytes] = field(default_factory=list)
    #: (partition, offset) of each event in the events topic.
    sources: list[tuple[int, int]] = field(default_factory=list)
    #: How many of them the epoch opened with: its first snapshot says them, no update does.
    seeded: int = 0

    def append(self, row: bytes, event_id: bytes, source: tuple[int, int]) -> None:
        """The next event."""
        self.digests.append(_hash(self.digest(len(self.digests)).to_bytes(8, "little"), row))
        self.rows += row
        self.event_ids.append(event_id)
        self.sources.append(source)

    def digest(self, seq_no: int) -> int:
        """digest(seq_no); the origin at 0."""
        return self.origin if seq_no == 0 else self.digests[seq_no - 1]

    def row_bytes(self, first_seq_no: int, seq_no: int) -> bytes:
        """Canonical bytes of the events first_seq_no .. seq_no."""
        return bytes(self.rows[(first_seq_no - 1) * _ROW_BYTES : seq_no * _ROW_BYTES])


@dataclass
class Histories:
    """All users' histories, and what the rebuild counted."""

    generation: int
    #: Newest accepted ids of a user among which a repeated one is a duplicate.
    dedupe_window: int
    #: Newest events that the job keeps: those that a seed finds there.
    kept_events: int = 14_000
    epochs: dict[tuple[int, int], Epoch] = field(default_factory=dict)
    current: dict[int, int] = field(default_factory=dict)
    records: int = 0
    accepted: int = 0
    #: Records whose event, or part of a seed, had come before.
    duplicates: int = 0
    refused: int = 0
    erased: int = 0
    #: Histories that were put in front, and the records that brought them.
    seeded: int = 0
    seed_parts: int = 0
    #: Accepted with an event time below an earlier one of the same user.
    late: int = 0
    #: user -> the epochs that an erasure opened.
    erasures: dict[int, list[int]] = field(default_factory=dict)
    _window: dict[int, deque[bytes]] = field(default_factory=dict)
    _newest_event_time: dict[int, int] = field(default_factory=dict)
    #: Parts of seeds under way, and the last seed that was done with, per user.
    _seeds: dict[int, list[BehaviourEvent]] = field(default_factory=dict)
    _seed_done: dict[int, bytes] = field(default_factory=dict)

    def add_all(self, records: Iterable[Landed], refused: Collection[tuple[str, int, int]], findings: Findings) -> None:
        """Add the records of the events topic, each partition in order; `refused` are dead letters' coordinates."""
        for record in records:
            self.add(record, refused, findings)

    def add(self, record: Landed, refused: Collection[tuple[str, int, int]], findings: Findings) -> None:
        """Add one record; see `add_all`."""
        if record.key == b"heartbeat":
            return
        self.records += 1
        if (record.topic, record.partition, record.offset) in refused:
            self.refused += 1
            return
        event = findings.decode(BehaviourEvent, record)
        if event is None:
            return
        user = event.user_id
        window = self._window.setdefault(user, deque(maxlen=self.dedupe_window))
        if event.WhichOneof("body") == "seed":
            self._add_seed(event)
            return
        if event.event_id in window:
            self.duplicates += 1
            return
        epoch_number = self.current.setdefault(user, self.generation << 32)
        if event.WhichOneof("body") == "erase":
            self.erased += 1
            window.clear()
            window.append(event.event_id)
            if pending := self._seeds.pop(user, None):
                self._seed_done[user] = pending[0].event_id
            self._newest_event_time.pop(user, None)
            self.current[user] = epoch_number + 1
            self._epoch(user)
            self.erasures.setdefault(user, []).append(self.current[user])
            return
        window.append(event.event_id)
        epoch = self._epoch(user)
        epoch.append(encode_row(event), event.event_id, (record.partition, record.offset))
        self.accepted += 1
        newest = self._newest_event_time.get(user, event.event_time_ms)
        self.late += event.event_time_ms < newest
        self._newest_event_time[user] = max(newest, event.event_time_ms)

    def erased_below(self, user: int, epoch: int) -> int:
        """The newest epoch up to `epoch` that an erasure opened, 0 when none did."""
        return max((opened for opened in self.erasures.get(user, ()) if opened <= epoch), default=0)

    def _add_seed(self, event: BehaviourEvent) -> None:
        """Parts in order; the last puts all of them before what the newest epoch kept, in an epoch of its own."""
        user, seed = event.user_id, event.seed
        pending = self._seeds.get(user, [])
        repeated = bool(pending) and pending[0].event_id == event.event_id and seed.part < len(pending)
        if event.event_id == self._seed_done.get(user) or repeated:
            self.duplicates += 1
            return
        self.seed_parts += 1
        pending = [*pending, event] if seed.part else [event]
        if seed.part + 1 < seed.parts:
            self._seeds[user] = pending
            return
        self._seeds.pop(user, None)
        self._seed_done[user] = event.event_id
        self.seeded += 1
        before = self._epoch(user) if user in self.current else Epoch(origin=0)
        self.current[user] = self.current.setdefault(user, self.generation << 32) + 1
        epoch, window = self._epoch(user), self._window[user]
        ids = [seed.event_ids[at : at + 16] for at in range(0, len(seed.event_ids), 16)]
        rows = b"".join(unpack_history(part.seed.packed).tobytes() for part in pending)
        named = [_FORGOTTEN] * (len(rows) // _ROW_BYTES - len(ids)) + ids
        entries = [(rows[at * _ROW_BYTES : (at + 1) * _ROW_BYTES], name, (-1, -1)) for at, name in enumerate(named)]
        # The window's newest ids are those of the newest events; what is left of it, an erase's, belongs to none.
        kept, old = len(before.digests), list(window)
        older, newest = old[: max(0, len(old) - kept)], old[max(0, len(old) - kept) :]
        for at in range(max(0, kept - self.kept_events), kept):
            event_id = before.event_ids[at] if at >= kept - len(newest) else _FORGOTTEN
            if event_id not in ids:
                entries.append((before.row_bytes(at + 1, at + 1), event_id, before.sources[at]))
        for row, event_id, source in entries:
            epoch.append(row, event_id, source)
        epoch.seeded = len(entries)
        window.clear()
        window.extend(event_id for event_id in older if event_id not in ids)
        window.extend(event_id for _, event_id, _ in entries)
        self._newest_event_time[user] = max(_ROW.unpack(row)[0] for row, _, _ in entries)

    def find(self, user: int, epoch: int) -> Epoch | None:
        """The user's history in `epoch`, None when there never was one."""
        return self.epochs.get((user, epoch))

    def _epoch(self, user: int) -> Epoch:
        number = self.current[user]
        known = self.epochs.get((user, number))
        if known is None:
            known = Epoch(origin=origin_of(user, number))
            self.epochs[user, number] = known
        return known
