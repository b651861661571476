"""The sequence job's transition: one accepted event against one user's state. Pure but for the state handed in.

Numbers, digests and bytes of updates depend on the records alone. Processing time, passed in, decides only when a
snapshot repeats what the updates already said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from schemas import SCHEMA_VERSION
from schemas.digest import DIGEST_VERSION, extend_digest, generation_of, make_epoch, resets_of
from schemas.history import History
from schemas.packing import PACKING_VERSION, pack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.sequence_pb2 import SequenceSnapshot
from streaming.sequence.accept import Accepted, accepted
from streaming.sequence.headers import Headers
from streaming.sequence.jitter import share_of
from streaming.sequence.pace import Pacer
from streaming.sequence.seed import ResetNotes, note_erasure, seeded_header, take_seed
from streaming.sequence.state import Header, Kept, UserState, pack_chunk, read_kept
from streaming.sequence.update import encode_update


@dataclass(frozen=True, kw_only=True)
class SequenceSettings:
    """The rules of the sequences. They change only across stop-with-savepoint."""

    #: High bits of every new user's epoch. Raise it when the job starts without its old state.
    generation: int
    #: Newest events that serve.
    capacity: int
    #: Events kept beyond them, so that yesterday's stamp still resolves.
    as_of_events: int
    #: Accepted events whose ids are remembered.
    dedupe_window_events: int
    #: A snapshot after so many accepted events.
    snapshot_every_events: int
    #: Or when the first event that none covers is so old, ms of processing time.
    snapshot_max_age_ms: int
    #: Each user's own age is shorter by up to this share, so that users who came together do not fire together.
    snapshot_jitter: float
    #: Events in a chunk of the state.
    chunk_events: int
    #: Of one SEED, all parts together.
    max_seed_events: int = 100_000
    #: So many snapshots for age a second; no fewer than the users whom one step has, per `snapshot_max_age_ms`.
    snapshot_max_per_second: float = 1e6
    #: Layouts of `schemas.packing` for new chunks and for snapshots.
    chunk_version: int = PACKING_VERSION
    packing_version: int = PACKING_VERSION

    @property
    def kept_events(self) -> int:
        """Events that state and snapshots hold, at most."""
        return self.capacity + self.as_of_events


class Outcome(NamedTuple):
    """What one step did and wants."""

    duplicate: bool = False
    erased: bool = False
    #: A seed's last part has come: the history begins with it now.
    seeded: bool = False
    #: A part of a seed that waits for the others.
    seed_part: bool = False
    #: How much older the event is than the newest that this user's sequence holds, ms; 0: it is not.
    late_ms: int = 0
    #: Chunks that left the state, and their events.
    evicted_chunks: int = 0
    evicted_events: int = 0
    #: A serialised `SequenceUpdate`.
    update: bytes | None = None
    snapshot: SequenceSnapshot | None = None
    #: How long the first event waited that only this snapshot covers, ms of processing time.
    snapshot_age_ms: int = 0
    #: Register a processing-time timer for this user.
    timer_ms: int | None = None


class SequenceStep:
    """The transitions, under one set of rules.

    Args:
        cached_users: so many users' headers are kept decoded and written later, see `Headers`; with 0, they are
            written after every step. What a chunk holds is always written at once. All steps over a user's state must
            be this object's while it lives, as a key is one subtask's.
    """

    def __init__(self, settings: SequenceSettings, cached_users: int = 0) -> None:
        self._settings = settings
        self._kept_events = settings.kept_events
        self.headers = Headers(cached_users, settings.dedupe_window_events)
        self._pacer = Pacer(settings.snapshot_max_per_second)

    def on_event(
        self, state: UserState, event: BehaviourEvent, source_partition: int, source_offset: int, now_ms: int
    ) -> Outcome:
        """Takes an event that `accept_event` returned.

        Args:
            state: the event's user's. It is held on to while the user's header is cached.
            now_ms: processing time.

        Raises:
            Rejected: a seed that does not fit what is there.
            StateError: the state is not what this code wrote.
        """
        taken = self.take(state, accepted(event), source_partition, source_offset, now_ms)
        return Outcome(update=taken) if isinstance(taken, bytes) else taken

    def take(
        self, state: UserState, event: Accepted, source_partition: int, source_offset: int, now_ms: int
    ) -> Outcome | bytes:
        """`on_event` for those in a hurry: where there is an update and nothing else, its bytes alone."""
        message, user_id, event_id, event_time_ms, content = event
        header = self.headers.load(state, user_id)
        if header is None:
            header = Header.open(user_id, make_epoch(self._settings.generation, 0), self._settings.chunk_events)
        # A seed's id is remembered apart: for ever, and not once for each of its parts.
        if content is not None and not isinstance(content, bytes):
            return self._seed(state, header, message, content)
        if header.remembers(event_id):
            return Outcome(duplicate=True)
        if content is None:
            return self._erase(state, header, message)

        # The way of nearly every record: written out, for it is most of what the job costs.
        rules = self._settings
        prev_digest = header.digest
        header.digest = digest = extend_digest(prev_digest, content)
        header.seq_no = seq_no = header.seq_no + 1
        header.remember(state, event_id, rules.dedupe_window_events)
        late_ms = header.max_event_time_ms - event_time_ms
        if late_ms <= 0:
            header.max_event_time_ms = event_time_ms

        header.tail += content
        if seq_no % header.chunk_events == 0:
            number = seq_no // header.chunk_events - 1
            state.put_chunk(number, pack_chunk(header.tail_digest, bytes(header.tail), rules.chunk_version))
            header.tail, header.tail_digest = bytearray(), digest
        evicted = 0
        if (seq_no - self._kept_events) // header.chunk_events > header.first_chunk:
            evicted = self._evict(state, header)

        snapshot, timer_ms, age_ms = None, None, 0
        # A new user's epoch opens with a snapshot: it replaces one of an older generation. (An erase has sent its own.)
        opens = seq_no == 1 and not resets_of(header.epoch)
        if opens or seq_no - header.covered_seq_no >= rules.snapshot_every_events:
            age_ms = self._uncovered_ms(header, user_id, now_ms)
            snapshot = self._snapshot(state, header, user_id)
        elif not header.deadline_ms:
            header.deadline_ms = now_ms + self.snapshot_age_ms(user_id)
            if not 0 < header.timer_ms <= header.deadline_ms:
                timer_ms = header.timer_ms = header.deadline_ms

        self.headers.put(state, user_id, header)
        update = encode_update(
            header.update_head or header.make_update_head(user_id),
            seq_no,
            prev_digest,
            digest,
            event_id,
            event_time_ms,
            message.interaction.SerializeToString(),
            source_partition,
            source_offset,
        )
        if late_ms <= 0 and not evicted and snapshot is None and timer_ms is None:
            return update
        return Outcome(
            late_ms=max(0, late_ms),
            evicted_chunks=evicted,
            evicted_events=evicted * header.chunk_events,
            update=update,
            snapshot=snapshot,
            snapshot_age_ms=age_ms,
            timer_ms=timer_ms,
        )

    def on_timer(self, state: UserState, user_id: int, timer_ms: int, now_ms: int) -> Outcome:
        """A timer that an earlier outcome asked for has fired.

        Args:
            timer_ms: when it was to fire.
            now_ms: processing time, later when the job stood still.

        Raises:
            StateError: the state is not what this code wrote.
        """
        header = self.headers.load(state, user_id)
        if header is None or timer_ms != header.timer_ms:
            return Outcome()
        promised_ms = self._pacer.forget(user_id)
        # One timer per user: it is not moved when a counted snapshot comes first, but looks here whether it is time.
        header.timer_ms = 0
        outcome = Outcome()
        if header.deadline_ms > timer_ms:
            header.timer_ms = header.deadline_ms
            outcome = Outcome(timer_ms=header.timer_ms)
        elif header.deadline_ms and promised_ms is None and (at_ms := self._pacer.time_of(user_id, now_ms)) > now_ms:
            header.timer_ms = at_ms
            outcome = Outcome(timer_ms=at_ms)
        elif header.deadline_ms:
            age_ms = self._uncovered_ms(header, user_id, now_ms)
            outcome = Outcome(snapshot=self._snapshot(state, header, user_id), snapshot_age_ms=age_ms)
        # At once: with the timer gone from the state, a header there that still waits for it would wait for ever.
        self.headers.put_at_once(state, user_id, header)
        return outcome

    def header_bytes(self, state: UserState, user_id: int) -> int:
        """What the user's header takes in the state, chunks not included; 0 for a user never seen."""
        header = self.headers.load(state, user_id)
        return 0 if header is None else header.packed_bytes

    def _evict(self, state: UserState, header: Header) -> int:
        """Removes the chunks that lie wholly before the kept events: at most one per append, unless the rules
        changed."""
        wanted = (header.seq_no - self._settings.kept_events) // header.chunk_events
        removed = range(header.first_chunk, min(wanted, header.seq_no // header.chunk_events))
        for number in removed:
            state.remove_chunk(number)
        header.first_chunk += len(removed)
        return len(removed)

    def _erase(self, state: UserState, header: Header, event: BehaviourEvent) -> Outcome:
        held = range(header.first_chunk, header.seq_no // header.chunk_events)
        for number in held:
            state.remove_chunk(number)
        header.drop_ids(state)
        epoch = make_epoch(generation_of(header.epoch), resets_of(header.epoch) + 1)
        note_erasure(state, epoch)
        # Of the ids only the erase's own stays: its redelivery must not forget what the user did since.
        fresh = Header.open(event.user_id, epoch, self._settings.chunk_events, event.event_id, header.timer_ms)
        snapshot = self._snapshot(state, fresh, event.user_id)
        snapshot.erased = True
        self.headers.put(state, event.user_id, fresh)
        held_events = header.seq_no - header.first_chunk * header.chunk_events
        return Outcome(erased=True, evicted_chunks=len(held), evicted_events=held_events, snapshot=snapshot)

    def _seed(self, state: UserState, header: Header, event: BehaviourEvent, rows: History) -> Outcome:
        rules = self._settings
        seeded = take_seed(state, header, event, rows, rules.max_seed_events)
        if seeded is None:
            return Outcome(duplicate=True)
        if not seeded:
            return Outcome(seed_part=True)
        fresh, kept = seeded_header(
            state,
            header,
            event.user_id,
            seeded,
            event.seed.event_ids,
            kept_events=rules.kept_events,
            window_events=rules.dedupe_window_events,
            chunk_events=rules.chunk_events,
            chunk_version=rules.chunk_version,
        )
        # What the record brought is all that there is: then it is packed already.
        whole = kept.first_seq_no == 1 and fresh.seq_no == len(rows) and event.seed.packed[0] == rules.packing_version
        snapshot = self._snapshot(
            state, fresh, event.user_id, kept._replace(packed=event.seed.packed) if whole else kept
        )
        header.drop_ids(state)
        self.headers.put(state, event.user_id, fresh)
        return Outcome(seeded=True, snapshot=snapshot)

    def _snapshot(self, state: UserState, header: Header, user_id: int, kept: Kept | None = None) -> SequenceSnapshot:
        header.covered_seq_no, header.deadline_ms = header.seq_no, 0
        first_seq_no, base_digest, events, packed = kept or read_kept(state, header, self._settings.kept_events)
        return SequenceSnapshot(
            schema_version=SCHEMA_VERSION,
            user_id=user_id,
            epoch=header.epoch,
            first_seq_no=first_seq_no,
            seq_no=header.seq_no,
            digest_version=DIGEST_VERSION,
            base_digest=base_digest,
            digest=header.digest,
            packed=packed or pack_history(events, self._settings.packing_version),
            # Who was never reset has no notes to read.
            erased_below=ResetNotes.read(state).erased_below if resets_of(header.epoch) else 0,
        )

    def _uncovered_ms(self, header: Header, user_id: int, now_ms: int) -> int:
        """Processing time since the first event that no snapshot covers; 0 when there is none."""
        if not header.deadline_ms:
            return 0
        return max(0, now_ms - header.deadline_ms + self.snapshot_age_ms(user_id))

    def snapshot_age_ms(self, user_id: int) -> int:
        """How old this user's first uncovered event may grow, ms; a pure function of the user."""
        return int(self._settings.snapshot_max_age_ms * (1 - self._settings.snapshot_jitter * share_of(user_id)))
