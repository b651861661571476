"""From the run's weights to a staged bundle: parity on real requests, both precisions, then graphs and manifest."""

from __future__ import annotations

from importlib.metadata import version as package_version
from typing import Final

import numpy as np

from infra.retrain.collect import landed, resolved
from infra.retrain.evaluation import evaluated
from infra.retrain.learn import is_warm, preset_of
from infra.retrain.outcome import Outcome, StoppedError
from infra.retrain.runs import Run
from infra.retrain.settings import ParitySettings, RetrainSettings
from schemas.topics import EXAMPLES
from scorer.export import ParityCase, ParityError, export_bundle, torch_probabilities
from scorer.metrics import gauc
from scorer.model import STCA
from scorer.registry.manifest import LowPrecision, TrainingRange
from scorer.registry.registry import Bundle, Registry
from scorer.training.dataset import RankingDataset

#: Windows of label rates that a manifest keeps.
_LABEL_WINDOWS: Final = 14


def export(
    run: Run,
    registry: Registry,
    parent: Bundle,
    model: STCA,
    settings: RetrainSettings,
    holdout: RankingDataset,
) -> None:
    """Stage the run's bundle in the registry.

    Args:
        holdout: requests that parity is measured on.

    Raises:
        StoppedError: the three ways to compute it disagree.
    """
    plan, found = run.plan, resolved(run)
    bf16 = measure_bf16(model, holdout, settings.parity)
    with registry.stage(plan.version) as directory:
        try:
            export_bundle(
                model,
                directory,
                version=plan.version,
                preset=preset_of(plan, parent, settings),
                created_ms=plan.created_ms,
                code_version=package_version("longrank"),
                max_history=settings.max_history,
                training=TrainingRange(
                    topic_id=plan.topic_id,
                    offsets={f"{EXAMPLES.name}/{p}": span for p, span in landed(run).offsets.items()},
                    from_ms=plan.from_ms,
                    cut_ms=plan.cut_ms,
                    requests=found.requests - len(holdout),
                    parent=plan.parent if is_warm(plan, parent) else None,
                    labels=(*parent.manifest.training.labels, *found.labels)[-_LABEL_WINDOWS:],
                ),
                metrics=evaluated(run).candidate.flat(),
                parity_cases=parity_cases(holdout, settings.parity.requests),
                bf16=bf16,
            )
        except ParityError as error:
            raise StoppedError(Outcome.REFUSED, f"parity: {error}") from error


def measure_bf16(model: STCA, holdout: RankingDataset, settings: ParitySettings) -> LowPrecision:
    """torch in bfloat16 against float32.

    Raises:
        StoppedError: a probability or a gAUC differs by more than the bounds.
    """
    rows = _spread(len(holdout), settings.bf16_requests)
    some, cases = holdout.select(rows), parity_cases(holdout, settings.bf16_requests)
    full, half = (np.concatenate(list(torch_probabilities(model, cases, bf16=low))) for low in (False, True))
    measured = float(np.abs(full - half).max())
    change: dict[str, float] = {}
    for at, task in enumerate(model.tasks):
        labels = some.labels[:, at]
        before, after = (gauc(labels, of[:, at], some.target_offsets) for of in (full, half))
        # Nothing to rank among so few requests: then nothing to lose either.
        change[task] = after - before if np.isfinite(before) else 0.0
    reasons = [
        f"parity: {task}: gAUC changes by {lost:+.4f} in bfloat16, allowed are {-settings.max_bf16_gauc_drop}"
        for task, lost in change.items()
        if not lost >= -settings.max_bf16_gauc_drop
    ]
    if not measured <= settings.max_bf16:
        reasons.append(f"parity: bfloat16 differs from float32 by {measured:.2e}, allowed are {settings.max_bf16:.2e}")
    if reasons:
        raise StoppedError(Outcome.REFUSED, *reasons)
    return LowPrecision(requests=len(rows), absolute=settings.max_bf16, measured=measured, gauc_change=change)


def parity_cases(dataset: RankingDataset, most: int) -> list[ParityCase]:
    """Requests spread over the dataset."""
    cases = []
    for row in _spread(len(dataset), most).tolist():
        history = dataset.events[dataset.history_begin[row] : dataset.history_end[row]]
        span = slice(dataset.target_offsets[row], dataset.target_offsets[row + 1])
        cases.append(
            ParityCase(
                history=history,
                first_seq_no=int(dataset.seq_no[row]) - len(history) + 1,
                item_ids=dataset.target_item_id[span],
                group_ids=dataset.target_group_id[span],
                request_time_ms=int(dataset.request_time_ms[row]),
            )
        )
    return cases


def _spread(rows: int, most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.unique(np.linspace(0, rows - 1, most).astype(np.int64))
