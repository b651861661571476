"""One record of the sequence job against one user's stored history. Pure: the rows are handed in.

Records are ordered by (epoch, seq_no), never by offset. What is stored is always one contiguous run of one epoch whose
digests chain; a record that does not continue it is not applied, and says so in its verdict.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from enum import StrEnum
from typing import Final, NamedTuple

from schemas.digest import chain_digests, extend_digest, origin_digest
from schemas.history import EVENT_BYTES, encode_event
from schemas.packing import unpack_history
from schemas.reasons import Reason, Rejected
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from scorer.sequences.layout import CHUNK_EVENTS, Chunk, Header, chunk_numbers, chunk_of
from scorer.sequences.pending import MutableRows, Rows

#: Chunks whose digests are remembered, 2 KB each: old deltas come again in order, and each needs one digest of a chunk.
_REMEMBERED_CHUNKS: Final = 4_096


class Verdict(StrEnum):
    """What became of a record."""

    #: The history grew, or was replaced by one that reaches further.
    APPLIED = "applied"
    #: A new epoch opened with it.
    OPENED = "opened"
    #: At or below the head, with the same digest; or older than what is kept.
    KNOWN = "known"
    #: Of an epoch that is over.
    SUPERSEDED = "superseded"
    #: Something between the head and this delta is missing: not applied, the user is stale.
    GAP = "gap"
    #: Another digest than the stored chain's: not applied, the user is stale, an alarm.
    FORK = "fork"
    #: A snapshot that reaches further replaced a chain that is not its own.
    REPAIRED = "repaired"


class ChunkDigests:
    """digest(n) of stored events; remembers the chunks it computed last."""

    def __init__(self, remembered: int = _REMEMBERED_CHUNKS) -> None:
        self._remembered = remembered
        #: user -> (epoch, chunk number, first_seq_no, digests after each event)
        self._chunks: OrderedDict[int, tuple[int, int, int, array[int]]] = OrderedDict()

    def at(self, rows: Rows, user_id: int, header: Header, seq_no: int) -> int:
        """digest(seq_no) for first_seq_no - 1 <= seq_no <= head.

        Raises:
            LayoutError: the store is damaged.
        """
        if seq_no == header.seq_no:
            return header.digest
        if seq_no < header.first_seq_no:
            assert seq_no == header.first_seq_no - 1, "the caller asks for kept events only"
            return header.base_digest
        number = chunk_of(seq_no)
        known = self._chunks.get(user_id)
        if known is not None and known[:2] == (header.epoch, number) and 0 <= seq_no - known[2] < len(known[3]):
            self._chunks.move_to_end(user_id)
            return known[3][seq_no - known[2]]
        (chunk,) = rows.chunks(user_id, header.epoch, range(number, number + 1))
        digests = array("Q", chain_digests(chunk.digest_before, chunk.rows)[1:])
        self._chunks[user_id] = header.epoch, number, chunk.first_seq_no, digests
        if len(self._chunks) > self._remembered:
            self._chunks.popitem(last=False)
        return digests[seq_no - chunk.first_seq_no]

    def forget(self, user_id: int) -> None:
        """The user's rows were replaced."""
        self._chunks.pop(user_id, None)


