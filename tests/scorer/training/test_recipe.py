"""A recipe gives a model that has learned, with teachers or without, the same one for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_log import FEATURES, SMALL, planted

from scorer.metrics import gauc
from scorer.training.columns import Columns
from scorer.training.distill import DistillSettings
from scorer.training.recipe import Recipe, fit, predict
from scorer.training.settings import TrainingSettings

CPU = torch.device("cpu")
DATA = planted(users=60, seed=0)
#: The last users are held out.
TRAINING, HELD_OUT = np.arange(240), np.arange(240, len(DATA))
PLAIN = Recipe(
    model=SMALL,
    features=FEATURES,
    training=TrainingSettings(
        epochs=6, learning_rate=3e-3, min_history=8, max_history=40, step_tokens=400, step_requests=24, step_targets=160
    ),
    rowwise_tables=True,
)
TAUGHT = replace(PLAIN, distill=DistillSettings(teachers=2))


@pytest.mark.parametrize("recipe", [PLAIN, TAUGHT], ids=["plain", "taught"])
def test_the_planted_rule_is_found_for_users_never_seen(recipe: Recipe) -> None:
    seen: list[str] = []
    fitted = fit(DATA, TRAINING, recipe, 0, device=CPU, on_progress=lambda name, *_: seen.append(name))
    logits = predict(fitted.model, Columns.of(DATA, FEATURES), HELD_OUT, 40, recipe, CPU)
    offsets = np.concatenate([[0], np.cumsum(np.diff(DATA.target_offsets)[HELD_OUT])])
    labels = DATA.labels[DATA.target_offsets[HELD_OUT[0]] :]
    assert gauc(labels[:, 0], logits[:, 0], offsets) > 0.85
    expected = {"model"} if recipe.distill is None else {"teacher 1 of 2", "teacher 2 of 2", "student"}
    assert set(seen) == expected


def test_the_same_seed_gives_the_same_student() -> None:
    quick = replace(TAUGHT, training=replace(TAUGHT.training, epochs=1))
    one, same, other = (fit(DATA, TRAINING, quick, seed, device=CPU) for seed in (1, 1, 2))
    assert one.curve == same.curve != other.curve
    for a, b in zip(one.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(a, b)
