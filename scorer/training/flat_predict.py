"""Scores over flat batches, of any model that takes `FlatInputs`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scorer.model.flat import FlatInputs, score_each
from scorer.model.stca import STCA
from scorer.training.captured import CapturedStep
from scorer.training.columns import Columns
from scorer.training.dataset import span_rows
from scorer.training.flat import FlatBatch, Lookup, collate_flat, flat_inputs, load_ahead
from scorer.training.steps import StepSize, plan_steps

#: Targets and tokens of one tile of `scorer.model.kernels`; on the CPU nobody looks at tiles.
TILE: Final = (64, 256)
#: Batches made before they are asked for.
AHEAD: Final = 4
#: Logits [M, copies, A] of a batch.
Forward = Callable[[FlatInputs], Tensor]


def stca_forward(model: STCA) -> Forward:
    """What `predict_flat` and `FlatTrainer` call for the model itself."""
    return lambda inputs: score_each(model, inputs)


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
    """Logits [T of `requests` in their order, A], each request with its `max_history` newest events.

    Raises:
        ValueError: a request is larger than `size`.
    """
    if not len(requests):
        return np.zeros((0, len(columns.tasks)), dtype=np.float32)
    lengths = np.minimum(columns.history_end - columns.history_begin, max_history)
    targets = np.diff(columns.target_offsets)
    lookup = Lookup.of(columns, device, TILE[0])
    out = np.zeros((int(columns.target_offsets[-1]), len(columns.tasks)), dtype=np.float32)
    order = requests[np.argsort(lengths[requests], kind="stable")]
    plan = plan_steps(lengths, targets, size, order)
    pin = device.type == "cuda"
    model.eval()
    made = load_ahead((collate_flat(columns, s, lengths[s], size, tile=TILE, pin=pin) for s in plan), ahead=AHEAD)

    def score(batch: FlatBatch) -> Tensor:
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16) if pin else nullcontext():
            return forward(flat_inputs(batch, lookup)).float().mean(1)

    run: Any = CapturedStep(score) if pin else score
    for step, batch in zip(plan, made, strict=True):
        logits = run(batch).cpu().numpy()
        rows = span_rows(columns.target_offsets[step], targets[step])
        out[rows] = logits[: len(rows)]
    logits_TA: NDArray[np.float32] = out[span_rows(columns.target_offsets[requests], targets[requests])]
    return logits_TA
