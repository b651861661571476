"""One user's histories, and the contracts' encoding and digest of them, written once more. Pure.

A history takes 89 bytes an event, about 120 more as long as its id may be repeated, and each user 2 KB. What most users
have none of is a tuple or a frozen set here, for all of them share the empty one.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from infra.verify import wire
from schemas.v1.behaviour_pb2 import BehaviourEvent

_DIGEST_VERSION: Final = 1
_PERSON: Final = b"longrank.seq.v1"
ROW: Final = struct.Struct("<qQQIIIIB")
ROW_BYTES: Final = 41
ID_BYTES: Final = 16
ROW_FIELDS: Final = (
    "event_time_ms",
    "item_id",
    "group_id",
    "action",
    "surface",
    "watch_ms",
    "duration_ms",
    "present fields",
)
#: Before every event time.
LONG_AGO: Final = -(1 << 62)
#: Copying a keyed state costs less than half of making one.
CHAIN: Final = hashlib.blake2b(digest_size=8, person=_PERSON)


def encode_row(event: BehaviourEvent) -> bytes:
    """The canonical 41 bytes of an interaction."""
    it = event.interaction
    optional = ("watch_ms", 1), ("duration_ms", 2), ("surface", 4), ("group_id", 8)
    present = sum(bit for name, bit in optional if it.HasField(name))
    return ROW.pack(
        event.event_time_ms, it.item_id, it.group_id, it.action, it.surface, it.watch_ms, it.duration_ms, present
    )


def origin_of(user: int, epoch: int) -> int:
    """digest(0)."""
    origin = struct.pack("<BQQ", _DIGEST_VERSION, user, epoch)
    return int.from_bytes(hashlib.blake2b(origin, digest_size=8, person=_PERSON).digest(), "little")


def chain(digest: int, row: bytes) -> int:
    """digest(n) of digest(n - 1) and the n-th event's row."""
    link = CHAIN.copy()
    link.update(digest.to_bytes(8, "little") + row)
    return int.from_bytes(link.digest(), "little")


class Named(NamedTuple):
    """Feedback that names a request; times in ms."""

    published_ms: int
    event_id: bytes
    #: The canonical encoding.
    row: bytes
    offset: int
    request_id: str
    response_id: str
    request_time_ms: int


