"""Every user's history, rebuilt from `behaviour.events.v1` alone. Pure.

Own numbering, dedupe, encoding and digest, after the contracts' text: nothing of the sequence job or of the store is
called; of the contracts' code, only the unpacking that golden vectors pin. A record that the job refused is known by
its dead letter; all others are accepted or duplicates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from google.protobuf.message import DecodeError

from infra.verify import wire
from infra.verify.anchors import Anchor
from infra.verify.epochs import CHAIN, LONG_AGO, ROW, Epoch, Named, User, encode_row
from infra.verify.findings import Findings
from infra.verify.records import Batches, Place
from infra.verify.seeds import SeedOutcome, take_seed
from infra.verify.wire import (
    BEFORE_DIGEST,
    BEFORE_EVENT_ID,
    BEFORE_INTERACTION,
    BEFORE_PREVIOUS,
    BEFORE_TIME,
    CONTENT_AT,
    EVENT_TIME,
    INTERACTION,
    LENGTH_AT,
    TAG_AT,
)
from schemas.topics import EVENTS, HEARTBEAT_KEY
from schemas.v1.behaviour_pb2 import BehaviourEvent


class Histories:
    """All users' histories, and what the rebuild counted."""

    def __init__(
        self,
        generation: int,
        dedupe_window: int,
        kept_events: int = 14_000,
        *,
        keep_named: bool = False,
        first_offset: int = 0,
        updates_from: int = 0,
        anchors: Mapping[bytes, Anchor] | None = None,
    ) -> None:
        """
        Args:
            dedupe_window: newest accepted ids of a user among which a repeated one is a duplicate.
            kept_events: newest events that the job keeps: those that a seed finds there.
            keep_named: keep the feedback that names a request.
            first_offset: of the events that are there; those before are gone.
            updates_from: of the event that the first update in the topic is of; those of earlier events are gone.
            anchors: see `anchors`; None: the users' first events are there.
        """
        self.generation, self.dedupe_window, self.kept_events = generation, dedupe_window, kept_events
        self._keep_named, self._anchors = keep_named, anchors
        self.first_offset, self.updates_from = first_offset, updates_from
        #: By the records' key.
        self.users: dict[bytes, User] = {}
        self.records = 0
        self.accepted = 0
        #: Records whose event, or part of a seed, had come before.
        self.duplicates = 0
        self.refused = 0
        self.erased = 0
        #: Histories that were put in front, and the records that brought them.
        self.seeded = 0
        self.seed_parts = 0
        #: Accepted with an event time below an earlier one of the same user.
        self.late = 0
        #: Of users whose first events the log no longer holds: whether they were numbered cannot be known.
        self.undecided = 0
        #: partition -> the newest heartbeat's offset and value.
        self.heartbeats: dict[int, tuple[int, bytes]] = {}

    @property
    def anchored(self) -> bool:
        """Are there events that are gone?"""
        return self._anchors is not None

    def find(self, user: int, epoch: int) -> Epoch | None:
        """The user's history in `epoch`, None when there never was one."""
        known = self.users.get(b"%d" % user)
        return None if known is None else known.epochs.get(epoch)

    def add(self, partition: int, batches: Batches, refused: Collection[int], findings: Findings) -> None:
        """Add the records of a partition of the events topic, in their order.

        Args:
            refused: offsets of the dead letters.
        """
        # The way of every event: what it looks up is bound before, and nothing is called that can be written out.
        users, parse, pack, copy, from_bytes = (
            self.users,
            BehaviourEvent.FromString,
            ROW.pack,
            CHAIN.copy,
            int.from_bytes,
        )
        anchored = self.anchored
        small, low_offset = wire.SMALL, wire.LOW_OFFSET
        keep_named, window_events = self._keep_named, self.dedupe_window
        source, group, high_offset, join = wire.source(partition), -1, b"", b"".join
        for batch in batches:
            records, accepted, late = len(batch), 0, 0
            for offset, time_ms, key, value in batch:
                if refused and offset in refused:
                    self.refused += 1
                    continue
                user = users.get(key)  # type: ignore[arg-type]
                if user is None and key == HEARTBEAT_KEY:
                    records -= 1
                    self.heartbeats[partition] = (offset, value)
                    continue
                try:
                    event = parse(value)
                except DecodeError as error:
                    findings.undecodable("BehaviourEvent", Place(EVENTS.name, partition, offset), error)
                    continue
                user_id = event.user_id
                if user is None or user.user_id != user_id:
                    user = self._open(key, user_id, Place(EVENTS.name, partition, offset), findings)
                event_id, it = event.event_id, event.interaction
                item_id = it.item_id
                if not item_id and not event.HasField("interaction"):
                    self._reset(user, event, Place(EVENTS.name, partition, offset), findings)
                    continue
                window = user.window
                remembered = len(window)
                window[event_id] = None
                if len(window) == remembered:
                    self.duplicates += 1
                    self._keep_feedback(user, event, offset, time_ms)
                    continue
                if remembered == window_events:
                    del window[next(iter(window))]
                if anchored and not self._is_numbered(user, offset, remembered):
                    self._leave(user, event, offset, time_ms)
                    continue
                epoch = user.current
                if epoch is None:
                    epoch = user.open(self.generation << 32)
                event_time_ms, group_id, surface = event.event_time_ms, it.group_id, it.surface
                watch_ms, duration_ms = it.watch_ms, it.duration_ms
                # What is not 0 is there: to ask is slow, and most are not 0.
                row = pack(
                    event_time_ms,
                    item_id,
                    group_id,
                    it.action,
                    surface,
                    watch_ms,
                    duration_ms,
                    (1 if watch_ms or it.HasField("watch_ms") else 0)
                    | (2 if duration_ms or it.HasField("duration_ms") else 0)
                    | (4 if surface or it.HasField("surface") else 0)
                    | (8 if group_id or it.HasField("group_id") else 0),
                )
                digests = epoch.digests
                previous = (digests[-1] if digests else epoch.origin).to_bytes(8, "little")
                link = copy()
                link.update(previous + row)
                digest = link.digest()
                digests.append(from_bytes(digest, "little"))
                # See `wire`: the update that is right has these bytes, whatever is in the event besides.
                rest = value[user.skip :]
                end = CONTENT_AT + rest[LENGTH_AT] if len(rest) > CONTENT_AT else 0
                if end and rest[0] == EVENT_TIME and rest[TAG_AT] == INTERACTION:
                    if offset >> 7 != group:
                        group = offset >> 7
                        high_offset = wire.varint(group)
                    seq_no = epoch.before + len(digests)
                    epoch.wanted.append(
                        hash(
                            join(
                                (
                                    epoch.update_head,
                                    small[seq_no] if seq_no < 16384 else wire.varint(seq_no),
                                    BEFORE_PREVIOUS,
                                    previous,
                                    BEFORE_DIGEST,
                                    digest,
                                    BEFORE_EVENT_ID,
                                    event_id,
                                    BEFORE_TIME,
                                    rest[1:TAG_AT],
                                    BEFORE_INTERACTION,
                                    rest[LENGTH_AT:end],
                                    source,
                                    low_offset[offset & 127],
                                    high_offset,
                                )
                            )
                        )
                    )
                else:
                    epoch.wanted.append(0)
                epoch.rows += row
                epoch.event_ids += event_id
                epoch.offsets.append(offset)
                user.times.append(time_ms)
                accepted += 1
                if event_time_ms < user.newest_ms:
                    late += 1
                else:
                    user.newest_ms = event_time_ms
                if keep_named and len(rest) != end and event.HasField("request"):
                    user.named.append(_named(event, row, offset, time_ms))
            self.records += records
            self.accepted += accepted
            self.late += late

    def _open(self, key: bytes | None, user_id: int, place: Place, findings: Findings) -> User:
        findings.expect(
            key == b"%d" % user_id, "event_key", place, user_id, field="key", found=key, wanted=b"%d" % user_id
        )
        user = self.users.setdefault(b"%d" % user_id, User(user_id, place.partition))
        if self.anchored and user.current is None:
            user.whole = False
        return user

    def _is_numbered(self, user: User, offset: int, remembered: int) -> bool:
        """Of a log without its beginning: did the event surely get a number, and which ones went before?"""
        assert self._anchors is not None
        anchor = self._anchors.get(b"%d" % user.user_id)
        if user.lost or anchor is None or offset < anchor.offset:
            return False
        if user.current is None:
            if anchor.seq_no > 1:
                user.open(anchor.epoch, anchor.seq_no - 1, anchor.prev_digest)
            else:
                user.open(anchor.epoch)
            user.whole = anchor.is_first
        # A whole window is known, or its updates tell which events are not duplicates.
        user.whole = user.whole or remembered == self.dedupe_window
        return user.whole or offset in anchor.numbered

    def _leave(self, user: User, event: BehaviourEvent, offset: int, time_ms: int) -> None:
        """An event that cannot be decided; as feedback it counts."""
        self.undecided += 1
        # Its id may stand elsewhere among those that the job remembers, or nowhere.
        del user.window[event.event_id]
        self._keep_feedback(user, event, offset, time_ms)

    def _keep_feedback(self, user: User, event: BehaviourEvent, offset: int, time_ms: int) -> None:
        """Of an event without a number."""
        if not self._keep_named:
            return
        if event.HasField("request"):
            user.named.append(_named(event, encode_row(event), offset, time_ms))
        else:
            user.unnumbered.append((time_ms, event.event_id, encode_row(event), offset))

    def _reset(self, user: User, event: BehaviourEvent, place: Place, findings: Findings) -> None:
        """An ERASE, a SEED, or what a dead letter should have refused."""
        body = event.WhichOneof("body")
        if self.anchored and not (body == "erase" and user.whole and not user.lost):
            # Perhaps it has come before, or other parts of it, or what it goes in front of. After that an epoch has
            # begun or has not: the histories of this user are not followed any further.
            self.undecided += 1
            user.lost = user.current is not None
            return
        if body == "seed":
            outcome = take_seed(user, event, self.generation, self.kept_events, self.dedupe_window)
            self.duplicates += outcome is SeedOutcome.DUPLICATE
            self.seed_parts += outcome is not SeedOutcome.DUPLICATE
            self.seeded += outcome is SeedOutcome.SEEDED
        elif event.event_id in user.window:
            self.duplicates += 1
        elif findings.expect(body == "erase", "event_without_letter", place, event.user_id, "an event without a body"):
            self.erased += 1
            user.window = {event.event_id: None}
            if user.seeds:
                user.seed_done = user.seeds[0].event_id
                user.seeds = ()
            user.newest_ms = LONG_AGO
            number = self.generation << 32 if user.current is None else user.current.number
            user.erasures += (user.open(number + 1).number,)


def _named(event: BehaviourEvent, row: bytes, offset: int, time_ms: int) -> Named:
    reference = event.request
    return Named(
        time_ms, event.event_id, row, offset, reference.request_id, reference.response_id, reference.request_time_ms
    )
