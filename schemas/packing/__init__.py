"""Columnar packing of histories for snapshots, seeds and state chunks: bytes that begin with their layout's version.

Every layout is read; which one is written is the writer's setting, so that readers can be a release ahead of writers.
The same rows give the same bytes on every run and Python (within one version of zstd).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from schemas.history import History, empty_history
from schemas.packing import dictionary, planes
from schemas.packing.frame import deflate, inflate

#: The layouts that are read and can be written, oldest first.
PACKING_VERSIONS: Final = (1, 2)
PACKING_VERSION: Final = PACKING_VERSIONS[-1]
#: A frame claims its size before it is read; more than this is refused rather than allocated.
MAX_PACKED_EVENTS: Final = 1 << 20

#: Layout version, 1 when the body is a zstd frame, number of events.
_HEADER: Final = struct.Struct("<BBI")


class _Layout(Protocol):
    """What a layout's module has."""

    @property
    def HEAD_BYTES(self) -> int: ...  # noqa: N802 - a module's constant

    def most_body_bytes(self, n: int, /) -> int: ...

    def pack(self, history: History, /) -> tuple[bytes, bytes]: ...

    def unpack(self, head: bytes, body: bytes, n: int, /) -> History: ...


_LAYOUTS: Final[Mapping[int, _Layout]] = {1: planes, 2: dictionary}


def pack_history(history: History, version: int = PACKING_VERSION) -> bytes:
    """Rows [n] of `HISTORY_DTYPE` to bytes of this layout.

    Raises:
        ValueError: more than `MAX_PACKED_EVENTS` rows, or no such layout.
    """
    n = len(history)
    if n > MAX_PACKED_EVENTS:
        raise ValueError(f"{n} events exceed the packing limit of {MAX_PACKED_EVENTS}")
    if version not in _LAYOUTS:
        raise ValueError(f"no packing layout {version}; there are {', '.join(map(str, PACKING_VERSIONS))}")
    head, body = _LAYOUTS[version].pack(history)
    compressed = deflate(body)
    smaller = len(compressed) < len(body)
    return _HEADER.pack(version, smaller, n) + head + (compressed if smaller else body)


def unpack_history(packed: bytes) -> History:
    """The inverse of `pack_history`, for every layout.

    Raises:
        ValueError: unknown layout version, or bytes that no `pack_history` wrote.
    """
    layout, head, body, n = _open(packed)
    rows = layout.unpack(head, body, n)
    return rows if n else empty_history()


def unpack_histories(packed: Sequence[bytes]) -> History:
    """The events of several packed histories, one after the other; many of the same length, as chunks are, take a
    fraction of the time that `unpack_history` would need for each.

    Raises:
        ValueError: as `unpack_history`, without saying which one.
    """
    opened = [_open(each) for each in packed]
    length = opened[0][3] if opened else 0
    if length and all(layout is planes and n == length for layout, _, _, n in opened):
        return planes.unpack_equal([head for _, head, _, _ in opened], [body for _, _, body, _ in opened], length)
    rows = [layout.unpack(head, body, n) for layout, head, body, n in opened if n]
    return np.concatenate(rows) if rows else empty_history()


def _open(packed: bytes) -> tuple[_Layout, bytes, bytes, int]:
    """Layout, head, body as it was before it was compressed, and number of events."""
    if len(packed) < _HEADER.size:
        raise ValueError(f"packed history of {len(packed)} bytes is truncated")
    version, compressed, n = _HEADER.unpack_from(packed)
    if version not in _LAYOUTS or compressed > 1 or n > MAX_PACKED_EVENTS:
        raise ValueError(f"packed history has layout {version}, flags {compressed}, {n} events: not readable here")
    layout = _LAYOUTS[version]
    body_at = _HEADER.size + layout.HEAD_BYTES
    if len(packed) < body_at:
        raise ValueError(f"packed history of {len(packed)} bytes is truncated")
    head, body = packed[_HEADER.size : body_at], packed[body_at:]
    most = layout.most_body_bytes(n)
    if compressed:
        body = inflate(body, most)
    if len(body) > most:
        raise ValueError(f"packed history of {n} events has {len(body)} bytes, more than {most}")
    return layout, head, body, n
