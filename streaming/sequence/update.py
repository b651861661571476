"""A `SequenceUpdate`'s bytes, written directly: one for every event, and the message object is half of what they cost.

They are the bytes that Protobuf's own serialisation gives (tested); wire format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from typing import Final

from schemas import SCHEMA_VERSION
from schemas.digest import DIGEST_VERSION
from schemas.v1.sequence_pb2 import SequenceUpdate

_GROUPS: Final = 1 << 14
_MASK: Final = _GROUPS - 1
#: A number below 2^14 as one or two bytes; and as two bytes with more to come.
_LAST: Final = tuple(bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_GROUPS))
_MORE: Final = tuple(bytes((n & 127 | 128, n >> 7 | 128)) for n in range(_GROUPS))
#: digest_version, prev_digest, digest, event_id, and event_time_ms's tag.
_MIDDLE: Final = struct.Struct("<BBBQBQBB16sB")


def varint(number: int) -> bytes:
    """A number from 0 to 2^64 - 1."""
    if number < _GROUPS:
        return _LAST[number]
    high = number >> 14
    if high < _GROUPS:
        return _MORE[number & _MASK] + _LAST[high]
    return _MORE[number & _MASK] + _MORE[high & _MASK] + varint(high >> 14)


def update_head(user_id: int, epoch: int) -> bytes:
    """What all updates of a user's epoch begin with."""
    return b"\x08" + varint(SCHEMA_VERSION) + b"\x10" + varint(user_id) + b"\x18" + varint(epoch)


def encode_update(
    head: bytes,
    seq_no: int,
    prev_digest: int,
    digest: int,
    event_id: bytes,
    event_time_ms: int,
    interaction: bytes,
    source_partition: int,
    source_offset: int,
) -> bytes:
    """The update's bytes.

    Args:
        head: of `update_head`.
        event_id: 16 bytes.
        interaction: serialised.
    """
    if not prev_digest or not digest or event_time_ms <= 0:
        # What is 0 is left out, what is below 0 is written otherwise.
        update = SequenceUpdate.FromString(head)
        update.seq_no, update.event_id, update.event_time_ms = seq_no, event_id, event_time_ms
        update.digest_version, update.prev_digest, update.digest = DIGEST_VERSION, prev_digest, digest
        update.interaction.MergeFromString(interaction)
        update.interaction.SetInParent()
        update.source_partition, update.source_offset = source_partition, source_offset
        return update.SerializeToString()
    # Written out rather than called: these three are in every update.
    low, high = event_time_ms & _MASK, event_time_ms >> 28
    return b"".join(
        (
            head,
            b"\x20",
            _LAST[seq_no] if seq_no < _GROUPS else _MORE[seq_no & _MASK] + varint(seq_no >> 14),
            _MIDDLE.pack(0x28, DIGEST_VERSION, 0x31, prev_digest, 0x39, digest, 0x42, 0x10, event_id, 0x48),
            _MORE[low] + _MORE[event_time_ms >> 14 & _MASK] + _LAST[high]
            if 0 < high < _GROUPS
            else varint(event_time_ms),
            b"\x52",
            varint(len(interaction)),
            interaction,
            b"\x58" + varint(source_partition) if source_partition else b"",
            b"\x60" + varint(source_offset) if source_offset else b"",
        )
    )
