"""A student learns its teachers' mean, also where there are no labels; nothing held out is looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_log import FEATURES, planted

from scorer.training.columns import Columns
from scorer.training.distill import DistillSettings, soft_columns, with_unlabelled

DATA = planted(users=6, requests_per_user=6, history=200, seed=0)
SETTINGS = DistillSettings(unlabelled=0.5, spread=0.3)


def test_unlabelled_requests_see_what_the_users_training_requests_saw_and_no_more() -> None:
    # The last request of each user is held out.
    training = np.array([r for r in range(len(DATA)) if r % 6 != 5])
    both, added = with_unlabelled(DATA, training, SETTINGS, np.random.default_rng(1))
    assert len(added) == round(0.5 * len(training))
    assert added.tolist() == list(range(len(DATA), len(both)))
    moved = 0
    for request in added:
        user = both.user_id[request]
        latest = DATA.history_end[training][DATA.user_id[training] == user].max()
        assert both.history_end[request] <= latest
        assert both.history_end[request] - both.history_begin[request] >= SETTINGS.min_history
        assert both.request_time_ms[request] >= both.events["event_time_ms"][both.history_end[request] - 1]
        (source,) = np.flatnonzero(DATA.request_id == both.request_id[request])
        mine = slice(both.target_offsets[request], both.target_offsets[request + 1])
        its = slice(DATA.target_offsets[source], DATA.target_offsets[source + 1])
        assert np.array_equal(both.target_item_id[mine], DATA.target_item_id[its])
        moved += both.history_end[request] != DATA.history_end[source]
    assert moved > len(added) / 2
    # What was there is as it was.
    assert np.array_equal(both.labels[: len(DATA.labels)], DATA.labels)
    assert np.array_equal(both.history_end[: len(DATA)], DATA.history_end)


def test_the_teachers_word_is_mixed_in_as_far_as_asked() -> None:
    columns = Columns.of(DATA, FEATURES)
    labelled, free, other = np.array([3, 1]), np.array([7]), 2
    logits = [
        np.random.default_rng(r).normal(size=(int(np.diff(DATA.target_offsets)[r]), 1)).astype(np.float32)
        for r in (3, 1, 7)
    ]
    soft = soft_columns(columns, labelled, free, np.concatenate(logits), alpha=0.25)
    for request, its, alpha in zip((3, 1, 7), logits, (0.25, 0.25, 1.0), strict=True):
        rows = slice(DATA.target_offsets[request], DATA.target_offsets[request + 1])
        hard = DATA.labels[rows]
        expected = (1 - alpha) * hard + alpha / (1 + np.exp(-its))
        np.testing.assert_allclose(soft.labels[rows].numpy(), expected, rtol=1e-5)
        softmax = np.exp(its) / np.exp(its).sum()
        shares = (1 - alpha) * hard / max(1, hard.sum()) + alpha * softmax
        np.testing.assert_allclose(soft.shares[rows].numpy(), shares, rtol=1e-5)
    rows = slice(DATA.target_offsets[other], DATA.target_offsets[other + 1])
    assert np.array_equal(soft.labels[rows].numpy(), columns.labels[rows].numpy())


def test_no_history_that_is_long_enough_is_refused() -> None:
    with pytest.raises(ValueError, match="a history of 500 events"):
        with_unlabelled(DATA, np.arange(len(DATA)), DistillSettings(min_history=500), np.random.default_rng(0))


def test_a_history_never_reaches_into_another_epoch() -> None:
    """Users 1 and 2 become two epochs of one user, numbered afresh; their rows follow each other."""
    one_user = replace(DATA, user_id=np.where(DATA.user_id <= 2, np.uint64(1), DATA.user_id))
    wide = DistillSettings(unlabelled=1.0, spread=3.0)
    both, added = with_unlabelled(one_user, np.arange(len(DATA)), wide, np.random.default_rng(0))
    # The dataset itself refuses a history that is not numbered without a gap; and they end all over the place.
    assert len(set(both.history_end[added].tolist())) > 10
    assert (both.history_end[added] - both.history_begin[added] <= 200).all()


def test_without_unlabelled_requests_the_dataset_is_as_it_was() -> None:
    same, added = with_unlabelled(DATA, np.arange(6), DistillSettings(unlabelled=0), np.random.default_rng(0))
    assert same is DATA
    assert added.tolist() == []
