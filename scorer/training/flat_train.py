"""Training over flat batches, on a GPU or, for tests, on the CPU: half precision products, float32 weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scorer.model.flat import FlatInputs, score_flat
from scorer.model.stca import STCA
from scorer.training.batches import draw_lengths
from scorer.training.columns import Columns
from scorer.training.flat import FlatBatch, StepSize, collate_flat, flat_inputs, load_ahead, plan_steps
from scorer.training.losses import ranking_losses
from scorer.training.settings import TrainingSettings
from scorer.training.train import CurvePoint, OnStep, optimizer_of, rate_at

#: Targets and tokens of one tile of `scorer.model.kernels`; on the CPU nobody looks at tiles.
TILE = (32, 128)
Forward = Callable[[FlatInputs], Tensor]


@dataclass
class Throughput:
    """What a training run handled, and how long the step waited for the loader."""

    tokens: int = 0
    targets: int = 0
    requests: int = 0
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)


def train_flat(
    model: nn.Module,
    columns: Columns,
    requests: NDArray[np.int64],
    settings: TrainingSettings,
    size: StepSize,
    *,
    device: torch.device,
    forward: Forward,
    on_step: OnStep | None = None,
    ema: float = 0.0,
    compiled: bool = False,
) -> tuple[list[CurvePoint], Throughput]:
    """Trains `model`, which is on `device`, in place on `requests` of `columns`; returns the loss curve and the rate.

    Args:
        forward: logits [M, A] of a batch.
        ema: decay per step of the weights' moving average, which the model has at the end; 0 for none.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    rng = np.random.default_rng(settings.seed)
    available = columns.history_end - columns.history_begin
    targets = np.diff(columns.target_offsets)
    epochs = []
    for _ in range(settings.epochs):
        lengths = draw_lengths(available, settings.min_history, settings.max_history, settings.length_beta, rng)
        epochs.append((plan_steps(lengths, targets, size, rng.permutation(requests)), lengths))
    total = sum(len(steps) for steps, _ in epochs)
    optimizer = optimizer_of(model, settings, fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, total, settings))
    items, groups = columns.items.to(device), columns.groups.to(device)
    weights_A = torch.tensor(columns.task_weights, device=device)
    pin = device.type == "cuda"

    def batches() -> Iterator[FlatBatch]:
        for steps, lengths in epochs:
            for step in steps:
                yield collate_flat(columns, step, lengths[step], size, tile=TILE, pin=pin)

    def losses(batch: FlatBatch) -> tuple[Tensor, Tensor]:
        with torch.autocast("cuda", dtype=torch.bfloat16) if pin else nullcontext():
            logits = forward(flat_inputs(batch, items, groups, columns))
        return ranking_losses(logits.float(), batch.labels.float(), batch.target_request, batch.weight, weights_A)

    run: Any = torch.compile(losses, dynamic=False) if compiled else losses
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters] if ema else []
    points: list[tuple[int, float, Tensor]] = []
    done = Throughput()
    model.train()
    started = time.perf_counter()
    made = load_ahead(batches(), ahead=4)
    for step in range(total):
        waiting = time.perf_counter()
        batch = next(made)
        done.waited += time.perf_counter() - waiting
        rate = float(schedule.get_last_lr()[0])
        batch_requests = int((batch.weight > 0).sum())
        batch = batch.to(device)
        binary, listwise = run(batch)
        loss = binary + settings.listwise_weight * listwise
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.gradient_norm)
        optimizer.step()
        schedule.step()
        if average:
            decay = min(ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        points.append((batch_requests, rate, torch.stack([loss.detach(), binary.detach(), listwise.detach()])))
        done.steps += 1
        done.requests += batch_requests
        if on_step is not None:
            point = CurvePoint(
                step=step,
                epoch=0,
                requests=batch_requests,
                loss=float(loss),
                binary=float(binary),
                listwise=float(listwise),
                learning_rate=rate,
            )
            on_step(point, total)
    if device.type == "cuda":
        torch.cuda.synchronize()
    done.seconds = time.perf_counter() - started
    done.tokens = int(sum(lengths[step].sum() for steps, lengths in epochs for step in steps))
    done.targets = int(sum(targets[step].sum() for steps, _ in epochs for step in steps))
    if average:
        with torch.no_grad():
            torch._foreach_copy_(parameters, average)
    model.eval()
    values = torch.stack([v for _, _, v in points]).cpu().tolist() if points else []
    curve = [
        CurvePoint(step=i, epoch=0, requests=n, loss=loss, binary=binary, listwise=listwise, learning_rate=rate)
        for i, ((n, rate, _), (loss, binary, listwise)) in enumerate(zip(points, values, strict=True))
    ]
    if not all(np.isfinite(point.loss) for point in curve):
        raise FloatingPointError("the loss is not finite")
    return curve, done


def predict_flat(
    model: nn.Module,
    columns: Columns,
    requests: NDArray[np.int64],
    max_history: int,
    size: StepSize,
    *,
    device: torch.device,
    forward: Forward,
) -> NDArray[np.float32]:
    """Logits [T of `requests` in their order, A], each request with its `max_history` newest events."""
    lengths = np.minimum(columns.history_end - columns.history_begin, max_history)
    targets = np.diff(columns.target_offsets)
    items, groups = columns.items.to(device), columns.groups.to(device)
    out = np.zeros((int(columns.target_offsets[-1]), len(columns.tasks)), dtype=np.float32)
    order = requests[np.argsort(lengths[requests], kind="stable")]
    plan = plan_steps(lengths, targets, size, order)
    pin = device.type == "cuda"
    model.eval()
    made = load_ahead((collate_flat(columns, s, lengths[s], size, tile=TILE, pin=pin) for s in plan), ahead=4)
    with torch.no_grad():
        for step, batch in zip(plan, made, strict=True):
            moved = batch.to(device)
            with torch.autocast("cuda", dtype=torch.bfloat16) if pin else nullcontext():
                logits = forward(flat_inputs(moved, items, groups, columns)).float().cpu().numpy()
            counts = targets[step]
            begin = columns.target_offsets[step]
            rows = np.repeat(begin - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            out[rows] = logits[: len(rows)]
    wanted = np.concatenate([np.arange(columns.target_offsets[r], columns.target_offsets[r + 1]) for r in requests])
    return out[wanted]


def stca_forward(model: STCA) -> Forward:
    """The forward pass of `train_flat` for the model itself."""
    return lambda inputs: score_flat(model, inputs)
