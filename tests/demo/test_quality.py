"""The demo's measures against the plainest way to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.demo.quality import bundle_scores, quality, sample, served_scores, touch_counts
from schemas.history import HISTORY_DTYPE, History
from schemas.v1.ranking_pb2 import Candidates, RankingResponse, TaskScores
from scorer.training.dataset import RankingDataset


def dataset(histories: list[list[int]], targets: list[list[int]]) -> RankingDataset:
    events = np.zeros(sum(map(len, histories)), dtype=HISTORY_DTYPE)
    events["item_id"] = [item for history in histories for item in history]
    ends = np.cumsum([len(history) for history in histories]).astype(np.int64)
    counts = [len(of_request) for of_request in targets]
    items = np.array([item for of_request in targets for item in of_request], dtype=np.uint64)
    return RankingDataset(
        events=events,
        event_seq_no=np.concatenate([np.arange(1, len(h) + 1, dtype=np.uint64) for h in histories]),
        history_begin=ends - [len(history) for history in histories],
        history_end=ends,
        request_time_ms=np.arange(len(targets), dtype=np.int64),
        user_id=np.arange(1, len(targets) + 1, dtype=np.uint64),
        seq_no=np.array([len(history) for history in histories], dtype=np.uint64),
        request_id=np.array([f"r{number}" for number in range(len(targets))], dtype="S64"),
        target_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        target_item_id=items,
        target_group_id=np.zeros(len(items), dtype=np.uint64),
        labels=(items % 2).astype(np.uint8)[:, None],
        tasks=("touch",),
    )


items = st.integers(1, 6)
requests = st.lists(
    st.tuples(st.lists(items, max_size=12), st.lists(items, min_size=1, max_size=5)), min_size=1, max_size=4
)


@given(requests, st.sampled_from([None, 1, 3, 100]))
def test_touch_counts(of: list[tuple[list[int], list[int]]], cut: int | None) -> None:
    data = dataset([history for history, _ in of], [targets for _, targets in of])
    expected = [
        math.log1p(history[-cut if cut else 0 :].count(target)) for history, targets in of for target in targets
    ]
    assert touch_counts(data, cut).tolist() == pytest.approx(expected)


@given(requests, st.sampled_from([None, 1, 3, 100]))
def test_a_bundle_sees_the_newest_events_under_their_numbers(
    of: list[tuple[list[int], list[int]]], cut: int | None
) -> None:
    seen: list[tuple[list[int], int, int]] = []

    def score(
        history: History, first_seq_no: int, item_ids: NDArray[np.uint64], _: NDArray[np.uint64], time_ms: int
    ) -> NDArray[np.float32]:
        seen.append((history["item_id"].tolist(), first_seq_no, time_ms))
        return item_ids.astype(np.float32)

    data = dataset([history for history, _ in of], [targets for _, targets in of])
    assert bundle_scores(data, cut, score).tolist() == [target for _, targets in of for target in targets]
    for number, ((history, _), (rows, first, time_ms)) in enumerate(zip(of, seen, strict=True)):
        assert rows == history[-cut if cut else 0 :]
        assert (first + len(rows) - 1, time_ms) == (len(history), number)


def test_served_scores_follow_the_items_not_the_places() -> None:
    data = dataset([[1]], [[5, 3, 4]])
    response = RankingResponse(
        candidates=Candidates(item_id=np.array([3, 4, 5], "<u8").tobytes()),
        scores=[TaskScores(task="touch", scores=np.array([0.25, 0.5, 0.75], "<f4").tobytes())],
    )
    assert served_scores(data, {b"r0": response}).tolist() == [0.75, 0.25, 0.5]


def test_quality_knows_a_perfect_and_a_reversed_order() -> None:
    data = dataset([[1], [1]], [[1, 2, 4], [3, 6]])
    order = data.labels[:, 0].astype(float)
    assert (quality("perfect", None, data, order).gauc, quality("reversed", 100, data, -order).auc) == (1.0, 0.0)


def test_a_sample_keeps_the_order_of_time() -> None:
    data = dataset([[1]] * 50, [[2]] * 50)
    some = sample(data, 10, np.random.default_rng(0))
    assert len(some) == 10
    assert (np.diff(some.request_time_ms) > 0).all()
    assert sample(data, 50, np.random.default_rng(0)) is data
