"""Event-time timers of many users in one queue, so that all that a watermark makes due ring together. Pure.

Each of Flink's own timers crosses from Java into Python, which costs more than what most of them have to do. So a timer
is Flink's only from the next checkpoint on, which saves it; what rings before, as almost everything does in a replay,
rings from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

#: Time in ms, user_id.
Alarm = tuple[int, int]


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

    @property
    def full(self) -> bool:
        """They are to be handed over."""
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
        """All, in order; they leave."""
        alarms = sorted(self._queue)
        self._queue.clear()
        self._set.clear()
        return alarms
