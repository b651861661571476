"""One model that scores as several averaged: a student learns from the mean of its teachers.

What teachers of other seeds agree on is signal, what they differ in is noise that each of them fitted. Their mean is
the better ranking, and as it needs no labels, it can be asked at moments that nobody labelled: a request's candidates
with the same user's history some events earlier or later. Hinton et al., "Distilling the Knowledge in a Neural Network"
(arXiv 1503.02531), without a temperature.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.settings import require
from scorer.training.columns import Columns
from scorer.training.dataset import RankingDataset, span_rows

_MS_PER_DAY = 86_400_000


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """How a student learns.

    Raises:
        ValueError: a field is out of range.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    teachers: int = 4
    #: Share of the teachers' word in what a labelled request is compared with.
    alpha: float = 0.5
    #: Requests without labels for each one with.
    unlabelled: float = 0.5
    #: Standard deviation of their distance from the request whose candidates they have, a share of its history.
    spread: float = 0.15
    #: Least events of their histories.
    min_history: int = 20

    def __post_init__(self) -> None:
        require(self.teachers >= 1 and self.min_history >= 1, "teachers and min_history must be 1 or more")
        require(0 <= self.alpha <= 1 and 0 <= self.unlabelled <= 1, "alpha and unlabelled are in [0, 1]")
        require(self.spread > 0, "spread must be positive")


def with_unlabelled(
    dataset: RankingDataset, requests: NDArray[np.int64], settings: DistillSettings, rng: np.random.Generator
) -> tuple[RankingDataset, NDArray[np.int64]]:
    """The dataset with requests without labels behind its own, and their indices.

    Each has the candidates of one of `requests` and the same user's events up to another row, never one beyond what
    the latest of `requests` in the same run of events sees, so that nothing held out is looked at. It is asked about a
    day after its newest event. Its labels are 0 and mean nothing.

    Raises:
        ValueError: none of `requests` has `min_history` events.
    """
    wanted = round(settings.unlabelled * len(requests))
    if not wanted:
        return dataset, np.empty(0, dtype=np.int64)
    begin, end = dataset.history_begin, dataset.history_end
    long = requests[end[requests] - begin[requests] >= settings.min_history]
    if not len(long):
        raise ValueError(f"none of {len(requests)} requests has a history of {settings.min_history} events")
    source = rng.choice(long, min(len(long), wanted), replace=False)
    # Up to where the latest of `requests` looks in the same run of events; another run is another epoch, or user.
    run = _runs(dataset)
    latest = np.zeros(int(run.max()) + 1, dtype=np.int64)
    seen = requests[end[requests] > begin[requests]]
    np.maximum.at(latest, run[end[seen] - 1], end[seen])
    length = end[source] - begin[source]
    moved = np.round(rng.normal(0, settings.spread, len(source)) * length).astype(np.int64)
    at = np.clip(end[source] + moved, begin[source] + settings.min_history, latest[run[end[source] - 1]])
    newest_ms = dataset.events["event_time_ms"][at - 1]
    made = dataset.select(source)
    added = len(made.target_item_id)
    return (
        replace(
            dataset,
            history_begin=np.concatenate([begin, begin[source]]),
            history_end=np.concatenate([end, at]),
            request_time_ms=np.concatenate(
                [dataset.request_time_ms, newest_ms + rng.exponential(_MS_PER_DAY, len(source)).astype(np.int64)]
            ),
            user_id=np.concatenate([dataset.user_id, made.user_id]),
            seq_no=np.concatenate([dataset.seq_no, dataset.event_seq_no[at - 1]]),
            request_id=np.concatenate([dataset.request_id, made.request_id]),
            target_offsets=np.concatenate(
                [dataset.target_offsets, dataset.target_offsets[-1] + made.target_offsets[1:]]
            ),
            target_item_id=np.concatenate([dataset.target_item_id, made.target_item_id]),
            target_group_id=np.concatenate([dataset.target_group_id, made.target_group_id]),
            labels=np.concatenate([dataset.labels, np.zeros((added, len(dataset.tasks)), dtype=np.uint8)]),
        ),
        np.arange(len(dataset), len(dataset) + len(source)),
    )


def _runs(dataset: RankingDataset) -> NDArray[np.int64]:
    """Which run of events each event is in, int64 [E]: one ends where no request's history goes on to the next row.

    Within a run every row has an event of the same user and epoch, numbered without a gap, as the histories that span
    it are.
    """
    spanned = np.zeros(len(dataset.events) + 1, dtype=np.int64)
    inside = dataset.history_end > dataset.history_begin
    np.add.at(spanned, dataset.history_begin[inside] + 1, 1)
    np.add.at(spanned, dataset.history_end[inside], -1)
    runs: NDArray[np.int64] = np.cumsum(np.cumsum(spanned)[:-1] == 0) - 1
    return runs


def soft_columns(
    columns: Columns,
    requests: NDArray[np.int64],
    unlabelled: NDArray[np.int64],
    teacher_logits: NDArray[np.float32],
    alpha: float,
) -> Columns:
    """The columns with the teachers' word in the labels: `alpha` of it for `requests`, all of it for `unlabelled`.

    Args:
        teacher_logits: the mean over the teachers, [T of `requests` and then of `unlabelled`, A].
    """
    asked = np.concatenate([requests, unlabelled])
    first, counts = columns.target_offsets[asked], np.diff(columns.target_offsets)[asked]
    starts = np.cumsum(counts) - counts
    rows = span_rows(first, counts)

    def spread(of_requests: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        return np.repeat(of_requests, counts, axis=0)

    weight = spread(np.where(np.arange(len(asked)) < len(requests), alpha, 1.0))[:, None]
    odds = np.exp(teacher_logits - spread(np.maximum.reduceat(teacher_logits, starts, axis=0)))
    softmax = odds / spread(np.add.reduceat(odds, starts, axis=0))
    labels, shares = columns.labels.numpy().copy(), columns.shares.numpy().copy()
    labels[rows] = (1 - weight) * labels[rows] + weight / (1 + np.exp(-teacher_logits))
    shares[rows] = (1 - weight) * shares[rows] + weight * softmax
    return replace(columns, labels=torch.from_numpy(labels), shares=torch.from_numpy(shares))
