"""Training finds a planted rule, twice the same way, and starts where it is told to."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_log import FEATURES, SMALL, planted

from scorer.model import STCA
from scorer.training.dataset import RankingDataset
from scorer.training.evaluate import evaluate, predict
from scorer.training.settings import TrainingSettings
from scorer.training.train import CurvePoint, new_model, save_curve, set_base_rates, train

SETTINGS = TrainingSettings(epochs=4, learning_rate=3e-3, min_history=8, max_history=40, groups_per_step=2)
TRAINING, HOLDOUT, LITTLE = planted(users=40, seed=0), planted(users=20, seed=1), planted(users=8, seed=2)
QUICK = replace(SETTINGS, epochs=1, learning_rate=1e-3)


def fresh(dataset: RankingDataset = TRAINING) -> STCA:
    model = new_model(SMALL, FEATURES, dataset.tasks, seed=0)
    set_base_rates(model, dataset)
    return model


@pytest.fixture(scope="module")
def trained() -> tuple[STCA, list[CurvePoint]]:
    model = fresh()
    return model, train(model, TRAINING, SETTINGS)


def test_the_planted_rule_is_found_for_items_never_trained(trained: tuple[STCA, list[CurvePoint]]) -> None:
    model, curve = trained
    quarter = len(curve) // 4
    assert np.mean([p.loss for p in curve[-quarter:]]) < 0.8 * np.mean([p.loss for p in curve[:quarter]])
    assert evaluate(model, HOLDOUT)["touch"].gauc > 0.85
    assert evaluate(fresh(), HOLDOUT)["touch"].gauc < 0.7
    # Without the history the rule can't be seen.
    assert evaluate(model, HOLDOUT, max_history=0)["touch"].gauc < 0.6


def test_two_runs_are_the_same_and_another_seed_is_another_run() -> None:
    models = [fresh(), fresh(), fresh()]
    seeds = (0, 0, 1)
    curves = [
        train(model, LITTLE, replace(QUICK, epochs=2, seed=seed)) for model, seed in zip(models, seeds, strict=True)
    ]
    assert curves[0] == curves[1]
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)
    assert curves[2] != curves[0]


def test_the_number_of_workers_changes_the_last_bits_only() -> None:
    curves = [train(fresh(), LITTLE, replace(QUICK, workers=workers)) for workers in (1, 2, 3)]
    for curve in curves[1:]:
        np.testing.assert_allclose([p.loss for p in curve], [p.loss for p in curves[0]], rtol=1e-3)


def test_a_warm_start_begins_where_the_last_run_ended(trained: tuple[STCA, list[CurvePoint]]) -> None:
    model, curve = trained
    warm = new_model(SMALL, FEATURES, TRAINING.tasks, seed=5)
    warm.load_state_dict(model.state_dict())
    continued = train(warm, TRAINING.select(np.arange(60)), replace(QUICK, learning_rate=1e-4))
    assert np.mean([p.loss for p in continued]) < 0.8 * np.mean([p.loss for p in curve[:10]])


def test_every_parameter_learns(trained: tuple[STCA, list[CurvePoint]]) -> None:
    before = dict(fresh().named_parameters())
    still = [name for name, parameter in trained[0].named_parameters() if torch.equal(parameter, before[name])]
    assert not still


def test_the_callback_sees_every_step_and_the_curve_is_kept(tmp_path: Path) -> None:
    seen: list[tuple[CurvePoint, int]] = []
    settings = replace(QUICK, epochs=2)
    curve = train(fresh(), LITTLE, settings, lambda point, total: seen.append((point, total)))
    assert [point for point, _ in seen] == curve
    assert {total for _, total in seen} == {len(curve)}
    assert sum(point.requests for point in curve) == 2 * len(LITTLE)
    save_curve(curve, tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [point.loss for point in curve]


def test_base_rates_calibrate_an_untrained_model() -> None:
    model = fresh(HOLDOUT)
    with torch.no_grad():
        model.heads[0].logits.weight.zero_()
    np.testing.assert_allclose(predict(model, HOLDOUT), HOLDOUT.labels.mean(), rtol=1e-5)


def test_new_model_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fresh()
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="no requests"):
        train(fresh(), TRAINING.select(np.empty(0, dtype=np.int64)), SETTINGS)
    other = replace(TRAINING, tasks=("like",))
    with pytest.raises(ValueError, match=r"tasks \('like',\)"):
        train(fresh(), other, SETTINGS)
    with pytest.raises(ValueError, match=r"tasks \('like',\)"):
        evaluate(fresh(), other)
    broken = fresh()
    with torch.no_grad():
        broken.heads[0].logits.bias.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="at step 0"):
        train(broken, TRAINING, SETTINGS)
    with pytest.raises(ValueError, match="min_history"):
        TrainingSettings(min_history=100, max_history=50)
