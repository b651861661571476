"""One user's history in the job's state: a small header, and chunks of packed events under their chunk number.

Events are numbered from 1; chunk k holds events k*C + 1 .. (k+1)*C. Full chunks are packed once and never touched again
until they are evicted whole; the events after the last full chunk wait in the header as raw rows. The ids by which
duplicates are found lie in blocks of their own, for the header is written again and again: only the ids since the last
full block are in it. So an append costs the same for the first and the ten-thousandth event. Every value but the blocks
of raw ids begins with its layout's version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from schemas.digest import extend_digest_over, origin_digest
from schemas.history import EVENT_BYTES, History, decode_events
from schemas.packing import PACKING_VERSIONS, pack_history, unpack_histories, unpack_history
from streaming.sequence.update import update_head

#: The header's layout. (A chunk begins with the version of its packing.)
HEADER_VERSION: Final = 1
EVENT_ID_BYTES: Final = 16
#: Ids that leave the header together.
IDS_PER_BLOCK: Final = 64
#: No event has it.
NO_EVENT_ID: Final = bytes(EVENT_ID_BYTES)
#: Below every accepted event time.
NO_TIME_MS: Final = -(1 << 63)

_HEADER: Final = struct.Struct("<BHHIIQQQQQQqqq")
_CHUNK: Final = struct.Struct("<BQ")


def split_ids(joined: bytes) -> list[bytes]:
    """Concatenated event ids, one by one."""
    return [joined[at : at + EVENT_ID_BYTES] for at in range(0, len(joined), EVENT_ID_BYTES)]


class StateError(Exception):
    """State that this code did not write: another layout, or damaged. Restore an older savepoint or the older code."""


class UserState(Protocol):
    """One user's part of the keyed state. The same step runs over Flink's state and over a dict."""

    def get_header(self) -> bytes | None:
        """None for a user never seen."""

    def put_header(self, header: bytes) -> None: ...

    def get_chunks(self, numbers: range) -> Iterable[bytes | None]:
        """The chunks of these numbers, in order; None where there is none."""

    def put_chunk(self, number: int, chunk: bytes) -> None: ...

    def remove_chunk(self, number: int) -> None: ...

    def get_ids(self, number: int) -> bytes | None:
        """A block of event ids."""

    def put_ids(self, number: int, ids: bytes) -> None: ...

    def remove_ids(self, number: int) -> None: ...


@dataclass(slots=True)
class Header:
    """Everything of a user but full chunks and full blocks of ids. Packed: 85 bytes, 16 per id of no block yet, 41 per
    event of the tail."""

    epoch: int
    #: Of the newest event; 0 before the first.
    seq_no: int
    #: digest(seq_no).
    digest: int
    #: The user's own C: a change of configuration concerns new epochs.
    chunk_events: int
    #: Lowest chunk still held.
    first_chunk: int
    #: Digest before the tail's first event.
    tail_digest: int
    #: Newest event that a snapshot has covered.
    covered_seq_no: int
    #: Processing time at which a snapshot for the first event that none covers falls due; 0: none is uncovered.
    deadline_ms: int
    #: When the one registered timer of this user fires; 0: none is registered.
    timer_ms: int
    #: Newest event time so far.
    max_event_time_ms: int
    #: The last accepted event ids, oldest first, 16 bytes each.
    event_ids: bytearray
    #: So many of them, the newest, are in no block yet.
    open_ids: int
    #: Blocks of ids written so far, and the lowest that is still held.
    id_blocks: int
    first_id_block: int
    #: Events after the last full chunk, 41 bytes each.
    tail: bytearray
    #: What the epoch's updates begin with, once it was asked for; no part of the state.
    update_head: bytes = b""

    @classmethod
    def open(cls, user_id: int, epoch: int, chunk_events: int, event_ids: bytes = b"", timer_ms: int = 0) -> Header:
        """An epoch's header before its first event."""
        digest = origin_digest(user_id, epoch)
        open_ids = len(event_ids) // EVENT_ID_BYTES
        ids, tail = bytearray(event_ids), bytearray()
        return cls(epoch, 0, digest, chunk_events, 0, digest, 0, 0, timer_ms, NO_TIME_MS, ids, open_ids, 0, 0, tail)

    @classmethod
    def load(cls, state: UserState, window_events: int) -> Header | None:
        """The user's header with the last `window_events` ids; None for a user never seen.

        Raises:
            StateError: another layout version, or damaged.
        """
        packed = state.get_header()
        if packed is None:
            return None
        header = cls.unpack(packed)
        number = header.id_blocks
        while len(header.event_ids) < window_events * EVENT_ID_BYTES and number > header.first_id_block:
            number -= 1
            block = state.get_ids(number)
            if block is None:
                raise StateError(f"block {number} of the event ids is missing")
            header.event_ids[:0] = block
        del header.event_ids[: -window_events * EVENT_ID_BYTES]
        header.open_ids = min(header.open_ids, len(header.event_ids) // EVENT_ID_BYTES)
        return header

    @property
    def packed_bytes(self) -> int:
        """How long `pack` is."""
        return _HEADER.size + self.open_ids * EVENT_ID_BYTES + len(self.tail)

    def pack(self) -> bytes:
        """Bytes for the state."""
        return (
            _HEADER.pack(
                HEADER_VERSION,
                self.chunk_events,
                self.open_ids,
                self.id_blocks,
                self.first_id_block,
                self.epoch,
                self.seq_no,
                self.digest,
                self.first_chunk,
                self.tail_digest,
                self.covered_seq_no,
                self.deadline_ms,
                self.timer_ms,
                self.max_event_time_ms,
            )
            + self.event_ids[len(self.event_ids) - self.open_ids * EVENT_ID_BYTES :]
            + self.tail
        )

    @classmethod
    def unpack(cls, packed: bytes) -> Header:
        """The inverse of `pack`, but for the ids in blocks, which `load` adds.

        Raises:
            StateError: another layout version, or another length than the counts say.
        """
        if len(packed) < _HEADER.size or packed[0] != HEADER_VERSION:
            raise StateError(f"header of {len(packed)} bytes, layout {packed[:1].hex()}: not readable here")
        (_, chunk_events, ids, id_blocks, first_id_block, epoch, seq_no, digest, *rest) = _HEADER.unpack_from(packed)
        first_chunk, tail_digest, covered, deadline, timer, newest = rest
        tail_at = _HEADER.size + ids * EVENT_ID_BYTES
        tail_events = seq_no % chunk_events if chunk_events else -1
        if len(packed) != tail_at + tail_events * EVENT_BYTES:
            raise StateError(f"header of epoch {epoch} at event {seq_no} is damaged: {len(packed)} bytes")
        return cls(
            epoch,
            seq_no,
            digest,
            chunk_events,
            first_chunk,
            tail_digest,
            covered,
            deadline,
            timer,
            newest,
            bytearray(packed[_HEADER.size : tail_at]),
            ids,
            id_blocks,
            first_id_block,
            bytearray(packed[tail_at:]),
        )

    def remembers(self, event_id: bytes) -> bool:
        """Is this one of the last accepted event ids?"""
        ids = self.event_ids
        # Twice over half is thrice as fast as once over all: `find` takes another way for long ones.
        half = len(ids) // (2 * EVENT_ID_BYTES) * EVENT_ID_BYTES
        if ids.find(event_id, half) < 0 and ids.find(event_id, 0, half + EVENT_ID_BYTES - 1) < 0:
            return False
        # A hit across two neighbouring ids is none.
        return any(ids[at : at + EVENT_ID_BYTES] == event_id for at in range(0, len(ids), EVENT_ID_BYTES))

    def remember(self, state: UserState, event_id: bytes, window_events: int) -> None:
        """Adds an id and forgets those beyond the window."""
        ids = self.event_ids
        ids += event_id
        if len(ids) > window_events * EVENT_ID_BYTES:
            del ids[: -window_events * EVENT_ID_BYTES]
        self.open_ids += 1
        if self.open_ids >= IDS_PER_BLOCK:
            self._close_block(state, window_events)
        elif self.open_ids > window_events:
            self.open_ids = window_events

    def make_update_head(self, user_id: int) -> bytes:
        """What the updates of this epoch begin with; kept."""
        self.update_head = update_head(user_id, self.epoch)
        return self.update_head

    def _close_block(self, state: UserState, window_events: int) -> None:
        state.put_ids(self.id_blocks, bytes(self.event_ids[-self.open_ids * EVENT_ID_BYTES :]))
        self.id_blocks, self.open_ids = self.id_blocks + 1, 0
        # Every block has at least IDS_PER_BLOCK ids.
        needed = -(-window_events // IDS_PER_BLOCK)
        while self.id_blocks - self.first_id_block > needed:
            state.remove_ids(self.first_id_block)
            self.first_id_block += 1

    def drop_ids(self, state: UserState) -> None:
        """Removes all blocks of ids: this header's epoch has ended."""
        for number in range(self.first_id_block, self.id_blocks):
            state.remove_ids(number)

    def first_kept(self, kept_events: int) -> int:
        """Lowest event number within the newest `kept_events` that the state still holds."""
        return max(1, self.seq_no - kept_events + 1, self.first_chunk * self.chunk_events + 1)


def pack_chunk(digest_before: int, events: bytes, version: int) -> bytes:
    """A full chunk: the digest before its first event, and its events in this layout of `schemas.packing`. The digest
    lets eviction keep base digests known without recomputing the chain."""
    return _CHUNK.pack(version, digest_before) + pack_history(decode_events(events), version)


def _open_chunk(number: int, chunk: bytes | None) -> tuple[int, bytes]:
    """(digest before its first event, its events packed).

    Raises:
        StateError: the chunk is missing or of another layout.
    """
    if chunk is None:
        raise StateError(f"chunk {number} is missing")
    if len(chunk) < _CHUNK.size or chunk[0] not in PACKING_VERSIONS:
        raise StateError(f"chunk {number} of {len(chunk)} bytes, layout {chunk[:1].hex()}: not readable here")
    return _CHUNK.unpack_from(chunk)[1], chunk[_CHUNK.size :]


def _unpack_chunks(numbers: range, packed: list[bytes]) -> History:
    """The events of chunks of these numbers. Raises StateError: one is damaged."""
    try:
        return unpack_histories(packed)
    except ValueError:
        # One by one, to say which.
        for number, each in zip(numbers, packed, strict=True):
            try:
                unpack_history(each)
            except ValueError as error:
                raise StateError(f"chunk {number}: {error}") from error
        raise


class Kept(NamedTuple):
    """The newest events that a user's state keeps: first_seq_no, the digest before it, and they, to the last one."""

    first_seq_no: int
    base_digest: int
    events: History
    #: They, as a snapshot has them, where somebody has packed them before; else empty.
    packed: bytes = b""


def read_kept(state: UserState, header: Header, kept_events: int) -> Kept:
    """The newest `kept_events`, or as many of them as there are.

    Raises:
        StateError: a chunk is missing, of another layout or damaged.
    """
    first_seq_no = header.first_kept(kept_events)
    per_chunk = header.chunk_events
    numbers = range((first_seq_no - 1) // per_chunk, header.seq_no // per_chunk)
    chunks = [_open_chunk(*chunk) for chunk in zip(numbers, state.get_chunks(numbers), strict=True)]
    full = _unpack_chunks(numbers, [packed for _, packed in chunks])
    events = np.concatenate([full, decode_events(bytes(header.tail))])
    skipped = first_seq_no - 1 - numbers.start * per_chunk
    base_digest = extend_digest_over(chunks[0][0] if chunks else header.tail_digest, events[:skipped].tobytes())
    return Kept(first_seq_no, base_digest, events[skipped:])