class Epoch:
    """One user's history within one epoch: the events first .. last, `seq_no` n at n - first of every column."""

    __slots__ = (
        "before",
        "digests",
        "event_ids",
        "head",
        "missing",
        "number",
        "offsets",
        "origin",
        "rows",
        "seeded",
        "snapshots",
        "times_at",
        "update_head",
        "wanted",
    )

    def __init__(self, number: int, origin: int, before: int = 0, times_at: int = 0) -> None:
        """
        Args:
            origin: digest(before).
            before: the seq_no before the first; not 0 where the log no longer has the user's first events.
            times_at: where in `User.times` the events after the seeded ones begin.
        """
        self.number, self.origin, self.before, self.times_at = number, origin, before, times_at
        self.rows = bytearray()
        self.digests = array("Q")
        #: Hashes of the bytes of the updates that must come, see `wire`; 0: they are not known.
        self.wanted = array("q")
        self.update_head = b""
        self.event_ids = bytearray()
        #: Of each event in the events topic, -1: a seed's.
        self.offsets = array("q")
        #: seq_no of the last event that the epoch opened with: its first snapshot says them, no update does.
        self.seeded = before
        #: The last event whose update has come, and those before it whose update has not.
        self.head = before
        self.missing: frozenset[int] = frozenset()
        #: (first, last) of the snapshots that said the right thing.
        self.snapshots: tuple[tuple[int, int], ...] = ()

    @property
    def last(self) -> int:
        """seq_no of the newest event."""
        return self.before + len(self.digests)

    def append(self, row: bytes, event_id: bytes, offset: int) -> None:
        """The next event."""
        self.digests.append(chain(self.digests[-1] if self.digests else self.origin, row))
        self.rows += row
        self.event_ids += event_id
        self.offsets.append(offset)
        self.wanted.append(0)

    def digest(self, seq_no: int) -> int:
        """digest(seq_no), `before` <= seq_no <= `last`."""
        return self.origin if seq_no == self.before else self.digests[seq_no - self.before - 1]

    def row_bytes(self, first_seq_no: int, seq_no: int) -> bytes:
        """Canonical bytes of the events first_seq_no .. seq_no."""
        before = self.before
        return bytes(self.rows[(first_seq_no - 1 - before) * ROW_BYTES : (seq_no - before) * ROW_BYTES])

    def event_id(self, seq_no: int) -> bytes:
        """Of the event with this number."""
        at = (seq_no - self.before - 1) * ID_BYTES
        return bytes(self.event_ids[at : at + ID_BYTES])

    def offset(self, seq_no: int) -> int:
        """Of the event's record, -1: a seed's."""
        return self.offsets[seq_no - self.before - 1]

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """(seq_no, event_id) of the events that updates tell."""
        return ((n, self.event_id(n)) for n in range(self.seeded + 1, self.last + 1))

    def published(self, first_seq_no: int, seq_no: int) -> bool:
        """Updates and snapshots of the topics say the events first_seq_no .. seq_no, and right."""
        spans = list(self.snapshots)
        begin = self.seeded + 1
        for hole in sorted(self.missing):
            spans.append((begin, hole - 1))
            begin = hole + 1
        at = first_seq_no
        for first, last in sorted([*spans, (begin, self.head)]):
            if first <= at <= last:
                at = last + 1
        return at > seq_no


class User:
    """One user: the epochs, and what acceptance depends on."""

    __slots__ = (
        "current",
        "epochs",
        "erasures",
        "lost",
        "named",
        "newest_ms",
        "partition",
        "seed_done",
        "seeds",
        "skip",
        "times",
        "unnumbered",
        "user_id",
        "whole",
        "window",
    )

    def __init__(self, user_id: int, partition: int) -> None:
        self.user_id, self.partition = user_id, partition
        #: Bytes of the user's events up to the end of their event_id.
        self.skip = len(wire.event_head(user_id)) + ID_BYTES
        self.epochs: dict[int, Epoch] = {}
        self.current: Epoch | None = None
        #: The newest accepted ids, oldest first: a set that knows its order.
        #: (An int stands for an id that nobody knows any more.)
        self.window: dict[bytes | int, None] = {}
        self.newest_ms = LONG_AGO
        #: Epochs that an erasure opened.
        self.erasures: tuple[int, ...] = ()
        #: Parts of the seed under way, and the last seed that was done with.
        self.seeds: tuple[BehaviourEvent, ...] = ()
        self.seed_done = b""
        self.named: list[Named] = []
        #: Feedback without a reference, of events that came again or of which it cannot be known whether they were
        #: numbered: published_ms, event_id, row, offset.
        self.unnumbered: list[tuple[int, bytes, bytes, int]] = []
        #: The histories go on in a way that cannot be known: a SEED or an ERASE came to what is not known whole.
        self.lost = False
        #: All ids are known that make an event a duplicate.
        self.whole = True
        #: Timestamp of every accepted event's record, all epochs in one.
        self.times = array("q")

    def open(self, number: int, before: int = 0, digest: int | None = None) -> Epoch:
        """A new epoch, empty; or one of which the events up to `before` are gone, whose digest is known."""
        origin = origin_of(self.user_id, number) if digest is None else digest
        self.current = self.epochs[number] = Epoch(number, origin, before, times_at=len(self.times))
        self.current.update_head = wire.update_head(self.user_id, number)
        return self.current

    def erased_below(self, epoch: int) -> int:
        """The newest epoch up to `epoch` that an erasure opened, 0 when none did."""
        return max((opened for opened in self.erasures if opened <= epoch), default=0)
