"""Layout 1: every column on its own, as byte planes. Head: a mask of planes per column. Times are differences."""

from __future__ import annotations

from typing import Final

import numpy as np

from schemas.history import EVENT_BYTES, HISTORY_DTYPE, History
from schemas.packing.columns import join, split, undo_zigzag_deltas, zigzag_deltas

_COLUMNS: Final = tuple(str(name) for name in HISTORY_DTYPE.names or ())
_TIME: Final = "event_time_ms"
HEAD_BYTES: Final = len(_COLUMNS)


def most_body_bytes(n: int) -> int:
    """No body of n events is longer."""
    return n * EVENT_BYTES


def pack(history: History) -> tuple[bytes, bytes]:
    """Head and body of rows [n]."""
    masks, body = bytearray(), bytearray()
    for name in _COLUMNS:
        column = history[name]
        mask, planes = split(zigzag_deltas(column) if name == _TIME else column)
        masks.append(mask)
        body += b"".join(planes)
    return bytes(masks), bytes(body)


def unpack(head: bytes, body: bytes, n: int) -> History:
    """Rows [n].

    Raises:
        ValueError: not what `pack` gave.
    """
    expected = n * sum(mask.bit_count() for mask in head)
    if len(body) != expected:
        raise ValueError(f"packed history of {n} events has {len(body)} bytes instead of {expected}")
    history, at = np.zeros(n, dtype=HISTORY_DTYPE), 0
    for name, mask in zip(_COLUMNS, head, strict=True):
        values, at = join(mask, body, at, n, HISTORY_DTYPE[name].itemsize)
        history[name] = undo_zigzag_deltas(values) if name == _TIME else values
    return history
