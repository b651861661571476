"""A log from Parquet to arrays and back; what is wrong with a log is told with its file and row."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infra.experiment.prepare import LogFormatError, read_log
from infra.logs.gitlog import read_gitlog
from scorer.experiment.arrays import LogArrays
from scorer.experiment.compact import load_arrays, save_arrays
from tests.experiment.logs import random_log, write_parquet

SMALL = Path(__file__).parents[1] / "data" / "gitlog_small"


def _same(a: LogArrays, b: LogArrays) -> None:
    for field in fields(LogArrays):
        if field.name != "name":
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@given(
    hnp.arrays(st.sampled_from([np.int8, np.int32, np.int64, np.uint8]), st.integers(0, 30)),
    st.booleans(),
)
def test_any_integers_come_back_as_they_were(tmp_path_factory, values, as_differences):
    # Differences of the extremes do not fit in 64 bits: no time or id is there.
    values = values // 4
    path = tmp_path_factory.mktemp("npz") / "some.npz"
    save_arrays(path, {"values": values}, {"values"} if as_differences else ())
    found = load_arrays(path)["values"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_a_log_is_the_same_from_parquet_and_from_its_arrays(tmp_path):
    log = random_log(4)
    read = read_log(write_parquet(log, tmp_path / "log"))
    # Users, items and groups that occur nowhere are not there.
    np.testing.assert_array_equal(read.item_id[read.event_item], log.item_id[log.event_item])
    np.testing.assert_array_equal(read.user_id[read.request_user], log.user_id[log.request_user])
    for name in ("event_time_ms", "arrival_time_ms", "event_session", "history_length", "label", "split"):
        np.testing.assert_array_equal(getattr(read, name), getattr(log, name), err_msg=name)
    read.save(tmp_path / "arrays")
    _same(LogArrays.load(tmp_path / "arrays"), read)


def test_the_bundled_log_is_what_the_replay_sends():
    log, replayed = read_log(SMALL), read_gitlog(SMALL)
    dataset = log.to_ranking_dataset()
    np.testing.assert_array_equal(dataset.target_item_id, replayed.candidate_item)
    np.testing.assert_array_equal(dataset.target_group_id, replayed.candidate_group)
    np.testing.assert_array_equal(dataset.request_time_ms, replayed.request_time_ms)
    by_user = np.argsort(replayed.event_user, kind="stable")
    np.testing.assert_array_equal(dataset.events, replayed.event[by_user])
    # The point in time, one by one, of some requests.
    for request in range(0, len(log), 2_000):
        own = replayed.event_user == replayed.request_user[request]
        arrived = replayed.arrival_ms[own] <= replayed.request_time_ms[request]
        assert log.history_length[request] == arrived.sum()


def test_a_split_by_time_leaves_nothing_of_later_in_train():
    log = random_log(1, requests=30)
    first, second = (int(log.request_time_ms[at]) for at in (10, 20))
    split = log.time_split(first, second)
    assert (log.request_time_ms[split == 0] < first).all()
    assert (log.request_time_ms[split == 2] >= second).all()
    with pytest.raises(ValueError, match="after test"):
        log.time_split(second, first)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"events": {"action": None}}, r"events.parquet: missing columns action"),
        ({"requests": {"split": None, "labels": None}}, r"requests.parquet: missing columns labels, split"),
        ({"events": {"arrival_time_ms": [5, 9, 8, 7]}}, r"events.parquet: row 2: arrival_time_ms 8 is before 9"),
        ({"events": {"group_id": [1, 2, 1, 1]}}, r"events.parquet: row 1: group_id is another"),
        ({"events": {"item_id": ["a", "b", "c", "d"]}}, r"events.parquet: item_id is string, must be an integer"),
        ({"events": {"item_id": [1, 1, None, 1]}}, r"events.parquet: row 2: item_id is null"),
        ({"requests": {"candidates": [[1], [99]]}}, r"requests.parquet: row 1: a candidate occurs in no event: 99"),
        ({"requests": {"labels": [[1], [1, 0]]}}, r"requests.parquet: row 1: not as many labels as candidates"),
        ({"requests": {"labels": [[1], [2]]}}, r"requests.parquet: row 1: a label is not 0 or 1: 2"),
        ({"requests": {"split": ["train", "dev"]}}, r"requests.parquet: row 1: split is none of train, valid, test"),
        ({"requests": {"request_time_ms": [9, 3]}}, r"requests.parquet: row 1: request_time_ms 3 is before 9"),
    ],
)
def test_mistakes_are_told_with_file_and_row(tmp_path, replaced, message):
    log = random_log(0, users=1, items=1, events=4, requests=2, candidates=1)
    directory = write_parquet(log, tmp_path, **replaced)
    with pytest.raises(LogFormatError, match=message):
        read_log(directory)


def test_no_log_at_all(tmp_path):
    with pytest.raises(LogFormatError, match=re.escape("events.parquet: no such file; a log is a directory")):
        read_log(tmp_path)
    with pytest.raises(FileNotFoundError, match="longrank experiment"):
        LogArrays.load(tmp_path)
