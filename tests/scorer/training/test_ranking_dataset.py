"""The dataset: what does not fit together is refused with its place; what is saved is what is loaded."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from planted_log import planted

from scorer.training.dataset import RankingDataset

DATASET = planted(tasks=("touch", "like"))


def assert_equal(one: RankingDataset, two: RankingDataset) -> None:
    for field in fields(RankingDataset):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    weighted = replace(DATASET, task_weights=(1.0, 0.5))
    weighted.save(tmp_path / "dataset")
    loaded = RankingDataset.load(tmp_path / "dataset")
    assert_equal(loaded, weighted)
    assert loaded.tasks == ("touch", "like")
    with pytest.raises(ValueError, match="1 weights of 2 tasks"):
        replace(DATASET, task_weights=(1.0,))


def test_an_empty_dataset_is_one(tmp_path: Path) -> None:
    empty = DATASET.select(np.empty(0, dtype=np.int64))
    empty.save(tmp_path)
    assert len(RankingDataset.load(tmp_path)) == 0


def test_another_version_is_refused(tmp_path: Path) -> None:
    DATASET.save(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps({"version": 99, "tasks": ["touch"]}))
    with pytest.raises(ValueError, match="version 99"):
        RankingDataset.load(tmp_path)


def test_select_keeps_each_request_whole() -> None:
    chosen = np.array([5, 0, 7])
    part = DATASET.select(chosen)
    for i, request in enumerate(chosen):
        of_part = slice(part.target_offsets[i], part.target_offsets[i + 1])
        of_whole = slice(DATASET.target_offsets[request], DATASET.target_offsets[request + 1])
        assert part.request_id[i] == DATASET.request_id[request]
        np.testing.assert_array_equal(part.target_item_id[of_part], DATASET.target_item_id[of_whole])
        np.testing.assert_array_equal(part.labels[of_part], DATASET.labels[of_whole])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_holdout_is_the_newest_part(share: float) -> None:
    older, newer = DATASET.newest_part(share)
    assert older.request_time_ms.max() < newer.request_time_ms.min()
    assert len(older) + len(newer) == len(DATASET)
    assert abs(len(newer) - share * len(DATASET)) <= 1


def test_what_cannot_be_split_is_refused() -> None:
    same = replace(DATASET, request_time_ms=np.full(len(DATASET), 5))
    with pytest.raises(ValueError, match="do not split"):
        same.newest_part(0.1)
    with pytest.raises(ValueError, match="no requests"):
        DATASET.select(np.empty(0, dtype=np.int64)).newest_part(0.1)
    with pytest.raises(ValueError, match="not in"):
        DATASET.newest_part(1.0)


def broken_row(name: str, row: int, value: int) -> RankingDataset:
    array = getattr(DATASET, name).copy()
    array[row] = value
    return replace(DATASET, **{name: array})


@pytest.mark.parametrize(
    ("name", "row", "value", "complaint"),
    [
        ("history_end", 3, 10**6, r"outside of the events: request 3 \(r3\)"),
        ("history_begin", 3, -1, r"outside of the events: request 3"),
        ("seq_no", 4, 10**6, r"do not end at the request's seq_no: request 4"),
        ("event_seq_no", 0, 7, r"not numbered without a gap: request 1"),
        ("target_offsets", 1, 0, r"without targets: request 0"),
        ("target_offsets", 0, 1, r"must run from 0"),
        ("labels", 2, 3, r"labels that are not 0 or 1: target 2"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_place(name: str, row: int, value: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        broken_row(name, row, value)


def test_shapes_and_types_are_checked() -> None:
    with pytest.raises(ValueError, match="user_id is int64"):
        replace(DATASET, user_id=DATASET.user_id.astype(np.int64))
    with pytest.raises(ValueError, match=r"target_group_id is uint64 \(3,\)"):
        replace(DATASET, target_group_id=DATASET.target_group_id[:3])
    with pytest.raises(ValueError, match="no tasks"):
        replace(DATASET, tasks=(), labels=DATASET.labels[:, :0])
