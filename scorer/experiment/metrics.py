"""gAUC by how much history the user has, with intervals from a bootstrap over users; numpy only.

Requests of one user are alike, so whole users are drawn, not requests: with requests the intervals would be too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scorer.metrics import auc, request_aucs

#: A bucket has the requests whose user has at least so many events at the request's time.
BUCKETS: Final = (0, 1_000, 2_000, 5_000, 10_000)
_LEVEL: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over requests and its 95% interval; NaN where there is nothing to average."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class BucketScore:
    """One scorer on the requests of one bucket."""

    #: Least events of the user at the request's time; 0 for all requests.
    at_least: int
    requests: int
    users: int
    gauc: Estimate
    #: Over all pairs of any two requests: shows calibration between requests.
    auc: float


class UserBootstrap:
    """Resamples of the users of some requests; the same resamples for every scorer, so that differences are paired.

    Args:
        user: of each request, any integers [R].
        draws: resamples.
    """

    def __init__(self, user: NDArray[Any], *, draws: int = 1_000, seed: int = 0) -> None:
        _, self._user = np.unique(user, return_inverse=True)
        self.users = int(self._user.max(initial=-1)) + 1
        rng = np.random.default_rng(seed)
        #: How often each user is in each resample, [draws, users].
        self._times = np.zeros((draws, self.users))
        if self.users:
            self._times[:] = rng.multinomial(self.users, np.full(self.users, 1 / self.users), size=draws)

    def mean(self, values: NDArray[np.float64]) -> Estimate:
        """The mean of values [R] over the requests that have one (not NaN), with the interval of its resamples.

        Percentiles: Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979).
        """
        ranked = np.isfinite(values)
        if not ranked.any():
            return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
        sums = np.bincount(self._user[ranked], values[ranked], minlength=self.users)
        counts = np.bincount(self._user[ranked], minlength=self.users)
        drawn = self._times @ counts
        # A resample without any ranked request says nothing.
        means = (self._times @ sums)[drawn > 0] / drawn[drawn > 0]
        low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return Estimate(value=float(values[ranked].mean()), low=float(low), high=float(high))


class Judge:
    """Scores of the same requests, judged by bucket.

    Args:
        labels: 0 or 1, [T].
        offsets: targets of request r are offsets[r] .. offsets[r + 1]; [R + 1].
        user, history: of each request: who, and how many events before it, [R].
    """

    def __init__(
        self,
        labels: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        user: NDArray[Any],
        history: NDArray[np.int64],
        *,
        buckets: Sequence[int] = BUCKETS,
        draws: int = 1_000,
        seed: int = 0,
    ) -> None:
        self._labels, self._offsets = labels, offsets
        self.buckets = tuple(buckets)
        self._inside = {least: history >= least for least in self.buckets}
        self._bootstraps = {
            least: UserBootstrap(user[inside], draws=draws, seed=seed) for least, inside in self._inside.items()
        }

    def request_aucs(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Each request's AUC [R] for scores [T], ties counting half; NaN without a pair."""
        return request_aucs(self._labels, scores, self._offsets)

    def score(self, runs: Sequence[NDArray[Any]]) -> list[BucketScore]:
        """By bucket, from the scores [T] of one run or of several seeds: the mean over the seeds of each request."""
        aucs = self._mean_aucs(runs)
        found = []
        for least, inside in self._inside.items():
            rows = np.repeat(inside, np.diff(self._offsets))
            overall = [auc(self._labels[rows], scores[rows]) for scores in runs]
            bootstrap = self._bootstraps[least]
            found.append(
                BucketScore(
                    at_least=least,
                    requests=int(np.isfinite(aucs[inside]).sum()),
                    users=bootstrap.users,
                    gauc=bootstrap.mean(aucs[inside]),
                    auc=float(np.mean(overall)),
                )
            )
        return found

    def difference(self, runs: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> dict[int, Estimate]:
        """gAUC of `runs` less that of `other` by bucket, request by request on the same resamples."""
        gap = self._mean_aucs(runs) - self._mean_aucs(other)
        return {least: self._bootstraps[least].mean(gap[inside]) for least, inside in self._inside.items()}

    def seed_deviation(self, runs: Sequence[NDArray[Any]]) -> dict[int, float]:
        """Standard deviation of the gAUC between seeds by bucket; NaN for fewer than two."""
        each = np.stack([self.request_aucs(scores) for scores in runs])
        out = {}
        for least, inside in self._inside.items():
            ranked = inside & np.isfinite(each[0])
            enough = len(runs) > 1 and ranked.any()
            out[least] = float(each[:, ranked].mean(axis=1).std(ddof=1)) if enough else float("nan")
        return out

    def _mean_aucs(self, runs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        if not runs:
            raise ValueError("no scores to judge")
        means: NDArray[np.float64] = np.mean([self.request_aucs(scores) for scores in runs], axis=0)
        return means
