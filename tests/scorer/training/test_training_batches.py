"""Many requests at once give what each gives alone, and training and serving compute the same function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_log import FEATURES, SMALL, planted

from scorer.export.graphs import tensors
from scorer.features import HistoryHead, featurise_history, featurise_targets
from scorer.model import STCA
from scorer.model.grouped import score_grouped
from scorer.training.batches import collate, draw_lengths, plan_groups
from scorer.training.dataset import RankingDataset
from scorer.training.evaluate import predict
from scorer.training.losses import listwise_shares, ranking_losses

DATASET = planted(tasks=("touch", "like"))
AVAILABLE = DATASET.history_end - DATASET.history_begin


@pytest.fixture(scope="module")
def model() -> STCA:
    torch.manual_seed(0)
    model = STCA(SMALL, FEATURES, DATASET.tasks).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def alone(model: STCA, dataset: RankingDataset, request: int, length: int) -> torch.Tensor:
    """Logits [m, tasks] as serving computes them."""
    end = int(dataset.history_end[request])
    history = dataset.events[end - length : end]
    first = int(dataset.seq_no[request]) - length + 1
    head = HistoryHead.of(history, first)
    span = slice(dataset.target_offsets[request], dataset.target_offsets[request + 1])
    targets = featurise_targets(
        dataset.target_item_id[span],
        dataset.target_group_id[span],
        int(dataset.request_time_ms[request]),
        head,
        FEATURES,
    )
    with torch.no_grad():
        return model.score(tensors(targets), *model.encode(tensors(featurise_history(history, first, head, FEATURES))))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), group_size=st.integers(1, 8))
def test_a_ragged_step_equals_one_request_at_a_time(model: STCA, seed: int, group_size: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, AVAILABLE + 1)
    groups = plan_groups(DATASET, group_size, rng)[:3]
    step = collate(DATASET, groups, lengths, FEATURES)
    with torch.no_grad():
        logits = score_grouped(model, step.history, step.targets, step.context, step.groups)[step.slot]
    expected = torch.cat([alone(model, DATASET, int(r), int(lengths[r])) for group in groups for r in group])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(step.labels.numpy(), DATASET.labels[step.row])
    rows = [np.arange(DATASET.target_offsets[r], DATASET.target_offsets[r + 1]) for group in groups for r in group]
    np.testing.assert_array_equal(step.row, np.concatenate(rows))


@pytest.mark.parametrize("max_history", [None, 0, 1, 16])
def test_predictions_come_back_in_the_datasets_order(model: STCA, max_history: int | None) -> None:
    order = np.random.default_rng(3).permutation(len(DATASET))
    shuffled = DATASET.select(order)
    probabilities = predict(model, shuffled, max_history)
    for request in range(len(shuffled)):
        length = int(shuffled.history_end[request] - shuffled.history_begin[request])
        length = length if max_history is None else min(length, max_history)
        span = slice(shuffled.target_offsets[request], shuffled.target_offsets[request + 1])
        expected = torch.sigmoid(alone(model, shuffled, request, length)).numpy()
        np.testing.assert_allclose(probabilities[span], expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    available=st.lists(st.integers(0, 3_000), min_size=1, max_size=50),
    minimum=st.integers(1, 100),
    more=st.integers(0, 2_000),
    seed=st.integers(0, 99),
)
def test_drawn_lengths_are_within_bounds(available: list[int], minimum: int, more: int, seed: int) -> None:
    have = np.array(available)
    lengths = draw_lengths(have, minimum, minimum + more, (0.5, 0.3), np.random.default_rng(seed))
    assert (lengths <= have).all()
    assert (lengths >= np.minimum(have, minimum)).all()
    assert (lengths <= minimum + more).all()
    assert ((lengths % 8 == 0) | (lengths == have) | (lengths == minimum + more)).all()


def test_drawn_lengths_are_u_shaped() -> None:
    lengths = draw_lengths(np.full(20_000, 10**6), 8, 1_000, (0.3, 0.3), np.random.default_rng(0))
    low, middle, high = np.histogram(lengths, bins=[0, 340, 670, 1_010])[0]
    assert min(low, high) > 1.5 * middle


@settings(max_examples=25, deadline=None)
@given(group_size=st.integers(1, 8), seed=st.integers(0, 99))
def test_every_request_is_in_one_group_of_one_user(group_size: int, seed: int) -> None:
    groups = plan_groups(DATASET, group_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(DATASET)))
    for group in groups:
        assert 1 <= len(group) <= group_size
        assert len(set(DATASET.user_id[group].tolist())) == 1
        assert (np.diff(DATASET.history_end[group]) >= 0).all()


def test_epochs_of_a_user_do_not_share_a_group() -> None:
    # The same user twice, with rows that do not touch: as after an erasure.
    both = DATASET.select(np.concatenate([np.arange(0, 6), np.arange(12, 18)]))
    both = replace(both, user_id=np.ones(12, dtype=np.uint64))
    for group in plan_groups(both, 8, None):
        with_history = group[both.history_end[group] > both.history_begin[group]]
        assert len({int(both.history_begin[r]) for r in with_history}) <= 1


def shares_of(labels: torch.Tensor, *offsets: int) -> torch.Tensor:
    return torch.from_numpy(listwise_shares(labels.numpy().astype(np.uint8), np.array(offsets)))


def test_losses_are_means_over_targets_then_requests() -> None:
    logits = torch.tensor([[0.3], [-1.2], [2.0], [0.1], [0.7]])
    labels = torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0]])
    request, half = torch.tensor([0, 0, 1, 1, 1]), torch.full((2,), 1 / 2)
    binary, listwise = ranking_losses(logits, labels, shares_of(labels, 0, 2, 5), request, half)
    p = torch.sigmoid(logits[:, 0])
    first = -(p[0].log() + (1 - p[1]).log()) / 2
    second = -((1 - p[2]).log() + p[3].log() + p[4].log()) / 3
    torch.testing.assert_close(binary, (first + second) / 2)
    one, two = torch.log_softmax(logits[:2, 0], 0), torch.log_softmax(logits[2:, 0], 0)
    torch.testing.assert_close(listwise, -(one[0] + (two[1] + two[2]) / 2) / 2)


def test_tasks_count_by_their_weights() -> None:
    logits, labels = torch.randn(5, 2), torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 1], [1, 0]])
    request, half, shares = torch.tensor([0, 0, 1, 1, 1]), torch.full((2,), 1 / 2), shares_of(labels, 0, 2, 5)
    both = ranking_losses(logits, labels, shares, request, half, torch.tensor([0.25, 3.0]))
    first, second = (
        ranking_losses(logits[:, [task]], labels[:, [task]], shares[:, [task]], request, half) for task in (0, 1)
    )
    for weighted, one, two in zip(both, first, second, strict=True):
        torch.testing.assert_close(weighted, 0.25 * one + 3.0 * two)


def test_a_request_without_a_positive_adds_nothing_to_the_listwise_loss() -> None:
    logits = torch.tensor([[0.3], [-1.2]], requires_grad=True)
    none = torch.zeros(2, 1)
    request = torch.zeros(2, dtype=torch.int64)
    _, listwise = ranking_losses(logits, none, shares_of(none, 0, 2), request, torch.ones(1))
    (gradient,) = torch.autograd.grad(listwise, logits)
    assert listwise.item() == 0
    assert not gradient.any()
