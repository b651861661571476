"""Training over flat batches, on a GPU or, for tests, on the CPU: half precision products, float32 weights.

One process or several (`torchrun`), each with requests of its own: the same code, gradients averaged between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scorer.model.stca import STCA
from scorer.training.batches import draw_lengths
from scorer.training.captured import CapturedStep
from scorer.training.columns import Columns
from scorer.training.flat import FlatBatch, Lookup, collate_flat, flat_inputs, load_ahead
from scorer.training.flat_predict import AHEAD, TILE, Forward
from scorer.training.losses import ranking_losses
from scorer.training.processes import agreed_steps, average_gradients, gathered, same_weights
from scorer.training.settings import TrainingSettings
from scorer.training.steps import StepSize, plan_steps
from scorer.training.tables import TableState
from scorer.training.train import CurvePoint, optimizer_of, rate_at


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What a run handled, in its own process, and how long its steps waited for the loader."""

    steps: int
    requests: int
    targets: int
    tokens: int
    #: Sum over requests of targets times tokens.
    pairs: int
    seconds: float
    waited_seconds: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a run is, and its rates since the last report."""

    #: The newest step, and how many there are in all.
    point: CurvePoint
    steps: int
    tokens_per_second: float
    requests_per_second: float
    targets_per_second: float
    #: Sum over requests of targets times tokens, per second.
    pairs_per_second: float
    #: Share of the time in which the step waited for the loader.
    waited_share: float


OnReport = Callable[[Report], None]


class FlatTrainer:
    """Trains `model`, which is on `device`, in place, on `requests` (indices [n]) of `columns`.

    Everything that happens is decided before the first step, by the settings and their seed: so a run can stop after
    any step, give its `state`, and another process that made the same trainer goes on from there.
    """

    def __init__(
        self,
        model: nn.Module,
        columns: Columns,
        requests: NDArray[np.int64],
        settings: TrainingSettings,
        *,
        device: torch.device,
        forward: Forward,
        tables: Sequence[nn.Parameter] = (),
        compiled: bool = False,
    ) -> None:
        """
        Args:
            forward: logits [M, copies, A] of a batch.
            tables: the tables of items and of groups; none: the optimizer treats them as any other weight.
            compiled: by torch.compile; the first step takes half a minute longer.

        Raises:
            ValueError: no requests, or one that is larger than a step.
        """
        if not len(requests):
            raise ValueError("no requests to train on")
        self.model, self.columns, self.settings, self.device = model, columns, settings, device
        self.step = 0
        self._size = StepSize.of(settings)
        self._plan = _plan(columns, requests, settings, self._size)
        self.steps = agreed_steps(len(self._plan), device)
        same_weights(model)
        self._forward = forward
        self._tables = [TableState.of(table) for table in tables]
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = optimizer_of(model, settings, fused=device.type == "cuda")
        self._peaks = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._table_rate = torch.tensor(0.0, device=device)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            # A captured step reads its rate from the device.
            group["lr"] = torch.tensor(peak, device=device)
            group["capturable"] = device.type == "cuda"
        self._lookup = Lookup.of(columns, device, TILE[0])
        self._weights_A = torch.tensor(columns.task_weights, device=device)
        self._losses: Any = torch.compile(self._loss, dynamic=False) if compiled else self._loss
        self._run: Any = CapturedStep(self._learn) if device.type == "cuda" else self._learn

    def run(self, until: int | None = None, on_report: OnReport | None = None) -> tuple[list[CurvePoint], Throughput]:
        """Steps up to `until` (None: all); their curve and how fast they were.

        Args:
            on_report: called every 20 steps and at the end; the device is waited for then.

        Raises:
            FloatingPointError: the loss is not finite, with the step.
        """
        until = self.steps if until is None else min(until, self.steps)
        plan = self._plan[self.step : until]
        values = torch.zeros(len(plan), 3, device=self.device)
        first, reported, waited = self.step, 0, 0.0
        sizes = self._sizes(plan)
        curve: list[CurvePoint] = []
        self.model.train()
        started = time.perf_counter()
        since, waited_since = started, 0.0
        with closing(load_ahead(self._batches(plan), ahead=AHEAD)) as made:
            for i in range(len(plan)):
                waiting = time.perf_counter()
                batch = next(made)
                waited += time.perf_counter() - waiting
                self._set_rate(rate_at(self.step, self.steps, self.settings))
                values[i] = self._run(batch)
                self.step += 1
                # Asking the device for a loss waits for it: not at every step.
                if i + 1 == len(plan) or (i + 1) % _REPORT_EVERY == 0:
                    curve.extend(self._points(first, reported, values[reported : i + 1].tolist(), plan))
                    now = time.perf_counter()
                    if on_report is not None:
                        done = sizes[reported : i + 1].sum(axis=0) / (now - since)
                        on_report(_report(curve[-1], self.steps, done, (waited - waited_since) / (now - since)))
                    reported, since, waited_since = i + 1, now, waited
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        self.model.eval()
        requests, targets, tokens, pairs = sizes.sum(axis=0).tolist()
        return curve, Throughput(
            steps=len(plan),
            requests=requests,
            targets=targets,
            tokens=tokens,
            pairs=pairs,
            seconds=seconds,
            waited_seconds=waited,
        )

    def batches(self, steps: int) -> Iterator[FlatBatch]:
        """What the loader makes of the newest `steps` that were run: to time it alone."""
        return self._batches(self._plan[max(0, self.step - steps) : self.step])

    def state(self) -> dict[str, Any]:
        """What `restore` takes; for torch.save."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "tables": [table.squares for table in self._tables],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on after the step at which `state` was taken; for a trainer that has not run yet.

        Raises:
            ValueError: the state is beyond this run's last step, or this trainer has run: a captured step keeps the
                addresses that it saw.
        """
        if self.step:
            raise ValueError(f"this trainer is after step {self.step} already")
        if state["step"] > self.steps:
            raise ValueError(f"the state is after step {state['step']}, this run has {self.steps}")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        for table, squares in zip(self._tables, state["tables"], strict=True):
            table.squares.copy_(squares)

    def _sizes(self, plan: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> NDArray[np.int64]:
        """Requests, targets, tokens and pairs of each step, [n, 4]."""
        targets = np.diff(self.columns.target_offsets)
        of_steps = [
            (len(requests), targets[requests].sum(), lengths.sum(), (targets[requests] * lengths).sum())
            for requests, lengths in plan
        ]
        return np.array(of_steps, dtype=np.int64).reshape(len(plan), 4)

    def _batches(self, plan: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Iterator[FlatBatch]:
        pin = self.device.type == "cuda"
        for requests, lengths in plan:
            yield collate_flat(self.columns, requests, lengths, self._size, tile=TILE, pin=pin)

    def _loss(self, batch: FlatBatch, vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
        half = torch.autocast("cuda", dtype=torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with half:
            logits_MCA = self._forward(flat_inputs(batch, self._lookup, vectors)).float()
        # Every copy of the ranking head learns by itself: as if they were tasks.
        copies = logits_MCA.shape[1]
        labels, shares = batch.labels.repeat(1, copies), batch.shares.repeat(1, copies)
        weights = self._weights_A.repeat(copies) / copies
        return ranking_losses(logits_MCA.flatten(1), labels, shares, batch.target_request, batch.weight, weights)

    def _learn(self, batch: FlatBatch) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        rows = self._lookup.rows(batch) if self._tables else []
        vectors = [table.gather(of_table) for table, of_table in zip(self._tables, rows, strict=True)]
        binary, listwise = self._losses(batch, vectors)
        loss = binary + self.settings.listwise_weight * listwise
        loss.backward()
        average_gradients(self._parameters)
        nn.utils.clip_grad_norm_(self._parameters, self.settings.gradient_norm)
        self._optimizer.step()
        for table, of_table, vector in zip(self._tables, rows, vectors, strict=True):
            assert vector.grad is not None
            table.update(*gathered(of_table, vector.grad), self._table_rate, self.settings.table_decay)
        return torch.stack([loss.detach(), binary.detach(), listwise.detach()])

    def _set_rate(self, share: float) -> None:
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"].fill_(peak * share)
        self._table_rate.fill_(self.settings.table_learning_rate * share)

    def _points(
        self, first: int, reported: int, values: list[list[float]], plan: list[tuple[NDArray[Any], NDArray[Any]]]
    ) -> Iterator[CurvePoint]:
        for i, (loss, binary, listwise) in enumerate(values, start=reported):
            if not np.isfinite(loss):
                raise FloatingPointError(f"loss {loss} at step {first + i}: lower the learning rate")
            yield CurvePoint(
                step=first + i,
                epoch=(first + i) * self.settings.epochs // self.steps,
                requests=len(plan[i][0]),
                loss=loss,
                binary=binary,
                listwise=listwise,
                learning_rate=self.settings.learning_rate * rate_at(first + i, self.steps, self.settings),
            )


def _report(point: CurvePoint, steps: int, per_second: NDArray[np.float64], waited_share: float) -> Report:
    requests, targets, tokens, pairs = per_second.tolist()
    return Report(
        point=point,
        steps=steps,
        tokens_per_second=tokens,
        requests_per_second=requests,
        targets_per_second=targets,
        pairs_per_second=pairs,
        waited_share=waited_share,
    )


def stca_tables(model: STCA) -> list[nn.Parameter]:
    """The tables of items and of groups."""
    return model.embedding.ids.table_weights()


#: Steps between two looks at the loss.
_REPORT_EVERY: Final = 20


def _plan(
    columns: Columns, requests: NDArray[np.int64], settings: TrainingSettings, size: StepSize
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(requests, their history lengths) of every step of every epoch."""
    rng = np.random.default_rng(settings.seed)
    available = columns.history_end - columns.history_begin
    targets = np.diff(columns.target_offsets)
    plan: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for _ in range(settings.epochs):
        lengths = draw_lengths(available, settings.min_history, settings.max_history, settings.length_beta, rng)
        steps = plan_steps(lengths, targets, size, rng.permutation(requests))
        plan.extend((step, lengths[step]) for step in steps)
    return plan
