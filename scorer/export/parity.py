"""Three ways to the same probabilities: torch in float32, torch in bfloat16, ONNX Runtime; their largest differences
over given and edge cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH, HISTORY_DTYPE, History
from scorer.export.graphs import ENCODE_OUTPUTS, SCORE_OUTPUT, tensors
from scorer.features import HistoryHead, featurise_history, featurise_targets
from scorer.model.stca import STCA

_MS_PER_DAY: Final = 86_400_000
#: (history tokens, targets): both edges of both, and something ordinary.
_SYNTHETIC_SIZES: Final = ((0, 1), (0, 9), (1, 1), (1, 32), (64, 1), (700, 32))


class ParityError(ValueError):
    """The graphs, or the model in bfloat16, do not compute what the torch model computes in float32."""


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """One request: events [L] numbered from `first_seq_no`, candidates [m]."""

    history: History
    first_seq_no: int
    item_ids: NDArray[np.uint64]
    group_ids: NDArray[np.uint64]
    request_time_ms: int


def synthetic_cases(seed: int) -> list[ParityCase]:
    """Random requests of the sizes that break graphs: no history, one event, one target; absent groups among them."""
    rng = np.random.default_rng(seed)
    cases: list[ParityCase] = []
    for length, targets in _SYNTHETIC_SIZES:
        history = np.zeros(length, dtype=HISTORY_DTYPE)
        history["event_time_ms"] = 1_700_000_000_000 + np.sort(rng.integers(0, 400 * _MS_PER_DAY, length))
        history["item_id"] = rng.integers(1, 500, length)
        history["group_id"] = rng.integers(1, 50, length)
        history["action"] = rng.integers(0, 40, length)
        history["surface"] = rng.integers(0, 70, length)
        history["watch_ms"] = rng.integers(0, 60_000, length)
        history["duration_ms"] = rng.integers(1, 60_000, length)
        history["fields"] = rng.integers(0, 1 + (HAS_WATCH | HAS_DURATION | HAS_SURFACE | HAS_GROUP), length)
        cases.append(
            ParityCase(
                history=history,
                first_seq_no=int(rng.integers(1, 5_000)),
                item_ids=rng.integers(1, 500, targets).astype(np.uint64),
                group_ids=rng.integers(0, 50, targets).astype(np.uint64),
                request_time_ms=1_700_000_000_000 + 401 * _MS_PER_DAY,
            )
        )
    return cases


def measure_parity(model: STCA, encode_path: Path, score_path: Path, cases: list[ParityCase]) -> float:
    """Largest |torch - ONNX Runtime| of a probability over `cases`.

    Raises:
        ParityError: a probability of either is not finite.
        ValueError: no cases.
    """
    if not cases:
        raise ValueError("parity of no cases says nothing")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    encode = ort.InferenceSession(str(encode_path), options, providers=["CPUExecutionProvider"])
    score = ort.InferenceSession(str(score_path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for number, case in enumerate(cases):
        head = HistoryHead.of(case.history, case.first_seq_no)
        history = featurise_history(case.history, case.first_seq_no, head, model.features)
        targets = featurise_targets(case.item_ids, case.group_ids, case.request_time_ms, head, model.features)
        expected = _torch_probabilities(model, history, targets, bf16=False)
        encoded = dict(zip(ENCODE_OUTPUTS, encode.run(list(ENCODE_OUTPUTS), history), strict=True))
        got = score.run([SCORE_OUTPUT], {**targets, **encoded})[0]
        if not (np.isfinite(expected).all() and np.isfinite(got).all()):
            raise ParityError(f"case {number} ({len(case.history)} events, {len(case.item_ids)} targets): not finite")
        worst = max(worst, float(np.abs(expected - got).max(initial=0.0)))
    return worst


def torch_probabilities(
    model: STCA, cases: Sequence[ParityCase], *, bf16: bool = False
) -> Iterator[NDArray[np.float32]]:
    """[m, tasks] of each case.

    Args:
        bf16: matrix products in bfloat16, as autocast has them, on the weights in float32.
    """
    for case in cases:
        head = HistoryHead.of(case.history, case.first_seq_no)
        history = featurise_history(case.history, case.first_seq_no, head, model.features)
        targets = featurise_targets(case.item_ids, case.group_ids, case.request_time_ms, head, model.features)
        yield _torch_probabilities(model, history, targets, bf16=bf16)


def _torch_probabilities(
    model: STCA, history: dict[str, Any], targets: dict[str, Any], *, bf16: bool
) -> NDArray[np.float32]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model.score(tensors(targets), *model.encode(tensors(history)))
    probabilities: NDArray[np.float32] = torch.sigmoid(logits.float()).numpy()
    return probabilities
