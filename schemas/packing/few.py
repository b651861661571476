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

#: Events for which this is faster.
FEW: Final = 48
#: No more distinct items than two thirds of the events: as `dictionary` has it.
_LEAST_REPEATS: Final = 1.5
_CODES: Final = {8: "Q", 4: "I", 1: "B"}
#: Where in an event's encoding a field begins, and its bytes.
_FIELDS: Final = {
    str(name): (HISTORY_DTYPE.fields[name][1], HISTORY_DTYPE[name].itemsize)
    for name in HISTORY_DTYPE.names or ()
    if HISTORY_DTYPE.fields is not None
}
_OF_EVENT: Final = ("action", "surface", "watch_ms", "fields")
_UNIT: Final = struct.Struct("<Q")
_ENTRIES: Final = struct.Struct("<I")
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
    body = [_UNIT.pack(unit), *_column(zigzag, 8)]
    place_of: dict[int, int] = {}
    for item in items:
        place_of.setdefault(item, len(place_of))
    if len(place_of) * _LEAST_REPEATS > n:
        body += [_ENTRIES.pack(0), *_field(rows, "item_id", n)]
        for name in ("group_id", "duration_ms"):
            body += [b"\0", *_field(rows, name, n)]
    else:
        body += [_ENTRIES.pack(len(place_of)), *_column(list(place_of), 8)]
        body += _column([place_of[item] for item in items], 4)
        for name, values in (("group_id", groups), ("duration_ms", durations)):
            first: dict[int, int] = {}
            if all(first.setdefault(item, value) == value for item, value in zip(items, values, strict=True)):
                body += [b"\1", *_column([first[item] for item in place_of], _FIELDS[name][1])]
            else:
                body += [b"\0", *_field(rows, name, n)]
    for name in _OF_EVENT:
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
    rows, reader = bytearray(n * EVENT_BYTES), _Reader(body)
    (unit,) = reader.take(_UNIT)
    deltas = [value >> 1 ^ -(value & 1) for value in reader.column(n, 8)]
    times = [(time * unit + _SIGN & _MASK_64) - _SIGN for time in accumulate(deltas)]
    _write(rows, "event_time_ms", struct.pack(f"<{n}q", *times))
    (entries,) = reader.take(_ENTRIES)
    if entries > n:
        raise ValueError(f"packed history has a dictionary of {entries} items for {n} events")
    places: Sequence[int] = ()
    if entries:
        ids, places = reader.column(entries, 8), reader.column(n, 4)
        if max(places) >= entries:
            raise ValueError(f"packed history has place {max(places)} in a dictionary of {entries} items")
        _write(rows, "item_id", struct.pack(f"<{n}Q", *(ids[place] for place in places)))
    else:
        reader.field(rows, "item_id", n)
    for name in ("group_id", "duration_ms"):
        (by_item,) = reader.take(_BYTE)
        if by_item > bool(entries):
            raise ValueError(f"packed history has {name} by item without a dictionary")
        if by_item:
            values, width = reader.column(entries, _FIELDS[name][1]), _FIELDS[name][1]
            _write(rows, name, struct.pack(f"<{n}{_CODES[width]}", *(values[place] for place in places)))
        else:
            reader.field(rows, name, n)
    for name in _OF_EVENT:
        reader.field(rows, name, n)
    reader.end()
    return np.frombuffer(rows, dtype=HISTORY_DTYPE)


_BYTE: Final = struct.Struct("<B")


def _write(rows: bytearray, name: str, packed: bytes) -> None:
    begin, width = _FIELDS[name]
    for byte in range(width):
        rows[begin + byte :: EVENT_BYTES] = packed[byte::width]


class _Reader:
    """A place in a body. Raises ValueError beyond its end."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, what: struct.Struct) -> tuple[int, ...]:
        if self._at + what.size > len(self._body):
            raise ValueError(f"packed history of {len(self._body)} bytes is truncated")
        values = what.unpack_from(self._body, self._at)
        self._at += what.size
        return values

    def planes(self, n: int, width: int) -> list[tuple[int, bytes]]:
        """(which byte, plane [n]) of a column."""
        (mask,) = self.take(_BYTE)
        if mask >> width:
            raise ValueError(f"packed history has planes {mask:b} in a column of {width} bytes")
        held = [byte for byte in range(width) if mask >> byte & 1]
        begin, self._at = self._at, self._at + n * len(held)
        if self._at > len(self._body):
            raise ValueError(f"packed history has {len(self._body)} bytes where {self._at} are needed")
        return [(byte, self._body[begin + n * at : begin + n * (at + 1)]) for at, byte in enumerate(held)]

    def column(self, n: int, width: int) -> tuple[int, ...]:
        packed = bytearray(n * width)
        for byte, plane in self.planes(n, width):
            packed[byte::width] = plane
        return struct.unpack(f"<{n}{_CODES[width]}", packed)

    def field(self, rows: bytearray, name: str, n: int) -> None:
        begin, width = _FIELDS[name]
        for byte, plane in self.planes(n, width):
            rows[begin + byte :: EVENT_BYTES] = plane

    def end(self) -> None:
        if self._at != len(self._body):
            raise ValueError(f"packed history has {len(self._body) - self._at} bytes left over")