class Transition:
    """The rules, under one setting of how much is kept."""

    def __init__(self, kept_events: int, digests: ChunkDigests) -> None:
        """`kept_events`: newest events of a user to keep; whole chunks beyond them go."""
        self._kept_events = kept_events
        self._digests = digests

    def on_update(self, rows: MutableRows, update: SequenceUpdate) -> Verdict:
        """Takes a delta that `parse_update` returned.

        Raises:
            Rejected: digest_mismatch: the delta contradicts itself.
            LayoutError: the store is damaged.
        """
        user_id, seq_no = update.user_id, update.seq_no
        header = rows.header(user_id)
        if header is not None and update.epoch < header.epoch:
            return Verdict.SUPERSEDED
        if header is None or update.epoch > header.epoch:
            if seq_no != 1 or update.prev_digest != origin_digest(user_id, update.epoch):
                return self._miss(rows, user_id, header or Header.empty(user_id), update)
            encoded = _encode_verified(update)
            self._append(rows, user_id, self._open(rows, user_id, header, update.epoch), encoded, update.digest)
            return Verdict.OPENED
        if seq_no > header.seq_no + 1:
            return self._miss(rows, user_id, header, update)
        if seq_no < header.first_seq_no:
            return Verdict.KNOWN
        if seq_no <= header.seq_no:
            if self._digests.at(rows, user_id, header, seq_no) == update.digest:
                return Verdict.KNOWN
            return self._fork(rows, user_id, header, seq_no)
        if update.prev_digest != header.digest:
            return self._fork(rows, user_id, header, seq_no)
        self._append(rows, user_id, header, _encode_verified(update), update.digest)
        return Verdict.APPLIED

    def on_snapshot(self, rows: MutableRows, snapshot: SequenceSnapshot) -> Verdict:
        """Takes a snapshot that `parse_snapshot` returned.

        Raises:
            Rejected: malformed_value or digest_mismatch: its events are not what its numbers and digests say.
            LayoutError: the store is damaged.
        """
        verdict = self._take_snapshot(rows, snapshot)
        header = rows.header(snapshot.user_id)
        assert header is not None, "a snapshot leaves a header"
        erased_below = max(snapshot.erased_below, snapshot.epoch if snapshot.erased else 0)
        if header.erased_below < erased_below:
            # Also when the epoch was opened by its first delta, which cannot say that it follows an erasure.
            header.erased_below = erased_below
            rows.put_header(snapshot.user_id, header)
        return verdict

    def _take_snapshot(self, rows: MutableRows, snapshot: SequenceSnapshot) -> Verdict:
        user_id, seq_no = snapshot.user_id, snapshot.seq_no
        header = rows.header(user_id)
        if header is None or snapshot.epoch > header.epoch:
            events, digests = unpack_verified(snapshot)
            fresh = self._open(rows, user_id, header, snapshot.epoch)
            self._replace(rows, user_id, fresh, snapshot.first_seq_no, events, digests)
            return Verdict.OPENED
        if snapshot.epoch < header.epoch:
            return Verdict.SUPERSEDED
        if seq_no > header.seq_no:
            return self._reach(rows, user_id, header, snapshot)
        if seq_no < header.first_seq_no - 1:
            return Verdict.KNOWN
        if self._digests.at(rows, user_id, header, seq_no) != snapshot.digest:
            return self._fork(rows, user_id, header, seq_no)
        if header.fork_seq_no and seq_no >= header.fork_seq_no:
            # The job has confirmed the chain here, beyond the point of doubt.
            header.fork_seq_no = 0
            rows.put_header(user_id, header)
        return Verdict.KNOWN

    def _open(self, rows: MutableRows, user_id: int, old: Header | None, epoch: int) -> Header:
        """Drops all older epochs. Also without an erasure: the record that would say `erased` may be compacted away,
        and what a user asked to forget must not outlive it."""
        fresh = Header.empty(user_id, epoch)
        if old is not None:
            rows.remove_chunks(user_id, old.epoch, chunk_numbers(old.first_seq_no, old.seq_no))
            fresh.erased_below = old.erased_below
            fresh.note(old.known_epoch, old.known_seq_no)
        self._digests.forget(user_id)
        return fresh

    def _append(self, rows: MutableRows, user_id: int, header: Header, encoded: bytes, digest: int) -> None:
        seq_no = header.seq_no + 1
        number = chunk_of(seq_no)
        if header.seq_no >= header.first_seq_no and chunk_of(header.seq_no) == number:
            (chunk,) = rows.chunks(user_id, header.epoch, range(number, number + 1))
            chunk.rows += encoded
        else:
            chunk = Chunk(seq_no, header.digest, encoded)
        rows.put_chunk(user_id, header.epoch, number, chunk)
        header.seq_no, header.digest = seq_no, digest
        header.note(header.epoch, header.seq_no)
        self._evict(rows, user_id, header)
        rows.put_header(user_id, header)

    def _evict(self, rows: MutableRows, user_id: int, header: Header) -> None:
        """Removes the chunks that lie wholly before the kept events."""
        keep_from = header.seq_no - self._kept_events + 1
        numbers = chunk_numbers(header.first_seq_no, header.seq_no)
        first = max(0, keep_from - 1) // CHUNK_EVENTS
        if not numbers or first <= numbers.start:
            return
        (chunk,) = rows.chunks(user_id, header.epoch, range(first, first + 1))
        rows.remove_chunks(user_id, header.epoch, range(numbers.start, first))
        header.first_seq_no, header.base_digest = chunk.first_seq_no, chunk.digest_before

    def _miss(self, rows: MutableRows, user_id: int, header: Header, update: SequenceUpdate) -> Verdict:
        header.note(update.epoch, update.seq_no)
        rows.put_header(user_id, header)
        return Verdict.GAP

    def _fork(self, rows: MutableRows, user_id: int, header: Header, seq_no: int) -> Verdict:
        header.fork_seq_no = max(header.fork_seq_no, seq_no)
        rows.put_header(user_id, header)
        return Verdict.FORK

    def _reach(self, rows: MutableRows, user_id: int, header: Header, snapshot: SequenceSnapshot) -> Verdict:
        """A snapshot beyond the head, of the head's epoch. Where it continues the chain here, only the new events are
        hashed and written: it costs what is new, not what it holds."""
        if snapshot.first_seq_no <= header.seq_no + 1:
            events = _unpack(snapshot)[(header.seq_no + 1 - snapshot.first_seq_no) * EVENT_BYTES :]
            digests = chain_digests(header.digest, events)
            if digests[-1] == snapshot.digest:
                self._extend(rows, user_id, header, events, digests)
                return Verdict.APPLIED
            verdict = Verdict.REPAIRED
        else:
            verdict = Verdict.APPLIED
        events, digests = unpack_verified(snapshot)
        rows.remove_chunks(user_id, header.epoch, chunk_numbers(header.first_seq_no, header.seq_no))
        self._digests.forget(user_id)
        self._replace(rows, user_id, header, snapshot.first_seq_no, events, digests)
        return verdict

    def _replace(
        self, rows: MutableRows, user_id: int, header: Header, first_seq_no: int, events: bytes, digests: list[int]
    ) -> None:
        header.first_seq_no, header.seq_no = first_seq_no, first_seq_no - 1
        header.base_digest = header.digest = digests[0]
        self._extend(rows, user_id, header, events, digests)

    def _extend(self, rows: MutableRows, user_id: int, header: Header, events: bytes, digests: list[int]) -> None:
        """Appends what a verified snapshot says; digests as `chain_digests` gives them, from the head's on."""
        begin = header.seq_no + 1
        seq_no = header.seq_no + len(digests) - 1
        for number in chunk_numbers(begin, seq_no):
            first = max(begin, number * CHUNK_EVENTS + 1)
            last = min(seq_no, (number + 1) * CHUNK_EVENTS)
            run = events[(first - begin) * EVENT_BYTES : (last - begin + 1) * EVENT_BYTES]
            if first == begin and begin > header.first_seq_no and chunk_of(begin - 1) == number:
                (chunk,) = rows.chunks(user_id, header.epoch, range(number, number + 1))
                chunk.rows += run
            else:
                chunk = Chunk(first, digests[first - begin], run)
            rows.put_chunk(user_id, header.epoch, number, chunk)
        header.seq_no, header.digest, header.fork_seq_no = seq_no, digests[-1], 0
        header.note(header.epoch, seq_no)
        self._evict(rows, user_id, header)
        rows.put_header(user_id, header)


