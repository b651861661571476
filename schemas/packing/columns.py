"""Columns of unsigned integers as byte planes, and the two transformations that make them small."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.history import EVENT_BYTES, HISTORY_DTYPE, History

_WIDTHS: Final = {str(name): HISTORY_DTYPE[name].itemsize for name in HISTORY_DTYPE.names or ()}


def split(values: NDArray[Any]) -> tuple[int, list[bytes]]:
    """Byte planes of unsigned little-endian values [n], lowest first; all-zero planes are left out.

    Returns:
        the mask of the planes that are there, and these.
    """
    width = values.dtype.itemsize
    planes_WN = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width).T
    used = int(np.bitwise_or.reduce(values)) if len(values) else 0
    held = [byte for byte in range(width) if used >> 8 * byte & 0xFF]
    return sum(1 << byte for byte in held), [planes_WN[byte].tobytes() for byte in held]


def split_fields(history: History) -> dict[str, tuple[int, list[bytes]]]:
    """`split` of every column of rows [n], for all of them at once."""
    bytes_NE = np.ascontiguousarray(history).view(np.uint8).reshape(len(history), EVENT_BYTES)
    used_E = np.bitwise_or.reduce(bytes_NE, axis=0).tolist()
    planes_EN = np.ascontiguousarray(bytes_NE.T)
    found, at = {}, 0
    for name, width in _WIDTHS.items():
        held = [byte for byte in range(width) if used_E[at + byte]]
        found[name] = sum(1 << byte for byte in held), [planes_EN[at + byte].tobytes() for byte in held]
        at += width
    return found


def join(mask: int, body: bytes, at: int, n: int, width: int) -> tuple[NDArray[Any], int]:
    """The inverse of `split` for planes that begin at `at`: values [n] of `width` bytes, and where they end.

    Raises:
        ValueError: planes beyond the width, or a body that is too short.
    """
    if mask >> width:
        raise ValueError(f"packed history has planes {mask:b} in a column of {width} bytes")
    planes_WN = np.zeros((width, n), dtype=np.uint8)
    for byte in range(width):
        if mask >> byte & 1:
            if at + n > len(body):
                raise ValueError(f"packed history has {len(body)} bytes where {at + n} are needed")
            planes_WN[byte] = np.frombuffer(body, np.uint8, n, at)
            at += n
    return np.ascontiguousarray(planes_WN.T).view(f"<u{width}").reshape(n), at


def zigzag_deltas(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Differences to the value before (the first: to 0), small in magnitude to small unsigned."""
    delta = np.diff(values, prepend=np.int64(0))
    zigzag: NDArray[np.uint64] = ((delta << 1) ^ (delta >> 63)).view(np.uint64)
    return zigzag


def undo_zigzag_deltas(zigzag: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The inverse of `zigzag_deltas`, modulo 2^64, along the last axis."""
    delta = (zigzag >> np.uint64(1)).view(np.int64) ^ -(zigzag & np.uint64(1)).view(np.int64)
    values: NDArray[np.int64] = np.cumsum(delta, axis=-1, dtype=np.int64)
    return values
