"""From a dataset to a trained model: one recipe, as data, for experiments and for the nightly retrain on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from scorer.features import FeatureSettings
from scorer.model import STCA, ModelSettings
from scorer.training.columns import Columns
from scorer.training.dataset import RankingDataset
from scorer.training.distill import DistillSettings, soft_columns, with_unlabelled
from scorer.training.flat import StepSize
from scorer.training.flat_train import FlatTrainer, Throughput, predict_flat, stca_forward, stca_tables
from scorer.training.settings import TrainingSettings
from scorer.training.train import CurvePoint, new_model, start_at_rates


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes a model beside its data and its seed."""

    model: ModelSettings
    features: FeatureSettings = field(default_factory=FeatureSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    #: None: one model on the labels alone.
    distill: DistillSettings | None = None
    #: Row-wise Adagrad for the id tables, whatever their size; else AdamW like all other weights.
    rowwise_tables: bool = False
    compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A model and how it came to be."""

    model: STCA
    curve: list[CurvePoint]
    throughput: Throughput


#: Called after some steps with what is being trained, the newest point and the number of steps.
OnProgress = Callable[[str, CurvePoint, int], None]


def fit(
    dataset: RankingDataset,
    requests: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    *,
    device: torch.device,
    on_progress: OnProgress | None = None,
) -> Fitted:
    """A model trained on `requests` (indices) of the dataset; its curve is the student's where there are teachers.

    Raises:
        ValueError: no requests, or one that is larger than a step.
        FloatingPointError: the loss is not finite.
    """
    if recipe.distill is None:
        return _train(Columns.of(dataset, recipe.features), requests, recipe, seed, "model", device, on_progress)
    rng = np.random.default_rng(seed)
    both, unlabelled = with_unlabelled(dataset, requests, recipe.distill, rng)
    columns = Columns.of(both, recipe.features)
    everything = np.concatenate([requests, unlabelled])
    mean: NDArray[np.float32] | None = None
    for number in range(recipe.distill.teachers):
        teacher_seed = int(rng.integers(1 << 31))
        name = f"teacher {number + 1} of {recipe.distill.teachers}"
        teacher = _train(columns, requests, recipe, teacher_seed, name, device, on_progress).model
        logits = predict(teacher, columns, everything, recipe.training.max_history, recipe, device)
        mean = logits if mean is None else mean + logits
        del teacher
        _release(device)
    assert mean is not None
    soft = soft_columns(columns, requests, unlabelled, mean / recipe.distill.teachers, recipe.distill.alpha)
    return _train(soft, everything, recipe, seed, "student", device, on_progress)


def predict(
    model: STCA,
    columns: Columns,
    requests: NDArray[np.int64],
    max_history: int,
    recipe: Recipe,
    device: torch.device,
) -> NDArray[np.float32]:
    """Logits [T of `requests` in their order, A]; see `predict_flat`."""
    training = recipe.training
    size = StepSize(
        tokens=max(training.step_tokens, max_history),
        requests=training.step_requests,
        targets=training.step_targets,
    )
    return predict_flat(model, columns, requests, max_history, size, device=device, forward=stca_forward(model))


def _train(
    columns: Columns,
    requests: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    name: str,
    device: torch.device,
    on_progress: OnProgress | None,
) -> Fitted:
    model = new_model(recipe.model, recipe.features, columns.tasks, seed)
    start_at_rates(model, _rates(columns, requests))
    model.to(device)
    trainer = FlatTrainer(
        model,
        columns,
        requests,
        replace(recipe.training, seed=seed),
        device=device,
        forward=stca_forward(model),
        tables=stca_tables(model) if recipe.rowwise_tables else (),
        compiled=recipe.compiled,
    )

    def on_step(point: CurvePoint, steps: int) -> None:
        if on_progress is not None:
            on_progress(name, point, steps)

    curve, throughput = trainer.run(on_step=on_step)
    return Fitted(model=model, curve=curve, throughput=throughput)


def _rates(columns: Columns, requests: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean label of these requests' targets, [A]."""
    counts = np.diff(columns.target_offsets)
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[requests] = True
    rates: NDArray[np.float64] = columns.labels.numpy()[np.repeat(chosen, counts)].mean(axis=0, dtype=np.float64)
    return rates


def _release(device: torch.device) -> None:
    """Captured graphs keep their memory until they are collected."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
