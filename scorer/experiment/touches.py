"""A user's past touches of a candidate's item, folder or repository, for millions of (request, candidate) at once.

Events are sorted by (user, key, arrival). The touches of a pair within a window of rows are then one run of that order,
found by two binary searches; counts, first, latest and sums that fade with time follow from the run's two ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Runs:
    """For each of n pairs the run [low, high) of its touches in `TouchIndex.rows`; int64 [n] each."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]

    @property
    def count(self) -> NDArray[np.int64]:
        """Touches, [n]."""
        return self.high - self.low

    @property
    def touched(self) -> NDArray[np.bool_]:
        """Whether there is any, [n]."""
        return self.high > self.low

    def only(self, some: NDArray[np.bool_]) -> Runs:
        """Those of some pairs."""
        return Runs(low=self.low[some], high=self.high[some])


class TouchIndex:
    """Events by (user, key) and, within, in arrival order.

    Args:
        user: index of each event's user, rising; int32 [E].
        key: what is touched, as an index below `keys`; int [E].
    """

    def __init__(self, user: NDArray[np.int32], key: NDArray[np.int32], keys: int) -> None:
        self._keys = keys
        pair_of_event = user.astype(np.int64) * keys + key
        #: Rows of the events in this order; int64 [E].
        self.rows = np.argsort(pair_of_event, kind="stable")
        sorted_pairs = pair_of_event[self.rows]
        starts = np.ones(len(sorted_pairs), dtype=bool)
        starts[1:] = sorted_pairs[1:] != sorted_pairs[:-1]
        #: The distinct pairs, and where the touches of each begin.
        self._pairs = sorted_pairs[starts]
        self.begin = np.append(np.flatnonzero(starts), len(sorted_pairs))
        #: For each place of the order, which pair it belongs to; int64 [E].
        self.pair = np.cumsum(starts) - 1
        # (pair, row) as one number: within a pair the rows rise.
        self._place = self.pair * (len(user) + 1) + self.rows

    def find(
        self,
        user: NDArray[np.int32],
        key: NDArray[np.int32],
        first_row: NDArray[np.int64],
        end_row: NDArray[np.int64],
    ) -> Runs:
        """The touches of (user, key) among the rows [first_row, end_row); all [n]."""
        wanted = user.astype(np.int64) * self._keys + key
        pair = np.minimum(np.searchsorted(self._pairs, wanted), max(len(self._pairs) - 1, 0))
        low, high = np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.int64)
        if len(self._pairs):
            known = np.flatnonzero(self._pairs[pair] == wanted)
            base = pair[known] * (len(self.rows) + 1)
            low[known] = np.searchsorted(self._place, base + first_row[known])
            high[known] = np.searchsorted(self._place, base + end_row[known])
        return Runs(low=low, high=high)

    def fading(
        self, clock: NDArray[np.int64], half_life: float, weight: NDArray[np.float64] | None = None
    ) -> FadingSums:
        """Sums of weight * 2^(-age / half life) by a clock [E] that never falls within a user; no weight: 1."""
        return FadingSums(self, clock, half_life, weight)

    def cumulative(self, of_row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Within each pair's touches, how many times `of_row` (a value per event, [E]) changed so far; int64 [E]."""
        values = of_row[self.rows]
        changed = np.zeros(len(values), dtype=np.int64)
        changed[1:] = values[1:] != values[:-1]
        total = np.cumsum(changed)
        return total - total[self.begin[:-1]][self.pair] if len(values) else total


class FadingSums:
    """Sum over a run of touches of w 2^(-(t - t_touch) / half life), with any clock t: time, events, sessions.

    With S_k = sum over j <= k of w_j 2^((t_j - t_k) / h), all touches of the pair up to k, the sum over the run
    [low, high) is S_{high-1} faded to t less S_{low-1} faded to t. Every exponent is negative: nothing overflows.
    """

    def __init__(
        self, index: TouchIndex, clock: NDArray[np.int64], half_life: float, weight: NDArray[np.float64] | None
    ) -> None:
        self._rate = -np.log(2.0) / half_life
        self._clock = clock[index.rows]
        self._first = index.begin[:-1][index.pair] if len(index.rows) else index.rows
        # A scan by doubling: after step d, each place holds the sum over its last 2^d touches.
        sums = np.ones(len(self._clock)) if weight is None else weight[index.rows].astype(np.float64)
        step, place = 1, np.arange(len(sums))
        while True:
            reach = np.flatnonzero(place - step >= self._first)
            if not len(reach):
                break
            fade = np.exp(self._rate * (self._clock[reach] - self._clock[reach - step]))
            sums[reach] += fade * sums[reach - step]
            step *= 2
        self._sums = sums

    def __call__(self, runs: Runs, now: NDArray[np.int64]) -> NDArray[np.float64]:
        """The sum of each run, seen from the clock's readings [n]; 0 for an empty run."""
        out = np.zeros(len(runs.low))
        some = np.flatnonzero(runs.touched)
        last = runs.high[some] - 1
        out[some] = self._sums[last] * np.exp(self._rate * (now[some] - self._clock[last]))
        before = runs.low[some] - 1
        cut = before >= self._first[last]
        some, before = some[cut], before[cut]
        out[some] -= self._sums[before] * np.exp(self._rate * (now[some] - self._clock[before]))
        return np.maximum(out, 0.0)
