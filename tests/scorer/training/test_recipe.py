"""A recipe gives a model that has learned, with teachers or without, the same one for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_log import FEATURES, SMALL, planted

from scorer.metrics import gauc
from scorer.training.columns import Columns
from scorer.training.distill import DistillSettings
from scorer.training.flat_train import Report
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
    fitted = fit(DATA, TRAINING, recipe, 0, device=CPU, on_progress=lambda name, _: seen.append(name))
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


class _KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_student(tmp_path: Path) -> None:
    quick = replace(TAUGHT, training=replace(TAUGHT.training, epochs=2))
    whole = fit(DATA, TRAINING, quick, 3, device=CPU)

    def killed_at(name: str) -> Callable[[str, Report], None]:
        def on_progress(now: str, report: Report) -> None:
            if now == name and report.point.step > 5:
                raise _KilledError

        return on_progress

    for moment in ("teacher 1 of 2", "teacher 2 of 2", "student"):
        with pytest.raises(_KilledError):
            fit(DATA, TRAINING, quick, 3, device=CPU, checkpoints=tmp_path, on_progress=killed_at(moment))
    seen: list[str] = []
    again = fit(
        DATA, TRAINING, quick, 3, device=CPU, checkpoints=tmp_path, on_progress=lambda name, _: seen.append(name)
    )
    assert set(seen) == {"student"}
    assert again.curve == whole.curve
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="seed was 3 when this run began and is 4 now"):
        fit(DATA, TRAINING, quick, 4, device=CPU, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="data was"):
        fit(planted(users=60, seed=9), TRAINING, quick, 3, device=CPU, checkpoints=tmp_path)


def test_a_warm_start_starts_where_it_is_told_to() -> None:
    first = fit(DATA, TRAINING, PLAIN, 0, device=CPU)
    still = replace(PLAIN, training=replace(PLAIN.training, epochs=1, learning_rate=1e-9, table_learning_rate=1e-9))
    warm = fit(DATA, TRAINING, still, 1, device=CPU, weights=first.model.state_dict())
    for a, b in zip(first.model.parameters(), warm.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
