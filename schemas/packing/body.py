"""What both ways of layout 2 share: the order of its parts, and a reader that refuses what cannot be."""

from __future__ import annotations

import struct
from typing import Final

OF_ITEM: Final = ("group_id", "duration_ms")
OF_EVENT: Final = ("action", "surface", "watch_ms", "fields")
UNIT: Final = struct.Struct("<Q")
ENTRIES: Final = struct.Struct("<I")
#: A dictionary pays when an item has at least so many events on average; then it is never longer than the ids, either.
LEAST_REPEATS: Final = 1.5
PLACE_BYTES: Final = 4
_BYTE: Final = struct.Struct("<B")


class BodyReader:
    """A place in a body of n events. Raises ValueError beyond its end, and for what no `pack` wrote."""

    def __init__(self, body: bytes, n: int) -> None:
        self.body, self.at, self.n = body, 0, n

    def take(self, what: struct.Struct) -> int:
        """The next number."""
        if self.at + what.size > len(self.body):
            raise ValueError(f"packed history of {len(self.body)} bytes is truncated")
        (value,) = what.unpack_from(self.body, self.at)
        self.at += what.size
        return int(value)

    def byte(self) -> int:
        """The next byte."""
        return self.take(_BYTE)

    def entries(self) -> int:
        """How many items the dictionary has."""
        entries = self.take(ENTRIES)
        if entries > self.n:
            raise ValueError(f"packed history has a dictionary of {entries} items for {self.n} events")
        return entries

    def by_item(self, name: str, entries: int) -> bool:
        """Whether this field stands in the dictionary."""
        by_item = self.byte()
        if by_item > bool(entries):
            raise ValueError(f"packed history has {name} by item without a dictionary")
        return bool(by_item)

    def end(self) -> None:
        """Nothing may follow."""
        if self.at != len(self.body):
            raise ValueError(f"packed history has {len(self.body) - self.at} bytes left over")


def check_place(highest: int, entries: int) -> None:
    """Raises ValueError: a place beyond the dictionary."""
    if highest >= entries:
        raise ValueError(f"packed history has place {highest} in a dictionary of {entries} items")
