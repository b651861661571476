"""Event-time timers of many users in one queue, so that all that a watermark makes due ring together. Pure.

Each of Flink's own timers crosses from Java into Python, which costs more than what most of them have to do. So they
ring from here, and a checkpoint saves them as bytes; Flink has only those that are too many to be kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import chain
from typing import Final, TypeAlias

from streaming.sequence.state import StateError

#: Time in ms, user_id.
Alarm: TypeAlias = tuple[int, int]

_VERSION: Final = b"\x01"
_PACKED: Final = struct.Struct("<qq")


class Alarms:
    """The timers that Flink does not have.

    Args:
        most: so many are kept at most, see `full`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._queue: list[Alarm] = []
        self._set: set[Alarm] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Alarm]:
        """All, in no order."""
        return iter(self._queue)

    @property
    def full(self) -> bool:
        """Some are to be handed over."""
        return len(self._queue) > self._most

    def add(self, alarm: Alarm) -> None:
        """Once, however often it is asked for."""
        if alarm not in self._set:
            self._set.add(alarm)
            heappush(self._queue, alarm)

    def ring(self, until_ms: int) -> Iterator[Alarm]:
        """All up to this time, the earliest first, those that are added meanwhile included; they leave."""
        while self._queue and self._queue[0][0] <= until_ms:
            alarm = heappop(self._queue)
            self._set.discard(alarm)
            yield alarm

    def hand_over(self) -> list[Alarm]:
        """The later half, in order; they leave."""
        # What is sorted is a heap.
        self._queue.sort()
        half = len(self._queue) // 2
        handed, self._queue = self._queue[half:], self._queue[:half]
        self._set.difference_update(handed)
        return handed


def pack_alarms(alarms: Iterable[Alarm]) -> bytes:
    """Bytes for the state."""
    numbers = list(chain.from_iterable(alarms))
    return _VERSION + struct.pack(f"<{len(numbers)}q", *numbers)


def unpack_alarms(packed: bytes) -> list[Alarm]:
    """The inverse. Raises StateError: another layout version, or damaged."""
    if packed[:1] != _VERSION or len(packed) % _PACKED.size != 1:
        raise StateError(f"{len(packed)} bytes of alarms of layout {packed[:1].hex()}: not readable here")
    return list(_PACKED.iter_unpack(packed[1:]))
