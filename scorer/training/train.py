"""Train a model on a dataset: seeded, deterministic on the CPU, a warm start if one is given."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scorer.features import FeatureSettings
from scorer.model import STCA, ModelSettings
from scorer.model.grouped import score_grouped
from scorer.training.batches import collate, draw_lengths, plan_groups
from scorer.training.dataset import RankingDataset
from scorer.training.losses import ranking_losses
from scorer.training.settings import TrainingSettings
from scorer.training.workers import torch_workers


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One optimiser step."""

    step: int
    epoch: int
    requests: int
    loss: float
    binary: float
    listwise: float
    learning_rate: float


#: Called after every step with the point and the number of steps in all; progress bars hang here.
OnStep = Callable[[CurvePoint, int], None]


def new_model(settings: ModelSettings, features: FeatureSettings, tasks: tuple[str, ...], seed: int) -> STCA:
    """An untrained model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STCA(settings, features, tasks)


def train(
    model: STCA, dataset: RankingDataset, settings: TrainingSettings, on_step: OnStep | None = None
) -> list[CurvePoint]:
    """Trains `model` in place, from whatever weights it has; returns the loss curve.

    Two runs with the same weights, data, settings and machine give the same curve.

    Raises:
        ValueError: no requests, other tasks than the model's, or a model for flat batches.
        FloatingPointError: the loss is not finite, with the step.
    """
    if not len(dataset):
        raise ValueError("no requests to train on")
    if model.settings.head_copies > 1 or not model.settings.readout:
        raise ValueError("several copies of the ranking head, or none of the read-outs, train over flat batches only")
    if dataset.tasks != model.tasks:
        raise ValueError(f"the dataset has tasks {dataset.tasks}, the model {model.tasks}")
    rng = np.random.default_rng(settings.seed)
    epochs = [plan_groups(dataset, settings.group_size, rng) for _ in range(settings.epochs)]
    total = sum(math.ceil(len(groups) / settings.groups_per_step) for groups in epochs)
    optimizer = optimizer_of(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, total, settings))
    available = dataset.history_end - dataset.history_begin
    curve: list[CurvePoint] = []
    model.train()
    with _deterministic(), torch_workers(settings.workers) as pool:
        for epoch, groups in enumerate(epochs):
            lengths = draw_lengths(available, settings.min_history, settings.max_history, settings.length_beta, rng)
            for at in range(0, len(groups), settings.groups_per_step):
                rate = float(schedule.get_last_lr()[0])
                together = groups[at : at + settings.groups_per_step]
                requests = sum(map(len, together))
                binary, listwise = _gradients(model, dataset, together, lengths, settings, pool)
                loss = binary + settings.listwise_weight * listwise
                if not math.isfinite(loss):
                    raise FloatingPointError(f"loss {loss} at step {len(curve)}: lower the learning rate")
                nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_norm)
                optimizer.step()
                schedule.step()
                curve.append(
                    CurvePoint(
                        step=len(curve),
                        epoch=epoch,
                        requests=requests,
                        loss=loss,
                        binary=binary,
                        listwise=listwise,
                        learning_rate=rate,
                    )
                )
                if on_step is not None:
                    on_step(curve[-1], total)
    model.eval()
    return curve


def save_curve(curve: list[CurvePoint], path: Path) -> None:
    """The curve as CSV with a header."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CurvePoint.__dataclass_fields__)
        writer.writerows([getattr(point, name) for name in CurvePoint.__dataclass_fields__] for point in curve)


def set_base_rates(model: STCA, dataset: RankingDataset) -> None:
    """Starts each task's logit at the log odds of its labels, so that the first steps need not learn them."""
    start_at_rates(model, dataset.labels.mean(axis=0, dtype=np.float64))


def start_at_rates(model: STCA, rates: NDArray[np.float64]) -> None:
    """`set_base_rates` for the tasks' shares of positives, [A]."""
    rate = np.clip(rates, 1e-4, 1 - 1e-4)
    with torch.no_grad():
        for head in model.ranking_heads():
            head.logits.bias.copy_(torch.from_numpy(np.log(rate / (1 - rate))))


def _gradients(
    model: STCA,
    dataset: RankingDataset,
    groups: list[NDArray[np.int64]],
    lengths: NDArray[np.int64],
    settings: TrainingSettings,
    pool: ThreadPoolExecutor,
) -> tuple[float, float]:
    """Sets the parameters' gradients for one step; returns its binary and listwise loss.

    Each worker takes every n-th group. Its losses are means over its own requests, so they are weighted by their
    number; the sum over workers is in a fixed order, whichever finishes first.
    """
    parameters = list(model.parameters())
    requests = sum(map(len, groups))
    weights_A = torch.tensor(dataset.task_weights or (1.0,) * len(dataset.tasks))

    def share(part: list[NDArray[np.int64]]) -> tuple[float, float, tuple[Tensor, ...]]:
        step = collate(dataset, part, lengths, model.features)
        logits_PA = score_grouped(model, step.history, step.targets, step.context, step.groups)
        mean_R = torch.full((step.requests,), 1 / step.requests)
        binary, listwise = ranking_losses(
            logits_PA[step.slot], step.labels, step.shares, step.request, mean_R, weights_A
        )
        weight = step.requests / requests
        loss = weight * (binary + settings.listwise_weight * listwise)
        gradients = torch.autograd.grad(loss, parameters)
        return weight * binary.item(), weight * listwise.item(), gradients

    parts = [groups[worker :: settings.workers] for worker in range(settings.workers)]
    done = list(pool.map(share, [part for part in parts if part]))
    for parameter, *gradients in zip(parameters, *(gradients for _, _, gradients in done), strict=True):
        parameter.grad = sum(gradients[1:], start=gradients[0])
    return sum(binary for binary, _, _ in done), sum(listwise for _, listwise, _ in done)


def optimizer_of(model: nn.Module, settings: TrainingSettings, *, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW; tables and vectors do not decay."""
    tables = [p for name, p in model.named_parameters() if name.endswith("_table.weight")]
    is_table = {id(p) for p in tables}
    matrices = [p for p in model.parameters() if p.ndim > 1 and id(p) not in is_table]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": vectors, "lr": settings.learning_rate, "weight_decay": 0.0},
            {"params": tables, "lr": settings.table_learning_rate, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        fused=fused,
    )


def rate_at(step: int, total: int, settings: TrainingSettings) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine."""
    rise = max(1, round(total * settings.warmup))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, total - rise)
    return settings.final_rate + (1 - settings.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
