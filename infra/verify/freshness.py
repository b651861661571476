"""How far behind what had arrived the served histories were. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from infra.verify.epochs import User
from schemas.v1.ranking_pb2 import Stamp

#: Times above so many ms are counted in steps of a 512th of themselves: memory stays bounded.
_EXACT: Final = 1_024


def behind(user: User | None, stamp: Stamp, request_time_ms: int) -> tuple[int, int]:
    """(events of the user that had been published by the request's time and were not served, how long before the
    request the oldest of them was, ms)."""
    if user is None:
        return 0, 0
    epoch, begin = user.epochs.get(stamp.epoch), 0
    if epoch is not None:
        begin = epoch.times_at + max(0, stamp.seq_no - (epoch.seeded if epoch.seeded else epoch.before))
    if begin >= len(user.times):
        return 0, 0
    times = np.frombuffer(user.times, dtype=np.int64)[begin:]
    arrived = times[times <= request_time_ms]
    return (len(arrived), request_time_ms - int(arrived.min())) if len(arrived) else (0, 0)


@dataclass
class Freshness:
    """Over all checked responses."""

    events: Counter[int] = field(default_factory=Counter)
    ms: Counter[int] = field(default_factory=Counter)

    def add(self, behind_events: int, behind_ms: int) -> None:
        """One response."""
        self.events[behind_events] += 1
        step = max(1, behind_ms >> 9) if behind_ms >= _EXACT else 1
        # A power of two, so that there are few steps.
        step = 1 << (step.bit_length() - 1)
        self.ms[behind_ms // step * step] += 1

    def as_json(self) -> dict[str, Any]:
        """How many were fresh, and the percentiles of both."""
        return {
            "responses": self.events.total(),
            "fresh": self.events[0],
            "behind_events": _percentiles(self.events),
            "behind_ms": _percentiles(self.ms),
        }


def _percentiles(counted: Counter[int]) -> dict[str, int]:
    values = sorted(counted)
    if not values:
        return {"p50": 0, "p99": 0, "max": 0}
    up_to = np.cumsum([counted[value] for value in values])
    at = {name: int(np.searchsorted(up_to, share * up_to[-1])) for name, share in (("p50", 0.5), ("p99", 0.99))}
    return {name: values[place] for name, place in at.items()} | {"max": values[-1]}
