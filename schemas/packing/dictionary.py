"""Layout 2: what repeats is said once.

Times are differences in units of their greatest common divisor (logs in whole seconds are a third shorter). Item ids
that repeat are places in a dictionary in order of first occurrence; group and duration, where they are functions of the
item, stand in the dictionary. Everything else is a column of byte planes.

Body, all little-endian; a column is `<B mask>` and its planes, of n values or, in the dictionary, of d:

    <Q time unit><column: time differences>
    <I d>                                       0: no dictionary
    d > 0: <column of d: item ids><column: places>      else: <column: item ids>
    for group_id, duration_ms: <B by item><column of d or n>
    <column> for action, surface, watch_ms, fields
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.history import EVENT_BYTES, HISTORY_DTYPE, History
from schemas.packing import few
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
from schemas.packing.columns import join, split, split_fields, undo_zigzag_deltas, zigzag_deltas

HEAD_BYTES: Final = 0
_OVERHEAD_BYTES: Final = 64


def most_body_bytes(n: int) -> int:
    """No body of n events is longer: rows, a dictionary of the longest columns, the fixed parts."""
    return n * (2 * EVENT_BYTES) + _OVERHEAD_BYTES


def pack(history: History) -> tuple[bytes, bytes]:
    """Head (empty) and body of rows [n]."""
    if 0 < len(history) <= few.FEW:
        body_of_few = few.pack(history.tobytes())
        if body_of_few is not None:
            return b"", body_of_few
    times = history["event_time_ms"]
    unit = int(np.gcd.reduce(times)) if len(times) else 0
    unit = unit if unit > 1 else 1
    body = [UNIT.pack(unit), *_column(zigzag_deltas(times // unit))]
    fields = {name: (bytes([mask]), *planes) for name, (mask, planes) in split_fields(history).items()}
    ids, first_at, places = _dictionary(history["item_id"])
    if len(ids):
        body += [ENTRIES.pack(len(ids)), *_column(ids), *_column(places)]
    else:
        body += [ENTRIES.pack(0), *fields["item_id"]]
    for name in OF_ITEM:
        values = history[name]
        by_item = len(ids) > 0 and np.array_equal(values[first_at][places], values)
        body += [bytes([by_item]), *(_column(values[first_at]) if by_item else fields[name])]
    for name in OF_EVENT:
        body += fields[name]
    return b"", b"".join(body)


def unpack(_head: bytes, body: bytes, n: int) -> History:
    """Rows [n].

    Raises:
        ValueError: not what `pack` gave.
    """
    if 0 < n <= few.FEW:
        return few.unpack(body, n)
    reader = _ColumnReader(body, n)
    history = np.zeros(n, dtype=HISTORY_DTYPE)
    unit = np.uint64(reader.take(UNIT))
    deltas = undo_zigzag_deltas(reader.column(n, 8))
    history["event_time_ms"] = (deltas.view(np.uint64) * unit).view(np.int64)
    entries = reader.entries()
    ids = reader.column(entries, 8) if entries else None
    places = reader.column(n, PLACE_BYTES) if entries else reader.column(n, 8)
    if ids is None:
        history["item_id"] = places
    else:
        check_place(int(places.max(initial=0)), entries)
        history["item_id"] = ids[places]
    for name in OF_ITEM:
        width = HISTORY_DTYPE[name].itemsize
        by_item = reader.by_item(name, entries)
        history[name] = reader.column(entries, width)[places] if by_item else reader.column(n, width)
    for name in OF_EVENT:
        history[name] = reader.column(n, HISTORY_DTYPE[name].itemsize)
    reader.end()
    return history


def _dictionary(items: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint32]]:
    """(distinct ids [d] in order of first occurrence, where each occurs first [d], places [n]); d is 0 where it does
    not pay."""
    ids, first_at, inverse = np.unique(items, return_index=True, return_inverse=True)
    if len(ids) * LEAST_REPEATS > len(items):
        return ids[:0], first_at[:0], np.empty(0, dtype=np.uint32)
    order = np.argsort(first_at)
    place_of = np.empty(len(ids), dtype=np.uint32)
    place_of[order] = np.arange(len(ids), dtype=np.uint32)
    return ids[order], first_at[order], place_of[inverse]


def _column(values: NDArray[Any]) -> list[bytes]:
    mask, planes = split(values)
    return [bytes([mask]), *planes]


class _ColumnReader(BodyReader):
    def column(self, n: int, width: int) -> NDArray[Any]:
        values, self.at = join(self.byte(), self.body, self.at, n, width)
        return values
