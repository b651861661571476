"""One event of a user's history: its columns and its canonical bytes.

Everything that holds histories (job state, snapshots, stores, features) speaks in arrays of `HISTORY_DTYPE`.
One row's memory is the canonical encoding that the digest covers: packed, little-endian, 41 bytes, so an array's
`tobytes()` is the concatenation of its events' encodings.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # Training reads histories on machines without protobuf.
    from schemas.v1.behaviour_pb2 import Interaction

#: Presence bits in `fields`; an absent field's column holds 0.
HAS_WATCH: Final = 1
HAS_DURATION: Final = 2
HAS_SURFACE: Final = 4
HAS_GROUP: Final = 8

HISTORY_DTYPE: Final = np.dtype(
    [
        ("event_time_ms", "<i8"),
        ("item_id", "<u8"),
        ("group_id", "<u8"),
        ("action", "<u4"),
        ("surface", "<u4"),
        ("watch_ms", "<u4"),
        ("duration_ms", "<u4"),
        ("fields", "u1"),
    ]
)

EVENT_BYTES: Final = HISTORY_DTYPE.itemsize

_EVENT = struct.Struct("<qQQIIIIB")
assert _EVENT.size == EVENT_BYTES

History = NDArray[np.void]


def encode_event(event_time_ms: int, interaction: Interaction) -> bytes:
    """The canonical 41 bytes of one event."""
    group_id, surface = interaction.group_id, interaction.surface
    watch_ms, duration_ms = interaction.watch_ms, interaction.duration_ms
    has = interaction.HasField
    # What is not 0 is there: to ask is slow, and most are not 0.
    fields = (
        (HAS_WATCH if watch_ms or has("watch_ms") else 0)
        | (HAS_DURATION if duration_ms or has("duration_ms") else 0)
        | (HAS_SURFACE if surface or has("surface") else 0)
        | (HAS_GROUP if group_id or has("group_id") else 0)
    )
    return _EVENT.pack(
        event_time_ms,
        interaction.item_id,
        group_id,
        interaction.action,
        surface,
        watch_ms,
        duration_ms,
        fields,
    )


#: An encoding's fields: event_time_ms, item_id, group_id, action, surface, watch_ms, duration_ms, presence bits.
decode_event = _EVENT.unpack
#: Those of concatenated encodings, one after the other.
iterate_events = _EVENT.iter_unpack


def decode_events(encoded: bytes) -> History:
    """Rows [n] of `HISTORY_DTYPE` over the concatenated encodings; read-only, no copy.

    Raises:
        ValueError: the length is not a multiple of 41.
    """
    if len(encoded) % EVENT_BYTES:
        raise ValueError(f"{len(encoded)} bytes are not whole events of {EVENT_BYTES} bytes")
    return np.frombuffer(encoded, dtype=HISTORY_DTYPE)


def empty_history() -> History:
    """A history of no events, [0]."""
    return np.empty(0, dtype=HISTORY_DTYPE)
