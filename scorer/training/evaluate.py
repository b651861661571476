"""What a model would have answered to the requests of a dataset, and how good that is."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from scorer.metrics import RankingMetrics, ranking_metrics
from scorer.model import STCA
from scorer.model.grouped import score_grouped
from scorer.training.batches import collate, plan_groups
from scorer.training.dataset import RankingDataset
from scorer.training.workers import torch_workers

#: Only speed depends on it.
_GROUP_SIZE: Final = 8


def predict(
    model: STCA, dataset: RankingDataset, max_history: int | None = None, *, workers: int = 2
) -> NDArray[np.float32]:
    """Probabilities [T, tasks], each request with its `max_history` newest events (None: all that were served)."""
    available = dataset.history_end - dataset.history_begin
    lengths = available if max_history is None else np.minimum(available, max_history)
    probabilities = np.empty((len(dataset.target_item_id), len(model.tasks)), dtype=np.float32)
    was_training = model.training
    model.eval()

    def score(group: NDArray[np.int64]) -> None:
        step = collate(dataset, [group], lengths, model.features)
        with torch.no_grad():
            logits = score_grouped(model, step.history, step.targets, step.context, step.groups)
        probabilities[step.row] = torch.sigmoid(logits[step.slot]).numpy()

    with torch_workers(workers) as pool:
        # Drained for its exceptions.
        list(pool.map(score, plan_groups(dataset, _GROUP_SIZE, rng=None)))
    model.train(was_training)
    return probabilities


def evaluate(
    model: STCA, dataset: RankingDataset, max_history: int | None = None, *, workers: int = 2
) -> dict[str, RankingMetrics]:
    """The metrics of each task.

    Raises:
        ValueError: the dataset has other tasks than the model.
    """
    if dataset.tasks != model.tasks:
        raise ValueError(f"the dataset has tasks {dataset.tasks}, the model {model.tasks}")
    probabilities = predict(model, dataset, max_history, workers=workers)
    return {
        task: ranking_metrics(dataset.labels[:, a], probabilities[:, a], dataset.target_offsets)
        for a, task in enumerate(dataset.tasks)
    }
