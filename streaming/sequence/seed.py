"""SEED: a history from before this system goes in front of what is there, under a higher epoch. Pure.

Parts wait in the user's state until the last one has come. What a user's state knows of seeds and erasures stands
beside the chunks, under numbers below zero, so that users who never had any pay nothing: -1 the notes, -2 - k part k.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.digest import chain_digests, generation_of, make_epoch, origin_digest, resets_of
from schemas.history import History, empty_history
from schemas.packing import unpack_history
from schemas.reasons import Reason, Rejected
from schemas.v1.behaviour_pb2 import BehaviourEvent
from streaming.sequence.state import (
    EVENT_ID_BYTES,
    NO_EVENT_ID,
    Header,
    Kept,
    StateError,
    UserState,
    pack_chunk,
    read_kept,
    split_ids,
)

NOTES_VERSION: Final = 1
_SLOT: Final = -1
_PACKED_NOTES: Final = struct.Struct("<B16s16sIIIQ")


def _part(number: int) -> int:
    return -2 - number


@dataclass(slots=True)
class ResetNotes:
    """Which seed is done with, how far the one has come that is under way, and what was erased."""

    #: Applied, or overtaken by an erase: its records are duplicates for ever. Zeros: none.
    done_id: bytes = NO_EVENT_ID
    #: Of the seed whose parts are waiting. Zeros: none.
    pending_id: bytes = NO_EVENT_ID
    #: That seed's parts, those of them that are here, and their events.
    parts: int = 0
    arrived: int = 0
    events: int = 0
    #: Epochs below this one were erased on the user's request; 0: none.
    erased_below: int = 0

    @classmethod
    def read(cls, state: UserState) -> ResetNotes:
        """The user's. Raises StateError: another layout version, or damaged."""
        (packed,) = state.get_chunks(range(_SLOT, _SLOT + 1))
        if packed is None:
            return cls()
        if len(packed) != _PACKED_NOTES.size or packed[0] != NOTES_VERSION:
            raise StateError(f"reset notes of {len(packed)} bytes, layout {packed[:1].hex()}: not readable here")
        return cls(*_PACKED_NOTES.unpack(packed)[1:])

    def write(self, state: UserState) -> None:
        """Keep it."""
        packed = _PACKED_NOTES.pack(
            NOTES_VERSION, self.done_id, self.pending_id, self.parts, self.arrived, self.events, self.erased_below
        )
        state.put_chunk(_SLOT, packed)

    def take_parts(self, state: UserState) -> Iterator[History]:
        """The waiting parts' events, in order; they leave the state. Raises StateError: one is missing or damaged."""
        for number in range(self.arrived):
            (packed,) = state.get_chunks(range(_part(number), _part(number) + 1))
            if packed is None:
                raise StateError(f"part {number} of seed {self.pending_id.hex()} is missing")
            state.remove_chunk(_part(number))
            yield unpack_history(packed)

    def drop_parts(self, state: UserState) -> None:
        """Forget the seed that is under way."""
        for number in range(self.arrived):
            state.remove_chunk(_part(number))
        self.pending_id, self.parts, self.arrived, self.events = NO_EVENT_ID, 0, 0, 0


def note_erasure(state: UserState, epoch: int) -> None:
    """An erase opens `epoch`: a seed under way will never be applied, and its redelivery brings nothing back."""
    notes = ResetNotes.read(state)
    if notes.pending_id != NO_EVENT_ID:
        notes.done_id = notes.pending_id
        notes.drop_parts(state)
    notes.erased_below = epoch
    notes.write(state)


