"""Layout 2 for few events: the same bytes as `dictionary`, without arrays, whose calls cost more than their loops save.
A user's first snapshot has one event, and most users who are seeded have few."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from math import gcd
from typing import Final

import numpy as np

from schemas.history import EVENT_BYTES, HISTORY_DTYPE, History, iterate_events
from schemas.packing.body import (
    ENTRIES,
    LEAST_REPEATS,
    OF_EVENT,
    OF_ITEM,
    PLACE_BYTES,
    UNIT,
    BodyReader,
    check_place,
)

#: Events for which this is faster.
FEW: Final = 48
_CODES: Final = {8: "Q", 4: "I", 1: "B"}
#: Where in an event's encoding a field begins, and its bytes.
_FIELDS: Final = {
    str(name): (HISTORY_DTYPE.fields[name][1], HISTORY_DTYPE[name].itemsize)
    for name in HISTORY_DTYPE.names or ()
    if HISTORY_DTYPE.fields is not None
}
_MASK_64: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63


def pack(rows: bytes) -> bytes | None:
    """The body of at least one event; None when a time is below zero, where arrays wrap around."""
    times, items, groups, _, _, _, durations, _ = zip(*iterate_events(rows), strict=True)
    if min(times) < 0:
        return None
    n, last = len(times), 0
    unit = gcd(*times) or 1
    zigzag = []
    for time in times:
        delta = time // unit - last
        zigzag.append(delta << 1 if delta >= 0 else (-delta << 1) - 1)
        last += delta
    body = [UNIT.pack(unit), *_column(zigzag, 8)]
    place_of: dict[int, int] = {}
    for item in items:
        place_of.setdefault(item, len(place_of))
    if len(place_of) * LEAST_REPEATS > n:
        body += [ENTRIES.pack(0), *_field(rows, "item_id", n)]
        for name in OF_ITEM:
            body += [b"\0", *_field(rows, name, n)]
    else:
        body += [ENTRIES.pack(len(place_of)), *_column(list(place_of), 8)]
        body += _column([place_of[item] for item in items], PLACE_BYTES)
        for name, values in zip(OF_ITEM, (groups, durations), strict=True):
            first: dict[int, int] = {}
            if all(first.setdefault(item, value) == value for item, value in zip(items, values, strict=True)):
                body += [b"\1", *_column([first[item] for item in place_of], _FIELDS[name][1])]
            else:
                body += [b"\0", *_field(rows, name, n)]
    for name in OF_EVENT:
        body += _field(rows, name, n)
    return b"".join(body)


def _column(values: Sequence[int], width: int) -> list[bytes]:
    packed = struct.pack(f"<{len(values)}{_CODES[width]}", *values)
    return _held([packed[byte::width] for byte in range(width)], bytes(len(values)))


def _field(rows: bytes, name: str, n: int) -> list[bytes]:
    begin, width = _FIELDS[name]
    return _held([rows[begin + byte :: EVENT_BYTES] for byte in range(width)], bytes(n))


def _held(planes: list[bytes], nothing: bytes) -> list[bytes]:
    mask, held = 0, []
    for byte, plane in enumerate(planes):
        if plane != nothing:
            mask |= 1 << byte
            held.append(plane)
    return [bytes((mask,)), *held]


def unpack(body: bytes, n: int) -> History:
    """Rows [n], n at least 1.

    Raises:
        ValueError: not what `pack` gave.
    """
    rows, reader = bytearray(n * EVENT_BYTES), _FieldReader(body, n)
    unit = reader.take(UNIT)
    deltas = [value >> 1 ^ -(value & 1) for value in reader.column(n, 8)]
    times = [(time * unit + _SIGN & _MASK_64) - _SIGN for time in accumulate(deltas)]
    _write(rows, "event_time_ms", struct.pack(f"<{n}q", *times))
    entries = reader.entries()
    places: Sequence[int] = ()
    if entries:
        ids, places = reader.column(entries, 8), reader.column(n, PLACE_BYTES)
        check_place(max(places), entries)
        _write(rows, "item_id", struct.pack(f"<{n}Q", *(ids[place] for place in places)))
    else:
        reader.field(rows, "item_id")
    for name in OF_ITEM:
        if reader.by_item(name, entries):
            width = _FIELDS[name][1]
            values = reader.column(entries, width)
            _write(rows, name, struct.pack(f"<{n}{_CODES[width]}", *(values[place] for place in places)))
        else:
            reader.field(rows, name)
    for name in OF_EVENT:
        reader.field(rows, name)
    reader.end()
    return np.frombuffer(rows, dtype=HISTORY_DTYPE)


def _write(rows: bytearray, name: str, packed: bytes) -> None:
    begin, width = _FIELDS[name]
    for byte in range(width):
        rows[begin + byte :: EVENT_BYTES] = packed[byte::width]


class _FieldReader(BodyReader):
    def planes(self, n: int, width: int) -> list[tuple[int, bytes]]:
        """(which byte, plane [n]) of a column."""
        mask = self.byte()
        if mask >> width:
            raise ValueError(f"packed history has planes {mask:b} in a column of {width} bytes")
        held = [byte for byte in range(width) if mask >> byte & 1]
        begin, self.at = self.at, self.at + n * len(held)
        if self.at > len(self.body):
            raise ValueError(f"packed history has {len(self.body)} bytes where {self.at} are needed")
        return [(byte, self.body[begin + n * at : begin + n * (at + 1)]) for at, byte in enumerate(held)]

    def column(self, n: int, width: int) -> tuple[int, ...]:
        packed = bytearray(n * width)
        for byte, plane in self.planes(n, width):
            packed[byte::width] = plane
        return struct.unpack(f"<{n}{_CODES[width]}", packed)

    def field(self, rows: bytearray, name: str) -> None:
        """Copies the next column into the rows."""
        begin, width = _FIELDS[name]
        for byte, plane in self.planes(self.n, width):
            rows[begin + byte :: EVENT_BYTES] = plane
