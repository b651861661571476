"""Buckets, bootstrap over users, paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from scorer.experiment.metrics import Judge, UserBootstrap
from scorer.metrics import gauc


def _requests(rng, users=30, per_user=8, candidates=6):
    requests = users * per_user
    labels = np.zeros((requests, candidates), dtype=np.uint8)
    labels[np.arange(requests), rng.integers(candidates, size=requests)] = 1
    offsets = np.arange(requests + 1) * candidates
    return labels.reshape(-1), offsets, np.repeat(np.arange(users), per_user)


def test_buckets_are_the_requests_with_enough_history_and_gauc_is_that_of_the_product():
    rng = np.random.default_rng(0)
    labels, offsets, user = _requests(rng)
    history = rng.integers(0, 4_000, size=len(user))
    scores = labels + rng.normal(size=len(labels))
    judge = Judge(labels, offsets, user, history, buckets=(0, 1_000, 9_000))
    everything, longer, nobody = judge.score([scores])
    assert everything.gauc.value == pytest.approx(gauc(labels, scores, offsets))
    inside = history >= 1_000
    rows = np.repeat(inside, 6)
    assert longer.gauc.value == pytest.approx(gauc(labels[rows], scores[rows], np.arange(inside.sum() + 1) * 6))
    assert longer.requests == inside.sum()
    assert nobody.requests == 0
    assert np.isnan(nobody.gauc.value)


def test_the_interval_covers_between_users_and_is_wider_than_one_over_requests():
    rng = np.random.default_rng(1)
    per_user = rng.normal(0.8, 0.1, size=40)
    user = np.repeat(np.arange(40), 50)
    values = per_user[user]
    estimate = UserBootstrap(user, draws=2_000).mean(values)
    standard_error = per_user.std(ddof=1) / np.sqrt(40)
    assert estimate.value == pytest.approx(per_user.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
    naive = UserBootstrap(np.arange(len(values)), draws=2_000).mean(values)
    assert naive.high - naive.low < (estimate.high - estimate.low) / 3


def test_requests_without_a_pair_count_nowhere():
    labels = np.array([0, 0, 1, 0], dtype=np.uint8)
    judge = Judge(labels, np.array([0, 2, 4]), np.array([7, 7]), np.array([5, 5]), buckets=(0,))
    (only,) = judge.score([np.array([0.0, 1.0, 2.0, 1.0])])
    assert only.requests == 1
    assert only.gauc.value == 1.0


def test_paired_differences_are_tighter_than_unpaired_ones_and_vanish_between_equals():
    rng = np.random.default_rng(2)
    labels, offsets, user = _requests(rng, users=60)
    noise = rng.normal(size=len(labels))
    base, better = 0.5 * labels + noise, 0.8 * labels + noise
    judge = Judge(labels, offsets, user, np.full(len(user), 100), buckets=(0,))
    gap = judge.difference([better], [base])[0]
    assert 0 < gap.low < gap.value < gap.high
    assert gap.value == pytest.approx(judge.score([better])[0].gauc.value - judge.score([base])[0].gauc.value)
    alone = judge.score([better])[0].gauc
    assert gap.high - gap.low < alone.high - alone.low
    same = judge.difference([base], [base])[0]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_seeds_are_averaged_and_their_spread_is_told_apart():
    rng = np.random.default_rng(3)
    labels, offsets, user = _requests(rng)
    runs = [labels + rng.normal(size=len(labels)) for _ in range(3)]
    judge = Judge(labels, offsets, user, np.full(len(user), 100), buckets=(0,))
    each = [gauc(labels, scores, offsets) for scores in runs]
    assert judge.score(runs)[0].gauc.value == pytest.approx(np.mean(each))
    assert judge.seed_deviation(runs)[0] == pytest.approx(np.std(each, ddof=1))
    assert np.isnan(judge.seed_deviation(runs[:1])[0])
    with pytest.raises(ValueError, match="no scores"):
        judge.score([])


def test_no_requests_at_all():
    judge = Judge(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert all(bucket.requests == 0 for bucket in judge.score([np.zeros(0)]))
