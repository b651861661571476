"""Trains the neural models of a plan and keeps their scores: all that runs on the machine with the accelerator.

    python -m scorer.experiment.run --arrays ARRAYS --config plan.json --out OUT [--device cuda] [--only NAME ...]

Needs torch and numpy. What is scored already is skipped, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scorer.experiment.arrays import LogArrays
from scorer.experiment.baselines import new_baseline
from scorer.experiment.plan import BaselineRecipe, ExperimentPlan, mapping_of, plan_of
from scorer.experiment.store import ScoreStore
from scorer.training.columns import Columns
from scorer.training.dataset import RankingDataset
from scorer.training.flat_predict import Forward, predict_flat, stca_forward
from scorer.training.flat_train import FlatTrainer, Throughput
from scorer.training.recipe import Recipe, fit
from scorer.training.settings import TrainingSettings
from scorer.training.steps import StepSize

#: Told: what is being done, how much of it is done, and how much there is.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Trained:
    model: nn.Module
    forward: Forward
    columns: Columns
    training: TrainingSettings
    throughput: list[Throughput]


def train_and_score(
    log: LogArrays,
    plan: ExperimentPlan,
    store: ScoreStore,
    device: torch.device,
    on_progress: OnProgress,
    only: Sequence[str] = (),
) -> None:
    """Every neural scorer of the plan, or `only` these, with every seed, as far as its scores are missing.

    Raises:
        ValueError: no such scorer, no training requests, or a request that is larger than a step.
    """
    names = [*plan.baselines, *plan.stca]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(f"no neural scorer {', '.join(unknown)}; there are {', '.join(names)}")
    dataset: RankingDataset | None = None
    for run in (run for name in (only or names) for run in store.runs(name)):
        missing = store.missing(run)
        if not missing:
            continue
        dataset = dataset or log.to_ranking_dataset(event_time=plan.event_time)
        label = f"{run.name}, seed {run.seed}"
        settings = plan.settings_of(run.name)
        where = (dataset, store.requests("train"), run.seed, device, label, on_progress)
        if isinstance(settings, BaselineRecipe):
            trained = _train_baseline(settings, *where)
        else:
            assert isinstance(settings, Recipe)
            trained = _train_stca(settings, *where)
        store.keep_beside(run, "settings", mapping_of(settings))
        store.keep_beside(run, "throughput", {"runs": [asdict(one) for one in trained.throughput]})
        for at, (part, length) in enumerate(missing):
            on_progress(f"{label}: scores", at, len(missing))
            store.save(run, part, length, _predict(trained, store.requests(part), length, device))
        on_progress(f"{label}: scores", len(missing), len(missing))
        del trained
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _train_baseline(
    recipe: BaselineRecipe,
    dataset: RankingDataset,
    requests: NDArray[np.int64],
    seed: int,
    device: torch.device,
    label: str,
    on_progress: OnProgress,
) -> _Trained:
    columns = Columns.of(dataset, recipe.features)
    most = int(np.diff(columns.target_offsets).max(initial=0))
    if most > recipe.model.most_targets:
        raise ValueError(f"{label}: a request has {most} candidates; raise most_targets")
    rate = float(dataset.select(requests).labels.mean()) if len(requests) else 0.5
    model = new_baseline(recipe.model, recipe.features, len(columns.tasks), rate, seed).to(device)
    trainer = FlatTrainer(
        model,
        columns,
        requests,
        replace(recipe.training, seed=seed),
        device=device,
        forward=model,
        compiled=recipe.compiled,
    )
    _, throughput = trainer.run(
        on_report=lambda report: on_progress(f"{label}: steps", report.point.step + 1, report.steps)
    )
    return _Trained(model, model, columns, recipe.training, [throughput])


def _train_stca(
    recipe: Recipe,
    dataset: RankingDataset,
    requests: NDArray[np.int64],
    seed: int,
    device: torch.device,
    label: str,
    on_progress: OnProgress,
) -> _Trained:
    fitted = fit(
        dataset,
        requests,
        recipe,
        seed,
        device=device,
        on_progress=lambda what, report: on_progress(f"{label}: {what}, steps", report.point.step + 1, report.steps),
    )
    columns = Columns.of(dataset, recipe.features)
    return _Trained(fitted.model, stca_forward(fitted.model), columns, recipe.training, fitted.throughput)


def _predict(trained: _Trained, requests: NDArray[np.int64], length: int, device: torch.device) -> NDArray[np.float32]:
    size = StepSize.of(trained.training, length)
    logits_TA = predict_flat(
        trained.model, trained.columns, requests, length, size, device=device, forward=trained.forward
    )
    scores: NDArray[np.float32] = logits_TA[:, 0]
    return scores


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scorer.experiment.run", description=__doc__)
    parser.add_argument("--arrays", type=Path, required=True, help="What `longrank experiment` prepared.")
    parser.add_argument("--config", type=Path, required=True, help="The plan as JSON.")
    parser.add_argument("--out", type=Path, required=True, help="Scores go below this directory.")
    parser.add_argument("--device", default="cuda", help="cuda or cpu [cuda].")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="These scorers alone.")
    wanted = parser.parse_args(argv)
    if wanted.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none; --device cpu trains without")
    try:
        plan: ExperimentPlan = plan_of(json.loads(wanted.config.read_text()))
        log = LogArrays.load(wanted.arrays)
        store = ScoreStore(wanted.out, plan, log, wanted.arrays)
        train_and_score(log, plan, store, torch.device(wanted.device), _Lines(), wanted.only)
    except (OSError, ValueError) as error:
        parser.error(str(error))


class _Lines:
    """Progress as lines on standard error: each new thing, and every tenth of it."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] = ()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = (what, 10 * done // max(total, 1))
        if now != self._last:
            print(f"{what} {done:,} of {total:,}", file=sys.stderr, flush=True)
            self._last = now


if __name__ == "__main__":
    main()
