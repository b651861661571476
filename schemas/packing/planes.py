"""Layout 1: every column on its own, as byte planes. Head: a mask of planes per column. Times are differences."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import sub
from typing import Final

import numpy as np

from schemas.history import EVENT_BYTES, HISTORY_DTYPE, History
from schemas.packing.columns import split, split_fields, undo_zigzag_deltas, zigzag_deltas

_COLUMNS: Final = tuple(str(name) for name in HISTORY_DTYPE.names or ())
_TIME: Final = "event_time_ms"
HEAD_BYTES: Final = len(_COLUMNS)
_WIDTHS: Final = tuple(HISTORY_DTYPE[name].itemsize for name in _COLUMNS)
_TIMES: Final = struct.Struct(f"<q{EVENT_BYTES - 8}x")
_MASK_64: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63
#: Rows for which plain bytes are faster than arrays.
_FEW: Final = 256


def most_body_bytes(n: int) -> int:
    """No body of n events is longer."""
    return n * EVENT_BYTES


def pack(history: History) -> tuple[bytes, bytes]:
    """Head and body of rows [n]."""
    if len(history) <= _FEW:
        return _pack_few(history.tobytes())
    masks, body = bytearray(), bytearray()
    fields = split_fields(history) | {_TIME: split(zigzag_deltas(history[_TIME]))}
    for name in _COLUMNS:
        mask, planes = fields[name]
        masks.append(mask)
        body += b"".join(planes)
    return bytes(masks), bytes(body)


def _pack_few(rows: bytes) -> tuple[bytes, bytes]:
    """The same bytes for few rows, a third of the time: numpy's calls cost more than its loops save."""
    n = len(rows) // EVENT_BYTES
    nothing = bytes(n)
    masks, body = bytearray(), []
    times_ms = [time_ms for (time_ms,) in _TIMES.iter_unpack(rows)]
    deltas = list(map(sub, times_ms, [0, *times_ms]))
    if n and min(times_ms) < 0:
        # As 64 bits wrap around in arrays.
        deltas = [((delta + _SIGN) & _MASK_64) - _SIGN for delta in deltas]
    times = struct.pack(f"<{n}Q", *(delta << 1 if delta >= 0 else (-delta << 1) - 1 for delta in deltas))
    at = 0
    for width in _WIDTHS:
        mask = 0
        for byte in range(width):
            plane = rows[at::EVENT_BYTES] if at >= _WIDTHS[0] else times[at :: _WIDTHS[0]]
            at += 1
            if plane != nothing:
                mask |= 1 << byte
                body.append(plane)
        masks.append(mask)
    return bytes(masks), b"".join(body)


def unpack_equal(heads: Sequence[bytes], bodies: Sequence[bytes], n: int) -> History:
    """Rows [k * n] of k histories of n events each.

    Raises:
        ValueError: one of them is not what `pack` gave.
    """
    # k histories, their bytes of an event, n events.
    planes_KEN = np.zeros((len(heads), EVENT_BYTES, n), dtype=np.uint8)
    held: dict[bytes, list[int]] = {}
    for history_EN, head, body in zip(planes_KEN, heads, bodies, strict=True):
        if head not in held:
            held[head] = _held(head)
        _check_length(head, body, n)
        history_EN[held[head]] = np.frombuffer(body, np.uint8).reshape(len(held[head]), n)
    rows = np.ascontiguousarray(planes_KEN.transpose(0, 2, 1)).view(HISTORY_DTYPE)[:, :, 0]
    rows[_TIME] = undo_zigzag_deltas(rows[_TIME].view(np.uint64))
    return rows.reshape(-1)


def _held(head: bytes) -> list[int]:
    """Which bytes of an event the planes are of."""
    places, at = [], 0
    for mask, width in zip(head, _WIDTHS, strict=True):
        if mask >> width:
            raise ValueError(f"packed history has planes {mask:b} in a column of {width} bytes")
        places += [at + byte for byte in range(width) if mask >> byte & 1]
        at += width
    return places


def _check_length(head: bytes, body: bytes, n: int) -> None:
    expected = n * sum(mask.bit_count() for mask in head)
    if len(body) != expected:
        raise ValueError(f"packed history of {n} events has {len(body)} bytes instead of {expected}")


def unpack(head: bytes, body: bytes, n: int) -> History:
    """Rows [n].

    Raises:
        ValueError: not what `pack` gave.
    """
    return unpack_equal([head], [body], n)
