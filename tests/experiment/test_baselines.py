"""The neural baselines over flat batches: ragged equals one by one, candidates do not affect each other, they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scorer.experiment.baselines import new_baseline
from scorer.experiment.plan import BaselinePlan
from scorer.experiment.ragged import cut_tiles, top_tokens
from scorer.features.settings import FeatureSettings
from scorer.training.columns import Columns
from scorer.training.flat import Lookup, collate_flat, flat_inputs
from scorer.training.flat_predict import TILE, predict_flat
from scorer.training.flat_train import FlatTrainer
from scorer.training.settings import TrainingSettings
from scorer.training.steps import StepSize
from tests.experiment.logs import random_log

KINDS = ("pooling", "din", "two_stage")
CPU = torch.device("cpu")
STEP = StepSize(tokens=200, requests=6, targets=40)
FEATURES = FeatureSettings(item_buckets=64, group_buckets=16)


def _plan(kind, **sizes):
    return BaselinePlan(kind=kind, d=16, table_dim=4, hidden=16, unit_width=8, unit_hidden=4, head_dim=8, **sizes)


def _inputs(columns, requests, size=STEP, length=1_000):
    requests = np.asarray(requests)
    lengths = np.minimum(columns.history_end - columns.history_begin, length)[requests]
    batch = collate_flat(columns, requests, lengths, size, tile=TILE)
    return flat_inputs(batch, Lookup.of(columns, CPU, TILE[0]))


@pytest.fixture
def columns():
    log = random_log(5, events=120)
    assert (log.history_length == 0).any()
    return Columns.of(log.to_ranking_dataset(), FEATURES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_scores_as_its_requests_do_alone(kind, columns):
    model = new_baseline(_plan(kind, most_targets=5, top_k=7), FEATURES, 1, 0.1, seed=1).eval()
    requests = [3, 0, 7, 11, 5]
    with torch.no_grad():
        together = model(_inputs(columns, requests))[:25, 0, 0]
        for i, request in enumerate(requests):
            # A step of no token at all is none of the trainer's.
            length = max(1, int((columns.history_end - columns.history_begin)[request]))
            exact = StepSize(tokens=length, requests=1, targets=5)
            alone = model(_inputs(columns, [request], exact))[:5, 0, 0]
            torch.testing.assert_close(together[5 * i : 5 * i + 5], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_do_not_affect_each_other(kind, columns):
    model = new_baseline(_plan(kind), FEATURES, 1, 0.1, seed=1).eval()
    inputs = _inputs(columns, [3, 7])
    with torch.no_grad():
        before = model(inputs)[:10, 0, 0]
        inputs.targets["target_item_code"][4] *= -1
        after = model(inputs)[:10, 0, 0]
    changed = (before != after).nonzero().flatten().tolist()
    assert changed == [4]


@pytest.mark.parametrize("kind", ["din", "two_stage"])
def test_the_terms_of_the_events_count(kind, columns):
    model = new_baseline(_plan(kind), FEATURES, 1, 0.1, seed=1).eval()
    inputs = _inputs(columns, [3])
    with torch.no_grad():
        before = model(inputs)[:5]
        inputs.terms[:, 1:] *= 0.5
        assert (model(inputs)[:5] != before).all()


def test_two_stages_that_keep_everything_attend_to_everything_and_fewer_change_only_a_little(columns):
    inputs = _inputs(columns, [3, 7, 5])
    scores = {}
    for keep in (200, 60, 3):
        model = new_baseline(_plan("two_stage", top_k=keep), FEATURES, 1, 0.1, seed=1).eval()
        with torch.no_grad():
            scores[keep] = model(inputs)[:15, 0, 0]
    torch.testing.assert_close(scores[200], scores[60])
    assert (scores[3] != scores[200]).any()


def test_the_search_finds_the_highest_scores_of_each_request():
    rng = np.random.default_rng(0)
    tokens, targets = [0, 9, 9, 150], [0, 3, 5, 9]
    tiles = cut_tiles(torch.tensor(tokens), torch.tensor(targets), 150, 9, most_targets=4, tile=16)
    full = torch.from_numpy(rng.normal(size=(150, 9)).astype(np.float32))
    scores = full[tiles.tokens[:, :, None], tiles.targets[:, None, :]]
    rows, real = top_tokens(scores, tiles, 9, keep=11)
    for target in range(9):
        request = np.searchsorted(targets, target, side="right") - 1
        own = np.arange(tokens[request], tokens[request + 1])
        best = own[np.argsort(-full[own, target].numpy())][:11]
        assert rows[target][real[target]].tolist() == best.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_predicts_in_the_trainers_own_steps(kind):
    log = random_log(2, users=6, events=300, requests=80)
    # What was touched is touched again.
    for r in range(len(log)):
        seen = set(log.event_item[log.history_begin[r] : log.history_end[r]][-12:].tolist())
        span = slice(log.candidate_offsets[r], log.candidate_offsets[r + 1])
        log.label[span] = [item in seen for item in log.candidate_item[span].tolist()]
    columns = Columns.of(log.to_ranking_dataset(), FEATURES)
    plan = _plan(kind, most_targets=8)
    settings = TrainingSettings(
        epochs=6, step_tokens=600, step_requests=8, step_targets=60, min_history=8, max_history=100, learning_rate=1e-2
    )
    losses = []
    for _ in range(2):
        model = new_baseline(plan, FEATURES, 1, 0.3, seed=0)
        trainer = FlatTrainer(model, columns, np.arange(80), settings, device=CPU, forward=model)
        curve, _ = trainer.run()
        losses.append([point.loss for point in curve])
    assert losses[0] == losses[1]
    assert np.mean(losses[0][-8:]) < 0.85 * np.mean(losses[0][:8])
    size = StepSize(tokens=600, requests=8, targets=60)
    scores = predict_flat(model, columns, np.array([5, 2, 60]), 50, size, device=CPU, forward=model)
    assert scores.shape == (15, 1)
    assert np.isfinite(scores).all()
