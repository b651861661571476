"""The very bytes of the update that must follow an event, put together from the event's own. Pure.

Nearly all events and updates are written in the canonical way (fields in order, numbers as short as can be:
protobuf.dev, "Encoding"). Then an update's bytes follow from the event's without a look into either. An update with
other bytes is parsed and compared field by field: what is not canonical costs time and changes no verdict. Of the
bytes, Python's 64-bit hash is kept: they are as equal as two histories with one digest are.
"""

from __future__ import annotations

from typing import Final

from schemas import SCHEMA_VERSION
from schemas.digest import DIGEST_VERSION

#: Tags: field number and wire type.
EVENT_TIME: Final = 0x20
INTERACTION: Final = 0x2A
#: Of a BehaviourEvent after its event_id: the tag, six bytes of event_time_ms (any time from 2004 to 2109), the tag of
#: the interaction, its length (one byte, below 128), and then itself.
TAG_AT: Final = 7
LENGTH_AT: Final = 8
CONTENT_AT: Final = 9

#: Of a SequenceUpdate, what stands between the fields that differ.
BEFORE_PREVIOUS: Final = bytes((0x28, DIGEST_VERSION, 0x31))
BEFORE_DIGEST: Final = b"\x39"
BEFORE_EVENT_ID: Final = b"\x42\x10"
BEFORE_TIME: Final = b"\x48"
BEFORE_INTERACTION: Final = b"\x52"

_MORE: Final = 0x80


def varint(number: int) -> bytes:
    """A number from 0 on."""
    parts = bytearray()
    while number >= _MORE:
        parts.append(number & 0x7F | _MORE)
        number >>= 7
    parts.append(number)
    return bytes(parts)


#: Of numbers of events in a history, and of anything that counts from 0.
SMALL: Final = tuple(varint(number) for number in range(1 << 14))


#: Of source_offset, with its tag, what follows from its lowest seven bits, where there are more: they come behind.
LOW_OFFSET: Final = tuple(b"\x60" + bytes((low | _MORE,)) for low in range(_MORE))


def event_head(user_id: int) -> bytes:
    """What a BehaviourEvent of the user begins with, up to its event_id."""
    return b"\x08" + varint(SCHEMA_VERSION) + b"\x10" + varint(user_id) + b"\x1a\x10"


def update_head(user_id: int, epoch: int) -> bytes:
    """What a SequenceUpdate of the user begins with, up to its seq_no."""
    return b"\x08" + varint(SCHEMA_VERSION) + b"\x10" + varint(user_id) + b"\x18" + varint(epoch) + b"\x20"


def source(partition: int) -> bytes:
    """source_partition with its tag; what is 0 is left out."""
    return b"\x58" + varint(partition) if partition else b""
