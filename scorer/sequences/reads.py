"""What a store answers: the history to serve, what came after, what it was then, and what a stamp names. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.digest import DIGEST_VERSION, chain_digests, origin_digest
from schemas.history import EVENT_BYTES, History, decode_events, empty_history
from schemas.v1.ranking_pb2 import Stamp
from scorer.sequences.layout import Header, chunk_numbers, chunk_of
from scorer.sequences.pending import Rows


@dataclass(frozen=True, slots=True)
class ServedHistory:
    """A contiguous run of one user's events, and the digest that names everything up to its end."""

    #: [n] of HISTORY_DTYPE, arrival order, read-only: the events first_seq_no .. seq_no.
    rows: History
    #: 0 for a user never heard of.
    epoch: int
    #: seq_no + 1 without events.
    first_seq_no: int
    seq_no: int
    #: digest(seq_no).
    digest: int
    stale: bool

    def stamp(self, model_version: str) -> Stamp:
        """What a response says about the history it used."""
        return Stamp(
            epoch=self.epoch,
            first_seq_no=self.first_seq_no,
            seq_no=self.seq_no,
            length=len(self.rows),
            digest_version=DIGEST_VERSION,
            digest=self.digest,
            model_version=model_version,
        )


class Resolution(StrEnum):
    """What became of a stamp. Only `OK` has rows."""

    OK = "ok"
    #: Its events have left the kept ones.
    EVICTED = "evicted"
    #: Its epoch is over.
    EPOCH_GONE = "epoch_gone"
    #: Its epoch ended by the user's request to be forgotten.
    ERASED = "erased"
    #: The store holds other events under these numbers, or the stamp contradicts itself.
    MISMATCH = "mismatch"
    #: The store has not reached it: follow the topics further, then ask again.
    AHEAD = "ahead"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A stamp's resolution; rows [length] when it is `OK`, else None."""

    resolution: Resolution
    rows: History | None = None
    #: For people.
    detail: str = ""


class NotKeptError(LookupError):
    """An as-of position that the store cannot answer; the message names user, position and what is kept."""


def _run(rows: Rows, user_id: int, header: Header, first_seq_no: int, seq_no: int) -> bytes:
    """Canonical bytes of kept events."""
    chunks = rows.chunks(user_id, header.epoch, chunk_numbers(first_seq_no, seq_no))
    if not chunks:
        return b""
    joined = chunks[0].rows if len(chunks) == 1 else b"".join([chunk.rows for chunk in chunks])
    skip = (first_seq_no - chunks[0].first_seq_no) * EVENT_BYTES
    return joined[skip : skip + (seq_no - first_seq_no + 1) * EVENT_BYTES]


def _digest_at(rows: Rows, user_id: int, header: Header, seq_no: int) -> int:
    """digest(seq_no), recomputed from the base of the chunk that holds it."""
    if seq_no < header.first_seq_no:
        return header.base_digest
    number = chunk_of(seq_no)
    (chunk,) = rows.chunks(user_id, header.epoch, range(number, number + 1))
    return chain_digests(chunk.digest_before, chunk.rows[: (seq_no - chunk.first_seq_no + 1) * EVENT_BYTES])[-1]


def read_history(rows: Rows, user_id: int, max_events: int) -> ServedHistory:
    """The newest `max_events` events; a user without history has an empty one, stamped with the origin digest."""
    header = rows.header(user_id) or Header.empty(user_id)
    first = max(header.first_seq_no, header.seq_no - max_events + 1)
    events = decode_events(_run(rows, user_id, header, first, header.seq_no))
    return ServedHistory(events, header.epoch, first, header.seq_no, header.digest, header.stale)


def read_tail(rows: Rows, user_id: int, after_seq_no: int) -> ServedHistory:
    """The kept events after `after_seq_no`; none when that is at or beyond the head. A caller that holds events up to
    there checks that `first_seq_no` continues them, that the epoch is the same, and that the digests chain."""
    header = rows.header(user_id) or Header.empty(user_id)
    first = max(header.first_seq_no, min(after_seq_no, header.seq_no) + 1)
    events = decode_events(_run(rows, user_id, header, first, header.seq_no))
    return ServedHistory(events, header.epoch, first, header.seq_no, header.digest, header.stale)


def read_as_of(rows: Rows, user_id: int, seq_no: int, max_events: int) -> ServedHistory:
    """What `read_history` answered when `seq_no` was the head.

    Raises:
        NotKeptError: `seq_no` is not among the kept events.
    """
    header = rows.header(user_id) or Header.empty(user_id)
    if not header.first_seq_no - 1 <= seq_no <= header.seq_no:
        raise NotKeptError(
            f"user {user_id}: events {header.first_seq_no}..{header.seq_no} of epoch {header.epoch} are kept,"
            f" not {seq_no}"
        )
    first = max(header.first_seq_no, seq_no - max_events + 1)
    events = decode_events(_run(rows, user_id, header, first, seq_no))
    return ServedHistory(events, header.epoch, first, seq_no, _digest_at(rows, user_id, header, seq_no), header.stale)


def resolve_stamp(rows: Rows, user_id: int, stamp: Stamp) -> Resolved:
    """The very rows that a response was scored with, or why they cannot be had."""
    if stamp.digest_version != DIGEST_VERSION:
        return Resolved(Resolution.MISMATCH, detail=f"digest version {stamp.digest_version}, known is {DIGEST_VERSION}")
    if stamp.length != stamp.seq_no - stamp.first_seq_no + 1:
        return Resolved(
            Resolution.MISMATCH,
            detail=f"length {stamp.length} of events {stamp.first_seq_no}..{stamp.seq_no}",
        )
    header = rows.header(user_id) or Header.empty(user_id)
    if stamp.epoch < header.erased_below:
        return Resolved(Resolution.ERASED, detail=f"erased at epoch {header.erased_below}")
    if stamp.seq_no == 0:
        # The empty history of any epoch needs nothing kept.
        if stamp.digest == origin_digest(user_id, stamp.epoch):
            return Resolved(Resolution.OK, empty_history())
        return Resolved(Resolution.MISMATCH, detail="the digest is not the origin's")
    if stamp.epoch < header.epoch:
        return Resolved(Resolution.EPOCH_GONE, detail=f"epoch {stamp.epoch} was followed by {header.epoch}")
    if (stamp.epoch, stamp.seq_no) > (header.epoch, header.seq_no):
        return Resolved(
            Resolution.AHEAD,
            detail=f"the store is at epoch {header.epoch} seq_no {header.seq_no}; follow the topics to their end",
        )
    if stamp.first_seq_no < header.first_seq_no:
        return Resolved(Resolution.EVICTED, detail=f"events from {header.first_seq_no} on are kept")
    found = _digest_at(rows, user_id, header, stamp.seq_no)
    if found != stamp.digest:
        return Resolved(
            Resolution.MISMATCH, detail=f"digest at {stamp.seq_no} is {found:016x}, not {stamp.digest:016x}"
        )
    return Resolved(Resolution.OK, decode_events(_run(rows, user_id, header, stamp.first_seq_no, stamp.seq_no)))
