"""The bundled log and KuaiRand's format become the same `BehaviourLog`."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.logs.behaviour_log import BehaviourLog
from infra.logs.gitlog import read_gitlog
from infra.logs.kuairand import PLAYED, SKIPPED, read_kuairand

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def gitlog() -> BehaviourLog:
    return read_gitlog(DATA / "gitlog_small")


def assert_feedback_gives_the_labels(log: BehaviourLog, counted_actions: set[int] | None = None) -> None:
    touched: list[set[int]] = [set() for _ in log.request_time_ms]
    for row in np.flatnonzero(log.event_request >= 0):
        if counted_actions is None or int(log.event["action"][row]) in counted_actions:
            touched[log.event_request[row]].add(int(log.event["item_id"][row]))
    for request, items in enumerate(touched):
        span = slice(log.candidate_offsets[request], log.candidate_offsets[request + 1])
        expected = [int(int(item) in items) for item in log.candidate_item[span]]
        assert log.label[span].tolist() == expected, log.request_id[request]


def test_gitlog_has_what_its_readme_counts(gitlog: BehaviourLog) -> None:
    assert (len(gitlog.arrival_ms), gitlog.users, len(gitlog.request_time_ms)) == (131_882, 6_054, 22_060)
    assert set(np.diff(gitlog.candidate_offsets)) == {32}
    assert gitlog.candidate_group.all()
    assert set(gitlog.event["action"].tolist()) == {1, 2, 3}


def test_gitlog_feedback_gives_the_labels(gitlog: BehaviourLog) -> None:
    assert_feedback_gives_the_labels(gitlog)


def test_head_keeps_whole_moments(gitlog: BehaviourLog) -> None:
    head = gitlog.head(0.1)
    end = gitlog.request_time_ms[len(head.request_time_ms)]
    assert len(head.request_time_ms) == pytest.approx(2206, abs=10)
    assert (head.arrival_ms < end).all()
    assert (gitlog.arrival_ms[len(head.arrival_ms) :] >= end).all()
    assert gitlog.head(1.0) is gitlog


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_head_of_no_fraction_is_refused(gitlog: BehaviourLog, fraction: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        gitlog.head(fraction)


def test_log_out_of_order_is_refused(gitlog: BehaviourLog) -> None:
    with pytest.raises(ValueError, match="arrival_ms falls at row 2"):
        replace(gitlog, arrival_ms=gitlog.arrival_ms[::-1])


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"events\.parquet"):
        read_gitlog(tmp_path)


def test_kuairand_rows_become_views_signals_and_pages() -> None:
    log = read_kuairand(DATA / "kuairand_format", page_size=4)
    with (DATA / "kuairand_format/log_standard_4_08_to_4_21_tiny.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (DATA / "kuairand_format/log_random_4_22_to_5_08_tiny.csv").open() as file:
        rows += list(csv.DictReader(file))
    signals = sum(int(row[name]) for row in rows for name in ("is_like", "is_follow", "is_comment", "is_hate"))
    assert len(log.arrival_ms) == len(rows) + signals
    views = np.isin(log.event["action"], (SKIPPED, PLAYED))
    assert views.sum() == len(rows)
    assert log.event["watch_ms"][views].sum() == sum(int(row["play_time_ms"]) for row in rows)
    assert (log.event["group_id"] == (log.event["item_id"] - 1) // 4 + 1)[log.event["item_id"] != 8].all()
    assert (log.event["group_id"][log.event["item_id"] == 8] == 0).all()
    assert np.diff(log.candidate_offsets).max() <= 4
    assert log.candidate_offsets[-1] == len(rows)
    assert_feedback_gives_the_labels(log, {PLAYED})


def test_kuairand_pages_show_no_video_twice() -> None:
    log = read_kuairand(DATA / "kuairand_format", page_size=100, page_gap_ms=10**12)
    for first, end in zip(log.candidate_offsets, log.candidate_offsets[1:], strict=False):
        page = log.candidate_item[first:end].tolist()
        assert len(set(page)) == len(page)


def test_kuairand_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "log_standard.csv").write_text("user_id,video_id\n1,2\n")
    with pytest.raises(ValueError, match=r"log_standard\.csv.*time_ms"):
        read_kuairand(tmp_path)
