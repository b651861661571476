"""A recorded log in the shape that the replay sends: events and score requests, both in arrival order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.history import HISTORY_DTYPE, History


@dataclass(frozen=True, kw_only=True)
class BehaviourLog:
    """E events and R requests over T candidates in all.

    Raises:
        ValueError: arrays of different lengths, out of order, or an event that answers a request that comes after it.
    """

    name: str
    #: The task that `label` holds.
    task: str

    #: When the application published each event, ms UTC, never falling; int64 [E].
    arrival_ms: NDArray[np.int64]
    #: uint64 [E].
    event_user: NDArray[np.uint64]
    #: What happened, [E]; `event_time_ms` may be before or after the arrival.
    event: History
    #: Index of the request that the event is feedback to, -1 for none; int64 [E].
    event_request: NDArray[np.int64]

    #: ms UTC, never falling; int64 [R].
    request_time_ms: NDArray[np.int64]
    #: uint64 [R].
    request_user: NDArray[np.uint64]
    #: ASCII, at most 64 characters; bytes [R].
    request_id: NDArray[np.bytes_]
    #: Candidates of request r: candidate_offsets[r] .. candidate_offsets[r + 1]; int64 [R + 1].
    candidate_offsets: NDArray[np.int64]
    #: uint64 [T].
    candidate_item: NDArray[np.uint64]
    #: 0 where unknown; uint64 [T].
    candidate_group: NDArray[np.uint64]
    #: 1 where the user went on to touch the candidate; uint8 [T].
    label: NDArray[np.uint8]

    def __post_init__(self) -> None:
        events, requests = len(self.arrival_ms), len(self.request_time_ms)
        lengths: dict[str, tuple[NDArray[Any], int]] = {
            "event_user": (self.event_user, events),
            "event": (self.event, events),
            "event_request": (self.event_request, events),
            "request_user": (self.request_user, requests),
            "request_id": (self.request_id, requests),
            "candidate_offsets": (self.candidate_offsets, requests + 1),
            "candidate_group": (self.candidate_group, len(self.candidate_item)),
            "label": (self.label, len(self.candidate_item)),
        }
        for field, (array, length) in lengths.items():
            if len(array) != length:
                raise ValueError(f"log {self.name}: {field} has {len(array)} rows instead of {length}")
        if self.event.dtype != HISTORY_DTYPE:
            raise ValueError(f"log {self.name}: event has dtype {self.event.dtype}")
        for field, times in (("arrival_ms", self.arrival_ms), ("request_time_ms", self.request_time_ms)):
            falls = np.flatnonzero(np.diff(times) < 0)
            if len(falls):
                raise ValueError(f"log {self.name}: {field} falls at row {falls[0] + 1}")
        feedback = np.flatnonzero(self.event_request >= 0)
        of_request = self.event_request[feedback]
        wrong = (self.arrival_ms[feedback] < self.request_time_ms[of_request]) | (
            self.event_user[feedback] != self.request_user[of_request]
        )
        if wrong.any():
            raise ValueError(f"log {self.name}: event {feedback[wrong][0]} is no feedback to the request it names")

    @property
    def users(self) -> int:
        """Distinct users with an event."""
        return len(np.unique(self.event_user))

    def head(self, fraction: float) -> BehaviourLog:
        """The log up to the time of the first `fraction` of its requests (of its events when it has none).

        Raises:
            ValueError: `fraction` is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction {fraction} is not in (0, 1]")
        times = self.request_time_ms if len(self.request_time_ms) else self.arrival_ms
        kept = max(1, round(len(times) * fraction))
        if kept >= len(times):
            return self
        return self.before(int(times[kept]))

    def before(self, time_ms: int) -> BehaviourLog:
        """What had arrived before `time_ms`."""
        events = int(np.searchsorted(self.arrival_ms, time_ms))
        requests = int(np.searchsorted(self.request_time_ms, time_ms))
        candidates = int(self.candidate_offsets[requests])
        return replace(
            self,
            arrival_ms=self.arrival_ms[:events],
            event_user=self.event_user[:events],
            event=self.event[:events],
            event_request=self.event_request[:events],
            request_time_ms=self.request_time_ms[:requests],
            request_user=self.request_user[:requests],
            request_id=self.request_id[:requests],
            candidate_offsets=self.candidate_offsets[: requests + 1],
            candidate_item=self.candidate_item[:candidates],
            candidate_group=self.candidate_group[:candidates],
            label=self.label[:candidates],
        )