def _encode_verified(update: SequenceUpdate) -> bytes:
    encoded = encode_event(update.event_time_ms, update.interaction)
    if extend_digest(update.prev_digest, encoded) != update.digest:
        raise Rejected(
            Reason.DIGEST_MISMATCH,
            f"epoch {update.epoch} seq_no {update.seq_no}: the event does not give digest {update.digest:016x}",
        )
    return encoded


class VerifiedEvents(NamedTuple):
    """A snapshot's canonical event bytes, and the digests before and after each."""

    events: bytes
    digests: list[int]


def _unpack(snapshot: SequenceSnapshot) -> bytes:
    name = f"epoch {snapshot.epoch} seq_no {snapshot.first_seq_no}..{snapshot.seq_no}"
    try:
        history = unpack_history(snapshot.packed)
    except ValueError as error:
        raise Rejected(Reason.MALFORMED_VALUE, f"{name}: {error}") from error
    if len(history) != snapshot.seq_no - snapshot.first_seq_no + 1:
        raise Rejected(Reason.MALFORMED_VALUE, f"{name}: {len(history)} events are packed")
    return history.tobytes()


def unpack_verified(snapshot: SequenceSnapshot) -> VerifiedEvents:
    """The events, once their digests chain from `base_digest` to `digest`.

    Raises:
        Rejected: malformed_value, digest_mismatch.
    """
    events = _unpack(snapshot)
    digests = chain_digests(snapshot.base_digest, events)
    origin = origin_digest(snapshot.user_id, snapshot.epoch)
    if digests[-1] != snapshot.digest or (snapshot.first_seq_no == 1 and snapshot.base_digest != origin):
        raise Rejected(
            Reason.DIGEST_MISMATCH,
            f"epoch {snapshot.epoch} seq_no {snapshot.first_seq_no}..{snapshot.seq_no}: the events give"
            f" {digests[-1]:016x} from base {snapshot.base_digest:016x}, the snapshot says {snapshot.digest:016x}",
        )
    return VerifiedEvents(events, digests)
