"""How a history lies in the store: one header per user, chunks of raw rows under their number. Pure bytes.

Chunk k holds the events k * CHUNK_EVENTS + 1 .. (k + 1) * CHUNK_EVENTS of an epoch, those of them that are kept. Every
value begins with its layout's version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from schemas.digest import origin_digest
from schemas.history import EVENT_BYTES

#: What is written and read. Another number of events per chunk is another layout.
LAYOUT_VERSION: Final = 1
CHUNK_EVENTS: Final = 256

_HEADER: Final = struct.Struct("<BQQQQQQQQQ")
_CHUNK: Final = struct.Struct("<BQQ")
_USER_KEY: Final = struct.Struct(">Q")
_CHUNK_KEY: Final = struct.Struct(">QQI")


class LayoutError(Exception):
    """Bytes in the store that this code did not write: a newer layout, or damage. Delete the store; it rebuilds."""


def user_key_bytes(user_id: int) -> bytes:
    """The key of a header, big-endian: users in numeric order."""
    return _USER_KEY.pack(user_id)


def user_of_key(key: bytes) -> int:
    """The inverse of `user_key_bytes`."""
    return int.from_bytes(key, "big")


def chunk_key_bytes(user_id: int, epoch: int, number: int) -> bytes:
    """The key of a chunk, big-endian: a user's chunks lie together, in order."""
    return _CHUNK_KEY.pack(user_id, epoch, number)


def chunk_of(seq_no: int) -> int:
    """The number of the chunk that holds event `seq_no`."""
    return (seq_no - 1) // CHUNK_EVENTS


def chunk_numbers(first_seq_no: int, seq_no: int) -> range:
    """The chunks that hold the events first_seq_no .. seq_no; none when there is no event."""
    return range(chunk_of(first_seq_no), chunk_of(seq_no) + 1) if first_seq_no <= seq_no else range(0)


@dataclass(slots=True)
class Header:
    """What the store knows of a user but the events. The events are first_seq_no .. seq_no of `epoch`."""

    #: 0 before any epoch has opened.
    epoch: int
    #: seq_no + 1 when there are no events.
    first_seq_no: int
    seq_no: int
    #: digest(first_seq_no - 1) and digest(seq_no).
    base_digest: int
    digest: int
    #: The newest event that any record has spoken of. Beyond the head: something is missing in between.
    known_epoch: int
    known_seq_no: int
    #: Highest seq_no at which a record had another digest than the chain here; 0: none.
    fork_seq_no: int
    #: Epochs below this one were erased on the user's request; 0: none.
    erased_below: int

    @classmethod
    def empty(cls, user_id: int, epoch: int = 0) -> Header:
        """A history of no events at the beginning of an epoch."""
        origin = origin_digest(user_id, epoch)
        return cls(epoch, 1, 0, origin, origin, epoch, 0, 0, 0)

    @property
    def stale(self) -> bool:
        """A gap or a fork was seen and no snapshot has repaired it yet."""
        return bool(self.fork_seq_no) or (self.epoch, self.seq_no) < (self.known_epoch, self.known_seq_no)

    def note(self, epoch: int, seq_no: int) -> None:
        """A record speaks of this event."""
        if (epoch, seq_no) > (self.known_epoch, self.known_seq_no):
            self.known_epoch, self.known_seq_no = epoch, seq_no

    def pack(self) -> bytes:
        """73 bytes."""
        return _HEADER.pack(
            LAYOUT_VERSION,
            self.epoch,
            self.first_seq_no,
            self.seq_no,
            self.base_digest,
            self.digest,
            self.known_epoch,
            self.known_seq_no,
            self.fork_seq_no,
            self.erased_below,
        )

    @classmethod
    def unpack(cls, packed: bytes) -> Header:
        """The inverse of `pack`.

        Raises:
            LayoutError: another layout.
        """
        if len(packed) != _HEADER.size or packed[0] != LAYOUT_VERSION:
            raise LayoutError(f"header of {len(packed)} bytes, layout {packed[:1].hex()}: not readable here")
        return cls(*_HEADER.unpack(packed)[1:])


@dataclass(slots=True)
class Chunk:
    """A run of events inside one chunk's bounds: `rows` are canonical encodings, 41 bytes each."""

    first_seq_no: int
    #: digest(first_seq_no - 1).
    digest_before: int
    rows: bytes

    def pack(self) -> bytes:
        """17 bytes and the rows."""
        return _CHUNK.pack(LAYOUT_VERSION, self.first_seq_no, self.digest_before) + self.rows

    @classmethod
    def unpack(cls, packed: bytes) -> Chunk:
        """The inverse of `pack`.

        Raises:
            LayoutError: another layout, or not whole rows.
        """
        if len(packed) < _CHUNK.size or packed[0] != LAYOUT_VERSION or (len(packed) - _CHUNK.size) % EVENT_BYTES:
            raise LayoutError(f"chunk of {len(packed)} bytes, layout {packed[:1].hex()}: not readable here")
        _, first_seq_no, digest_before = _CHUNK.unpack_from(packed)
        return cls(first_seq_no, digest_before, packed[_CHUNK.size :])
