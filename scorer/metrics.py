"""Ranking and calibration metrics; numpy only, the same for training, the gate and the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Of one task. NaN where the data has no pair to rank."""

    #: Over all pairs of a positive and a negative, of any requests.
    auc: float
    #: Mean over requests with both labels of the request's own AUC.
    gauc: float
    #: Requests that gauc is the mean of.
    gauc_requests: int
    #: Mean predicted over mean observed; 1 is calibrated.
    calibration: float
    #: Mean binary cross-entropy, nats.
    log_loss: float


def ranking_metrics(
    labels: NDArray[Any], probabilities: NDArray[Any], request_offsets: NDArray[np.int64]
) -> RankingMetrics:
    """All of them for labels 0 or 1 [T] and probabilities [T]; request r's are offsets[r] .. offsets[r + 1].

    Raises:
        ValueError: shapes do not match, or a probability is not in [0, 1].
    """
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and (probabilities <= 1).all()):
        raise ValueError("a probability is not in [0, 1]")
    per_request = request_aucs(labels, probabilities, request_offsets)
    ranked = np.isfinite(per_request)
    positives = float(labels.mean(dtype=np.float64)) if len(labels) else 0.0
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    y = labels.astype(np.float64)
    return RankingMetrics(
        auc=auc(labels, probabilities),
        gauc=float(per_request[ranked].mean()) if ranked.any() else float("nan"),
        gauc_requests=int(ranked.sum()),
        calibration=float(probabilities.mean(dtype=np.float64)) / positives if positives else float("nan"),
        log_loss=float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()) if len(labels) else float("nan"),
    )


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """The share of (positive, negative) pairs in order, ties counting half; NaN without such a pair."""
    return float(request_aucs(labels, scores, np.array([0, len(labels)]))[0])


def gauc(labels: NDArray[Any], scores: NDArray[Any], request_offsets: NDArray[np.int64]) -> float:
    """Mean of `request_aucs` over the requests that have one; NaN if none has."""
    aucs = request_aucs(labels, scores, request_offsets)
    return float(np.nanmean(aucs)) if np.isfinite(aucs).any() else float("nan")


def request_aucs(labels: NDArray[Any], scores: NDArray[Any], request_offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each request's AUC [R] for labels and scores [T], ties counting half; NaN for a request of one label only.

    The Mann-Whitney statistic: (rank sum of the positives - p (p + 1) / 2) / (p n), with mean ranks for ties.

    Raises:
        ValueError: shapes do not match, or a score is NaN.
    """
    counts = np.diff(request_offsets)
    if not len(labels) == len(scores) == request_offsets[-1] or request_offsets[0] != 0 or (counts < 0).any():
        raise ValueError(f"{len(labels)} labels, {len(scores)} scores and offsets up to {request_offsets[-1]}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    requests = len(counts)
    request = np.repeat(np.arange(requests), counts)
    order = np.lexsort((scores, request))
    sorted_scores, sorted_request = scores[order], request[order]
    # Runs of equal scores within a request share the mean of their ranks.
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (sorted_scores[1:] != sorted_scores[:-1]) | (sorted_request[1:] != sorted_request[:-1])
    run = np.cumsum(starts) - 1
    run_begin = np.flatnonzero(starts)
    run_end = np.append(run_begin[1:], len(order))
    first_rank = run_begin - request_offsets[:-1][sorted_request[run_begin]]
    ranks = ((2 * first_rank + run_end - run_begin + 1) / 2)[run]
    positive = labels[order] != 0
    p = np.bincount(sorted_request, positive, minlength=requests)
    n = counts - p
    rank_sum = np.bincount(sorted_request, ranks * positive, minlength=requests)
    pairs = p * n
    return np.divide(rank_sum - p * (p + 1) / 2, pairs, out=np.full(requests, np.nan), where=pairs > 0)
