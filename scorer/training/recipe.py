"""From a dataset to a trained model: one recipe, as data, for experiments and for the nightly retrain on a GPU."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorer.features import FeatureSettings
from scorer.model import STCA, ModelSettings
from scorer.training.checkpoint import Checkpoints
from scorer.training.columns import Columns
from scorer.training.dataset import RankingDataset
from scorer.training.distill import DistillSettings, soft_columns, with_unlabelled
from scorer.training.flat_predict import predict_flat, stca_forward
from scorer.training.flat_train import FlatTrainer, Report, Throughput, stca_tables
from scorer.training.settings import TrainingSettings
from scorer.training.steps import StepSize
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
    #: Of the parts that this process ran itself.
    throughput: list[Throughput]


#: Called after some steps with what is being trained and where it is.
OnProgress = Callable[[str, Report], None]


def fit(
    dataset: RankingDataset,
    requests: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    *,
    device: torch.device,
    weights: Mapping[str, Tensor] | None = None,
    checkpoints: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Fitted:
    """A model trained on `requests` (indices) of the dataset; its curve is the student's where there are teachers.

    Args:
        weights: where every model starts: a warm start. None: afresh, from its seed.
        checkpoints: a directory from which a killed run, called again with the same arguments, goes on.

    Raises:
        ValueError: no requests, one that is larger than a step, or checkpoints of another run.
        FloatingPointError: the loss is not finite.
    """
    run = _Run(dataset, requests, recipe, seed, device, weights, checkpoints, on_progress)
    if recipe.distill is None:
        return run.train(Columns.of(dataset, recipe.features), requests, seed, "model")
    rng = np.random.default_rng(seed)
    both, unlabelled = with_unlabelled(dataset, requests, recipe.distill, rng)
    columns = Columns.of(both, recipe.features)
    everything = np.concatenate([requests, unlabelled])
    mean = np.zeros((int(np.diff(both.target_offsets)[everything].sum()), len(both.tasks)), dtype=np.float32)
    for number in range(1, recipe.distill.teachers + 1):
        teacher_seed = int(rng.integers(1 << 31))
        mean += run.teach(columns, everything, teacher_seed, f"teacher {number} of {recipe.distill.teachers}")
    soft = soft_columns(columns, requests, unlabelled, mean / recipe.distill.teachers, recipe.distill.alpha)
    return run.train(soft, everything, seed, "student")


def predict(
    model: STCA,
    columns: Columns,
    requests: NDArray[np.int64],
    max_history: int,
    recipe: Recipe,
    device: torch.device,
) -> NDArray[np.float32]:
    """Logits [T of `requests` in their order, A]; see `predict_flat`."""
    size = StepSize.of(recipe.training, max_history)
    return predict_flat(model, columns, requests, max_history, size, device=device, forward=stca_forward(model))


class _Run:
    """What all trainings of one `fit` have in common."""

    def __init__(
        self,
        dataset: RankingDataset,
        requests: NDArray[np.int64],
        recipe: Recipe,
        seed: int,
        device: torch.device,
        weights: Mapping[str, Tensor] | None,
        checkpoints: Path | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._requests, self._recipe, self._device = requests, recipe, device
        self._weights, self._on_progress = weights, on_progress
        self._checkpoints: Checkpoints | None = None
        if checkpoints is not None:
            plan = {
                "recipe": asdict(recipe),
                "seed": seed,
                "device": device.type,
                "requests": hashlib.sha256(requests.tobytes()).hexdigest(),
                "data": dataset.digest(),
                "weights": None if weights is None else _digest(weights),
            }
            self._checkpoints = Checkpoints(checkpoints, plan)

    def train(self, columns: Columns, requests: NDArray[np.int64], seed: int, name: str) -> Fitted:
        """One model on `requests` of the columns."""
        recipe = self._recipe
        model = new_model(recipe.model, recipe.features, columns.tasks, seed)
        if self._weights is None:
            start_at_rates(model, _rates(columns, self._requests))
        else:
            model.load_state_dict(self._weights)
        model.to(self._device)
        trainer = FlatTrainer(
            model,
            columns,
            requests,
            replace(recipe.training, seed=seed),
            device=self._device,
            forward=stca_forward(model),
            tables=stca_tables(model) if recipe.rowwise_tables else (),
            compiled=recipe.compiled,
        )

        def on_report(report: Report) -> None:
            if self._on_progress is not None:
                self._on_progress(name, report)

        if self._checkpoints is not None:
            curve, throughput = self._checkpoints.run(name.replace(" ", "-"), trainer, on_report)
        else:
            curve, once = trainer.run(on_report=on_report)
            throughput = [once]
        return Fitted(model=model, curve=curve, throughput=throughput)

    def teach(self, columns: Columns, everything: NDArray[np.int64], seed: int, name: str) -> NDArray[np.float32]:
        """Logits of a teacher, trained on the labelled requests, for `everything`."""
        kept = self._checkpoints.array(name.replace(" ", "-")) if self._checkpoints is not None else None
        if kept is not None:
            return kept
        teacher = self.train(columns, self._requests, seed, name).model
        logits = predict(teacher, columns, everything, self._recipe.training.max_history, self._recipe, self._device)
        del teacher
        # Captured graphs keep their memory until they are collected.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._checkpoints is not None:
            self._checkpoints.keep(name.replace(" ", "-"), logits)
        return logits


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _rates(columns: Columns, requests: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean label of these requests' targets, [A]."""
    counts = np.diff(columns.target_offsets)
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[requests] = True
    rates: NDArray[np.float64] = columns.labels.numpy()[np.repeat(chosen, counts)].mean(axis=0, dtype=np.float64)
    return rates
