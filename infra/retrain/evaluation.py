"""Both models on the same holdout: metrics, metrics by length of history, and how far their probabilities hold."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from infra.retrain.outcome import Outcome, StoppedError
from infra.retrain.runs import Run
from infra.retrain.shadow import answer
from scorer.metrics import RankingMetrics, ranking_metrics
from scorer.model import STCA
from scorer.serving.models import Model
from scorer.training.dataset import RankingDataset
from scorer.training.evaluate import predict

_EVALUATION: Final = "evaluation.json"
#: First length of each bucket of histories, events.
_BUCKETS: Final = (0, 1, 100, 1_000, 5_000)
#: Points of a calibration curve, of equally many targets each.
_CURVE_POINTS: Final = 10


class Point(BaseModel):
    """A part of the targets, those with the next higher probabilities."""

    model_config = ConfigDict(frozen=True)

    targets: int
    predicted: float
    observed: float


class Measured(BaseModel):
    """One model on the holdout, by task; NaN where there is nothing to measure."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    #: Metric -> value.
    metrics: dict[str, dict[str, float]]
    #: Bucket of history lengths -> metric -> value.
    buckets: dict[str, dict[str, dict[str, float]]]
    calibration: dict[str, tuple[Point, ...]]

    def of_task(self, task: str) -> RankingMetrics:
        """The metrics again."""
        values = self.metrics[task]
        return RankingMetrics(
            auc=values["auc"],
            gauc=values["gauc"],
            gauc_requests=int(values["gauc_requests"]),
            calibration=values["calibration"],
            log_loss=values["log_loss"],
        )

    def flat(self) -> dict[str, float]:
        """ "task.metric" -> value, those that are numbers."""
        return {
            f"{task}.{name}": value
            for task, metrics in self.metrics.items()
            for name, value in metrics.items()
            if math.isfinite(value)
        }


class Evaluation(BaseModel):
    """Of the candidate and of the model in service; nothing of one that answers with what is no probability."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    requests: int
    targets: int
    candidate: Measured
    #: The tasks that both have.
    in_service: Measured


def evaluate(run: Run, candidate: STCA, in_service: Model, holdout: RankingDataset, max_history: int) -> None:
    """Measure both.

    Args:
        in_service: answers on the serving path: its very graphs, also where its weights are of an older release.

    Raises:
        StoppedError: the candidate answers with what is no probability.
    """
    probabilities = predict(candidate, holdout, max_history)
    if not np.isfinite(probabilities).all():
        broken = int(np.count_nonzero(~np.isfinite(probabilities)))
        raise StoppedError(Outcome.REFUSED, f"{broken} of {probabilities.size} probabilities are not finite")
    served = answer(in_service, holdout).scores
    there = in_service.tasks if np.isfinite(served).all() else ()
    evaluation = Evaluation(
        requests=len(holdout),
        targets=len(holdout.target_item_id),
        candidate=_measure(candidate.tasks, probabilities, holdout),
        in_service=_measure(there, served, holdout),
    )
    run.write(_EVALUATION, evaluation.model_dump_json())


def evaluated(run: Run) -> Evaluation:
    """What `evaluate` found."""
    return Evaluation.model_validate_json((run.path / _EVALUATION).read_bytes())


def _measure(tasks: tuple[str, ...], probabilities: NDArray[np.float32], holdout: RankingDataset) -> Measured:
    metrics, buckets, calibration = {}, {}, {}
    lengths = holdout.history_end - holdout.history_begin
    bucket = np.searchsorted(_BUCKETS, lengths, side="right") - 1
    for task in (task for task in tasks if task in holdout.tasks):
        labels = holdout.labels[:, holdout.tasks.index(task)]
        predicted = probabilities[:, tasks.index(task)]
        metrics[task] = _numbers(ranking_metrics(labels, predicted, holdout.target_offsets))
        buckets[task] = {
            _bucket_name(number): _numbers(_part(labels, predicted, holdout.target_offsets, bucket == number))
            for number in np.unique(bucket).tolist()
        }
        calibration[task] = _calibration(labels, predicted)
    return Measured(metrics=metrics, buckets=buckets, calibration=calibration)


def _part(
    labels: NDArray[np.uint8], predicted: NDArray[np.float32], offsets: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> RankingMetrics:
    """The metrics of some of the requests, chosen [R]."""
    counts = np.diff(offsets)
    targets = np.repeat(chosen, counts)
    part = np.concatenate([[0], np.cumsum(counts[chosen])]).astype(np.int64)
    return ranking_metrics(labels[targets], predicted[targets], part)


def _bucket_name(number: int) -> str:
    first = _BUCKETS[number]
    if number + 1 == len(_BUCKETS):
        return f"{first:,} and more"
    last = _BUCKETS[number + 1] - 1
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _calibration(labels: NDArray[np.uint8], predicted: NDArray[np.float32]) -> tuple[Point, ...]:
    order = np.argsort(predicted, kind="stable")
    return tuple(
        Point(targets=len(part), predicted=float(predicted[part].mean()), observed=float(labels[part].mean()))
        for part in np.array_split(order, _CURVE_POINTS)
        if len(part)
    )


def _numbers(metrics: RankingMetrics) -> dict[str, float]:
    return {name: float(value) for name, value in asdict(metrics).items()}
