"""How well the later requests are ranked: by a simple baseline, as served, and by a bundle with less history."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from infra.report.findings import Quality
from schemas.history import History
from schemas.v1.ranking_pb2 import RankingResponse
from scorer.metrics import auc, gauc
from scorer.training.dataset import RankingDataset

#: Newest events that a scorer sees; None for all that were served.
HISTORY_CUTS: tuple[int | None, ...] = (100, 1_000, None)

#: (history [L], its first seq_no, candidates' item ids [m], group ids [m], request_time_ms) -> probabilities [m].
Score = Callable[[History, int, NDArray[np.uint64], NDArray[np.uint64], int], NDArray[np.float32]]


def touch_counts(dataset: RankingDataset, cut: int | None) -> NDArray[np.float64]:
    """log1p of how often the user touched each candidate among the newest `cut` events; [T]."""
    scores = np.empty(len(dataset.target_item_id))
    for request in range(len(dataset)):
        touched = np.sort(_history(dataset, request, cut)["item_id"])
        span = slice(dataset.target_offsets[request], dataset.target_offsets[request + 1])
        wanted = dataset.target_item_id[span]
        count = np.searchsorted(touched, wanted, side="right") - np.searchsorted(touched, wanted, side="left")
        scores[span] = np.log1p(count)
    return scores


def bundle_scores(dataset: RankingDataset, cut: int | None, score: Score) -> NDArray[np.float64]:
    """What a model answers with the newest `cut` events; [T]."""
    scores = np.empty(len(dataset.target_item_id))
    for request in range(len(dataset)):
        history = _history(dataset, request, cut)
        span = slice(dataset.target_offsets[request], dataset.target_offsets[request + 1])
        scores[span] = score(
            history,
            int(dataset.seq_no[request]) - len(history) + 1,
            dataset.target_item_id[span],
            dataset.target_group_id[span],
            int(dataset.request_time_ms[request]),
        )
    return scores


def served_scores(dataset: RankingDataset, responses: Mapping[bytes, RankingResponse]) -> NDArray[np.float64]:
    """The scores of the responses that were shown, in the targets' order; [T].

    Raises:
        KeyError: a request has no response, or a target was not scored.
    """
    scores = np.empty(len(dataset.target_item_id))
    for request, name in enumerate(dataset.request_id.tolist()):
        response = responses[name]
        items = np.frombuffer(response.candidates.item_id, "<u8").tolist()
        by_item = dict(zip(items, np.frombuffer(response.scores[0].scores, "<f4").tolist(), strict=True))
        span = slice(dataset.target_offsets[request], dataset.target_offsets[request + 1])
        scores[span] = [by_item[item] for item in dataset.target_item_id[span].tolist()]
    return scores


def quality(name: str, cut: int | None, dataset: RankingDataset, scores: NDArray[np.float64]) -> Quality:
    """AUC and gAUC of scores [T]; only their order matters."""
    labels, offsets = dataset.labels[:, 0], dataset.target_offsets
    return Quality(
        scorer=name,
        history="all" if cut is None else f"{cut:,}",
        requests=len(dataset),
        auc=auc(labels, scores),
        gauc=gauc(labels, scores, offsets),
    )


def sample(dataset: RankingDataset, most: int, rng: np.random.Generator) -> RankingDataset:
    """At most `most` of the requests, in order of time."""
    if len(dataset) <= most:
        return dataset
    return dataset.select(np.sort(rng.choice(len(dataset), most, replace=False)))


def _history(dataset: RankingDataset, request: int, cut: int | None) -> History:
    begin, end = int(dataset.history_begin[request]), int(dataset.history_end[request])
    return dataset.events[begin if cut is None else max(begin, end - cut) : end]
