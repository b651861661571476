"""Metrics against their definitions, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer.metrics import auc, gauc, ranking_metrics, request_aucs


def by_pairs(labels: list[int], scores: list[float]) -> float:
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, label in zip(scores, labels, strict=True)
        if label
        for n, other in zip(scores, labels, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


# Few distinct scores: ties are the hard part.
TARGET = st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]))
REQUESTS = st.lists(st.lists(TARGET, min_size=1, max_size=8), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(requests=REQUESTS)
def test_auc_and_gauc_are_those_of_the_pairs(requests: list[list[tuple[int, float]]]) -> None:
    flat = [target for request in requests for target in request]
    labels, scores = np.array([label for label, _ in flat]), np.array([score for _, score in flat])
    offsets = np.concatenate([[0], np.cumsum([len(request) for request in requests])])
    expected = [by_pairs([label for label, _ in r], [score for _, score in r]) for r in requests]
    np.testing.assert_allclose(request_aucs(labels, scores, offsets), expected)
    np.testing.assert_allclose(auc(labels, scores), by_pairs(labels.tolist(), scores.tolist()))
    ranked = [value for value in expected if not math.isnan(value)]
    mean = sum(ranked) / len(ranked) if ranked else math.nan
    np.testing.assert_allclose(gauc(labels, scores, offsets), mean)
    metrics = ranking_metrics(labels, scores, offsets)
    np.testing.assert_allclose(metrics.gauc, mean)
    assert metrics.gauc_requests == len(ranked)


def test_calibration_and_log_loss() -> None:
    metrics = ranking_metrics(np.array([1, 0, 0, 1]), np.array([0.5, 0.25, 0.25, 0.5]), np.array([0, 4]))
    assert metrics.calibration == pytest.approx(0.75)
    assert metrics.log_loss == pytest.approx(-(2 * math.log(0.5) + 2 * math.log(0.75)) / 4)


def test_no_requests_have_no_metrics() -> None:
    empty = np.empty(0)
    metrics = ranking_metrics(empty, empty, np.zeros(1, dtype=np.int64))
    assert math.isnan(metrics.auc)
    assert math.isnan(metrics.gauc)
    assert metrics.gauc_requests == 0


@pytest.mark.parametrize(
    ("scores", "offsets", "complaint"),
    [([0.1, math.nan], [0, 2], "NaN"), ([0.1, 0.2], [0, 3], "offsets up to 3"), ([0.1, 0.2], [1, 2], "offsets")],
)
def test_what_is_no_score_is_refused(scores: list[float], offsets: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        request_aucs(np.array([0, 1]), np.array(scores), np.array(offsets))


def test_a_probability_is_between_zero_and_one() -> None:
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        ranking_metrics(np.array([0, 1]), np.array([0.1, 1.5]), np.array([0, 2]))
