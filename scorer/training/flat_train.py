"""Training over flat batches, on a GPU or, for tests, on the CPU: half precision products, float32 weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scorer.model.flat import FlatInputs, score_each
from scorer.model.stca import STCA
from scorer.training.batches import draw_lengths
from scorer.training.columns import Columns
from scorer.training.flat import FlatBatch, Lookup, StepSize, collate_flat, flat_inputs, load_ahead, plan_steps
from scorer.training.losses import ranking_losses
from scorer.training.settings import TrainingSettings
from scorer.training.train import CurvePoint, OnStep, optimizer_of, rate_at

#: Targets and tokens of one tile of `scorer.model.kernels`; on the CPU nobody looks at tiles.
TILE: Final = (64, 256)
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
        forward: logits [M, copies, A] of a batch.
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
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        # A captured step reads its rate from the device.
        group["lr"] = torch.tensor(peak, device=device)
        group["capturable"] = device.type == "cuda"
    lookup = Lookup.of(columns, device, TILE[0])
    weights_A = torch.tensor(columns.task_weights, device=device)
    pin = device.type == "cuda"

    def batches() -> Iterator[FlatBatch]:
        for steps, lengths in epochs:
            for step in steps:
                yield collate_flat(columns, step, lengths[step], size, tile=TILE, pin=pin)

    def losses(batch: FlatBatch) -> tuple[Tensor, Tensor]:
        with torch.autocast("cuda", dtype=torch.bfloat16) if pin else nullcontext():
            logits_MCA = forward(flat_inputs(batch, lookup)).float()
        # Every copy of the ranking head learns by itself: as if they were tasks.
        copies = logits_MCA.shape[1]
        labels, shares = batch.labels.repeat(1, copies), batch.shares.repeat(1, copies)
        weights = weights_A.repeat(copies) / copies
        return ranking_losses(logits_MCA.flatten(1), labels, shares, batch.target_request, batch.weight, weights)

    compute: Any = torch.compile(losses, dynamic=False) if compiled else losses
    parameters = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters] if ema else []

    def learn(batch: FlatBatch) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        binary, listwise = compute(batch)
        loss = binary + settings.listwise_weight * listwise
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.gradient_norm)
        optimizer.step()
        return torch.stack([loss.detach(), binary.detach(), listwise.detach()])

    step_on: Any = CapturedStep(learn) if device.type == "cuda" else learn
    rates: list[float] = []
    counts: list[int] = []
    values = torch.zeros(total, 3, device=device)
    done = Throughput()
    model.train()
    started = time.perf_counter()
    made = load_ahead(batches(), ahead=4)
    for step in range(total):
        waiting = time.perf_counter()
        batch = next(made)
        done.waited += time.perf_counter() - waiting
        share = rate_at(step, total, settings)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"].fill_(peak * share)
        rates.append(peaks[0] * share)
        counts.append(int((batch.weight > 0).sum()))
        values[step] = step_on(batch if device.type == "cuda" else batch.to(device))
        if average:
            decay = min(ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        if on_step is not None:
            on_step(_point(step, counts[-1], values[step].tolist(), rates[-1]), total)
    if device.type == "cuda":
        torch.cuda.synchronize()
    done.seconds = time.perf_counter() - started
    done.steps, done.requests = total, sum(counts)
    done.tokens = int(sum(lengths[step].sum() for steps, lengths in epochs for step in steps))
    done.targets = int(sum(targets[step].sum() for steps, _ in epochs for step in steps))
    if average:
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in parameters], average)
    model.eval()
    curve = [
        _point(i, n, losses, rate)
        for i, (n, losses, rate) in enumerate(zip(counts, values.tolist(), rates, strict=True))
    ]
    if not all(np.isfinite(point.loss) for point in curve):
        raise FloatingPointError("the loss is not finite")
    return curve, done


class CapturedStep:
    """A training step as one CUDA graph: the processor launches it whole instead of some hundred kernels.

    The graph reads one set of addresses, so every batch is copied there first.
    """

    #: Steps that run as they are: compilation, the optimizer's state and the libraries' handles come into being there.
    WARM_UP: Final = 3

    def __init__(self, learn: Callable[[FlatBatch], Tensor]) -> None:
        self._learn = learn
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: FlatBatch | None = None
        self._result: Tensor | None = None
        self._steps = 0

    def __call__(self, batch: FlatBatch) -> Tensor:
        """Runs the step on a batch in pinned memory; returns what `learn` does, valid until the next call."""
        if self._batch is None:
            self._batch = batch.to(torch.device("cuda"))
        else:
            for name in FlatBatch.__dataclass_fields__:
                getattr(self._batch, name).copy_(getattr(batch, name), non_blocking=True)
        self._steps += 1
        if self._steps <= self.WARM_UP:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                result = self._learn(self._batch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            # The loader's thread goes on allocating pinned memory meanwhile: none of this capture's business.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._result = self._learn(self._batch)
        self._graph.replay()
        assert self._result is not None
        return self._result


def _point(step: int, requests: int, losses: Sequence[float], rate: float) -> CurvePoint:
    loss, binary, listwise = losses
    return CurvePoint(
        step=step, epoch=0, requests=requests, loss=loss, binary=binary, listwise=listwise, learning_rate=rate
    )


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
    lookup = Lookup.of(columns, device, TILE[0])
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
                logits = forward(flat_inputs(moved, lookup)).float().mean(1).cpu().numpy()
            counts = targets[step]
            begin = columns.target_offsets[step]
            rows = np.repeat(begin - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            out[rows] = logits[: len(rows)]
    wanted = np.concatenate([np.arange(columns.target_offsets[r], columns.target_offsets[r + 1]) for r in requests])
    logits_TA: NDArray[np.float32] = out[wanted]
    return logits_TA


def stca_forward(model: STCA) -> Forward:
    """The forward pass of `train_flat` for the model itself."""
    return lambda inputs: score_each(model, inputs)
