"""Columnar packing of histories for snapshots and state chunks.

Layout 1: `<B version><B flags><I n><B mask per column>` and a body. Every column is an unsigned integer column, split
into byte planes; all-zero planes are dropped (the mask says which are there), so an absent field costs nothing. Times
and ids are differences to the previous row first (two's complement, zigzag), for histories are locally alike. The
body is one zstd frame where that is smaller, raw otherwise.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from schemas.history import HISTORY_DTYPE, History, empty_history

PACKING_VERSION: Final = 1
_HEADER = struct.Struct("<BBI")
_FLAG_ZSTD: Final = 1
_ZSTD_LEVEL: Final = 6
_DELTA_COLUMNS: Final = frozenset({"event_time_ms"})
_COLUMNS: Final = tuple(str(name) for name in HISTORY_DTYPE.names or ())
#: A frame claims its size before it is read; more than this is refused rather than allocated.
MAX_PACKED_EVENTS: Final = 1 << 20


def _to_unsigned(name: str, column: NDArray[np.generic]) -> NDArray[Any]:
    width = column.dtype.itemsize
    if name in _DELTA_COLUMNS:
        delta = np.diff(column.astype(np.int64), prepend=np.int64(0))
        return ((delta << 1) ^ (delta >> 63)).view(np.uint64)
    return column.astype(f"<u{width}", copy=False)


def _from_unsigned(name: str, values: NDArray[Any]) -> NDArray[np.generic]:
    if name in _DELTA_COLUMNS:
        zigzag = values.astype(np.uint64, copy=False)
        delta = (zigzag >> np.uint64(1)).view(np.int64) ^ -(zigzag & np.uint64(1)).view(np.int64)
        return np.cumsum(delta, dtype=np.int64)
    return values


def pack_history(history: History) -> bytes:
    """Rows [n] of `HISTORY_DTYPE` to bytes; the same rows give the same bytes.

    Raises:
        ValueError: more than `MAX_PACKED_EVENTS` rows.
    """
    n = len(history)
    if n > MAX_PACKED_EVENTS:
        raise ValueError(f"{n} events exceed the packing limit of {MAX_PACKED_EVENTS}")
    masks = bytearray()
    planes: list[bytes] = []
    for name in _COLUMNS:
        values = np.ascontiguousarray(_to_unsigned(name, history[name]))
        width = values.dtype.itemsize
        planes_WN = values.view(np.uint8).reshape(n, width).T
        mask = 0
        for byte in range(width):
            if planes_WN[byte].any():
                mask |= 1 << byte
                planes.append(planes_WN[byte].tobytes())
        masks.append(mask)
    body = b"".join(planes)
    compressed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress(body)
    if len(compressed) < len(body):
        return _HEADER.pack(PACKING_VERSION, _FLAG_ZSTD, n) + bytes(masks) + compressed
    return _HEADER.pack(PACKING_VERSION, 0, n) + bytes(masks) + body


def unpack_history(packed: bytes) -> History:
    """The inverse of `pack_history`.

    Raises:
        ValueError: unknown layout version, or bytes that no `pack_history` wrote.
    """
    if len(packed) < _HEADER.size + len(_COLUMNS):
        raise ValueError(f"packed history of {len(packed)} bytes is truncated")
    version, flags, n = _HEADER.unpack_from(packed)
    if version != PACKING_VERSION or flags not in (0, _FLAG_ZSTD) or n > MAX_PACKED_EVENTS:
        raise ValueError(f"packed history has layout {version}, flags {flags}, {n} events: not readable here")
    masks = packed[_HEADER.size : _HEADER.size + len(_COLUMNS)]
    expected = n * sum(mask.bit_count() for mask in masks)
    body = packed[_HEADER.size + len(_COLUMNS) :]
    if flags & _FLAG_ZSTD:
        try:
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=expected)
        except zstandard.ZstdError as error:
            raise ValueError(f"packed history does not decompress: {error}") from error
    if len(body) != expected:
        raise ValueError(f"packed history of {n} events has {len(body)} bytes instead of {expected}")
    if n == 0:
        return empty_history()
    history = np.zeros(n, dtype=HISTORY_DTYPE)
    at = 0
    for name, mask in zip(_COLUMNS, masks, strict=True):
        width = HISTORY_DTYPE[name].itemsize
        if mask >> width:
            raise ValueError(f"packed history has planes beyond the width of {name}")
        planes_WN = np.zeros((width, n), dtype=np.uint8)
        for byte in range(width):
            if mask >> byte & 1:
                planes_WN[byte] = np.frombuffer(body, np.uint8, n, at)
                at += n
        values = np.ascontiguousarray(planes_WN.T).view(f"<u{width}").reshape(n)
        history[name] = _from_unsigned(name, values)
    return history