def take_seed(
    state: UserState, header: Header, event: BehaviourEvent, rows: History, max_events: int
) -> list[History] | None:
    """One record of a seed, with its events, against the user's state.

    Returns:
        the parts' events once all are here, [] when more are due, None when the record came before.

    Raises:
        Rejected: seed_superseded, seed_out_of_order, or malformed_seed for more than `max_events` in all or fewer than
            ids.
        StateError: see `ResetNotes`.
    """
    seed, notes = event.seed, ResetNotes.read(state)
    if event.event_id == notes.done_id:
        return None
    if seed.rebuild and resets_of(header.epoch):
        raise Rejected(
            Reason.SEED_SUPERSEDED,
            f"user {event.user_id} was erased or seeded in generation {generation_of(header.epoch)}",
        )
    pending = event.event_id == notes.pending_id
    if pending and seed.part < notes.arrived:
        return None
    begins = not pending and seed.part == 0
    if not begins and (not pending or (seed.part, seed.parts) != (notes.arrived, notes.parts)):
        due = f"part {notes.arrived} of {notes.parts} of seed {notes.pending_id.hex()}" if notes.parts else "part 0"
        raise Rejected(
            Reason.SEED_OUT_OF_ORDER,
            f"part {seed.part} of {seed.parts} of seed {event.event_id.hex()} where {due} is due",
        )
    events = len(rows) + (0 if begins else notes.events)
    if events > max_events or len(seed.event_ids) > events * EVENT_ID_BYTES:
        raise Rejected(
            Reason.MALFORMED_SEED,
            f"seed {event.event_id.hex()} has {events} events and {len(seed.event_ids) // EVENT_ID_BYTES} ids of them;"
            f" it may have {max_events} events, and no more ids than these",
        )
    # Nothing above this line has touched the state.
    if begins:
        notes.drop_parts(state)
        notes.pending_id, notes.parts = event.event_id, seed.parts
    if seed.part + 1 < seed.parts:
        state.put_chunk(_part(seed.part), seed.packed)
        notes.arrived, notes.events = notes.arrived + 1, events
        notes.write(state)
        return []
    histories = [*notes.take_parts(state), rows]
    ResetNotes(done_id=event.event_id, erased_below=notes.erased_below).write(state)
    return histories


def _join_ids(
    header: Header, rows: History, seeded_events: int, seeded_ids: bytes, window_events: int
) -> tuple[NDArray[np.bool_], bytes]:
    """Which of the state's newest events [n] the seed does not have, and the remembered ids with the seed in front.

    The newest remembered ids are those of the newest events, one each; an event whose id is not known has zeros. Older
    ones, an erase's, stand before them.
    """
    ids, known = split_ids(seeded_ids), set(split_ids(seeded_ids))
    remembered = split_ids(bytes(header.event_ids))
    aligned = remembered[-len(rows) :] if len(rows) else []
    older = remembered[: len(remembered) - len(aligned)]
    keep = np.ones(len(rows), dtype=np.bool_)
    keep[len(rows) - len(aligned) :] = [event_id not in known for event_id in aligned]
    unnamed = [NO_EVENT_ID] * min(seeded_events - len(ids), window_events)
    forgotten = [NO_EVENT_ID] * min(len(rows) - len(aligned), window_events)
    joined = [*(event_id for event_id in older if event_id not in known), *unnamed, *ids, *forgotten]
    joined += [event_id for event_id in aligned if event_id not in known]
    return keep, b"".join(joined[-window_events:])


def seeded_header(
    state: UserState,
    header: Header,
    user_id: int,
    seeded: list[History],
    seeded_ids: bytes,
    *,
    kept_events: int,
    window_events: int,
    chunk_events: int,
    chunk_version: int,
) -> tuple[Header, Kept]:
    """The state rewritten with the seed in front: numbered from 1 in the user's next epoch. And what it keeps.

    Raises:
        StateError: what was there cannot be read.
    """
    older = read_kept(state, header, kept_events).events if header.seq_no else empty_history()
    keep, ids = _join_ids(header, older, sum(map(len, seeded)), seeded_ids, window_events)
    rows = np.concatenate([*seeded, older[keep]]) if len(older) or len(seeded) > 1 else seeded[0]
    for number in range(header.first_chunk, header.seq_no // header.chunk_events):
        state.remove_chunk(number)
    epoch = make_epoch(generation_of(header.epoch), resets_of(header.epoch) + 1)
    fresh = Header.open(user_id, epoch, chunk_events, ids, header.timer_ms)
    encoded = rows.tobytes()
    row_bytes = rows.itemsize
    digests = chain_digests(origin_digest(user_id, epoch), encoded)
    full = len(rows) // chunk_events
    fresh.first_chunk = max(0, min((len(rows) - kept_events) // chunk_events, full))
    for number in range(fresh.first_chunk, full):
        begin, end = number * chunk_events, (number + 1) * chunk_events
        chunk = pack_chunk(digests[begin], encoded[begin * row_bytes : end * row_bytes], chunk_version)
        state.put_chunk(number, chunk)
    tail_at = full * chunk_events
    fresh.seq_no, fresh.digest = len(rows), digests[-1]
    fresh.tail, fresh.tail_digest = bytearray(encoded[tail_at * row_bytes :]), digests[tail_at]
    fresh.max_event_time_ms = int(rows["event_time_ms"].max())
    first_seq_no = fresh.first_kept(kept_events)
    return fresh, Kept(first_seq_no, digests[first_seq_no - 1], rows[first_seq_no - 1 :])
