"""What a model would have answered to the requests of a dataset, and how good that is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from scorer.metrics import RankingMetrics, ranking_metrics
from scorer.model import STCA
from scorer.model.grouped import score_grouped
from scorer.training.batches import iterate_steps, plan_groups
from scorer.training.dataset import RankingDataset

#: Only speed depends on these.
_GROUP_SIZE, _GROUPS_PER_STEP = 8, 2


def predict(model: STCA, dataset: RankingDataset, max_history: int | None = None) -> NDArray[np.float32]:
    """Probabilities [T, tasks], each request with its `max_history` newest events (None: all that were served)."""
    available = dataset.history_end - dataset.history_begin
    lengths = available if max_history is None else np.minimum(available, max_history)
    probabilities = np.empty((len(dataset.target_item_id), len(model.tasks)), dtype=np.float32)
    was_training = model.training
    model.eval()
    groups = plan_groups(dataset, _GROUP_SIZE, rng=None)
    with torch.no_grad():
        for step in iterate_steps(dataset, groups, lengths, _GROUPS_PER_STEP, model.features):
            logits = score_grouped(model, step.history, step.targets, step.context, step.groups)
            probabilities[step.row] = torch.sigmoid(logits[step.slot]).numpy()
    model.train(was_training)
    return probabilities


def evaluate(model: STCA, dataset: RankingDataset, max_history: int | None = None) -> dict[str, RankingMetrics]:
    """The metrics of each task.

    Raises:
        ValueError: the dataset has other tasks than the model.
    """
    if dataset.tasks != model.tasks:
        raise ValueError(f"the dataset has tasks {dataset.tasks}, the model {model.tasks}")
    probabilities = predict(model, dataset, max_history)
    return {
        task: ranking_metrics(dataset.labels[:, a], probabilities[:, a], dataset.target_offsets)
        for a, task in enumerate(dataset.tasks)
    }
