"""Features against an oracle that looks at one pair at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer.experiment.features import SETS, HistoryFeatures
from tests.experiment.logs import DAY_MS, random_log

_NAN = float("nan")


def _window(log, request, length):
    user = log.request_user[request]
    rows = [
        row
        for row in range(log.user_offsets[user], log.user_offsets[user + 1])
        if log.arrival_time_ms[row] <= log.request_time_ms[request]
    ]
    return rows[-length:]


def _oracle(log, request, item, length):
    """The columns of `strong` by (of, name), straight from their definitions."""
    rows, now = _window(log, request, length), int(log.request_time_ms[request])
    sessions, user = [], None
    for row in range(len(log.event_item)):
        fresh = log.event_user[row] != user or log.event_session[row] != log.event_session[row - 1]
        sessions.append((sessions[-1] if sessions else 0) + (row > 0 and fresh))
        user = log.event_user[row]
    size = {row: sessions.count(sessions[row]) for row in rows}
    repo = {int(i): int(log.event_repo[np.flatnonzero(log.event_item == i)[0]]) for i in set(log.event_item.tolist())}
    repos = sorted(set(log.event_repo.tolist()))
    group = log.item_group
    same = {
        "item": lambda row: log.event_item[row] == item,
        "folder": lambda row: group[log.event_item[row]] == group[item],
        "repo": lambda row: repo[int(log.event_item[row])] == repo.get(item, repos[0]),
        "user": lambda _: True,
    }

    def fade(of, name):
        family, half_life = name.split(":")
        total = 0.0
        for row in filter(same[of], rows):
            age = {
                "fading": (now - log.arrival_time_ms[row]) / DAY_MS,
                "sized": (now - log.arrival_time_ms[row]) / DAY_MS,
                "by_rank": rows[-1] + 1 - row,
                "by_session": sessions[rows[-1]] - sessions[row],
                "sized_by_session": sessions[rows[-1]] - sessions[row],
            }[family]
            total += 2 ** (-age / float(half_life)) / (size[row] if "sized" in family else 1)
        return total

    def hours(ms):
        return math.log1p(ms / 3_600_000)

    def value(of, name):
        touches = [row for row in rows if same[of](row)]
        family, _, parameter = name.partition(":")
        if family in ("fading", "sized", "by_rank", "by_session", "sized_by_session"):
            return fade(of, name)
        if family == "share":
            return math.log((fade(of, f"fading:{parameter}") + 1e-3) / (fade("user", f"fading:{parameter}") + 1e-2))
        if family == "of_folder" and parameter:
            return math.log((fade(of, f"fading:{parameter}") + 1e-3) / (fade("folder", f"fading:{parameter}") + 1e-2))
        if family == "of_folder":
            return math.log((len(touches) + 0.1) / (sum(map(same["folder"], rows)) + 1))
        if name == "count":
            return math.log1p(len(touches))
        if name == "mean_size":
            faded = [2 ** (-(rows[-1] + 1 - row) / 1_000) for row in touches]
            return sum(f / size[r] for f, r in zip(faded, touches, strict=True)) / max(sum(faded), 1e-9)
        if not touches or (name == "previous_session_rank" and len(touches) < 2):
            return _NAN
        last = touches[-1]
        return {
            "rank": rows[-1] - last,
            "session_rank": sessions[rows[-1]] - sessions[last],
            "previous_session_rank": sessions[rows[-1]] - sessions[touches[-2:][0]],
            "age": hours(now - log.arrival_time_ms[last]),
            "event_age": hours(abs(now - log.event_time_ms[last])),
            "first_age": hours(now - log.arrival_time_ms[touches[0]]),
            "sessions": math.log1p(len({sessions[row] for row in touches})),
            "newest_size": math.log(size[last]),
            "part": len(touches) / len(rows),
            "action": float(log.event_action[last]),
        }[name]

    return [value(of, name) for of, name in SETS["strong"]]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 10, 1_000]))
def test_every_column_is_as_defined(seed, length):
    log = random_log(seed)
    requests = np.array([7, 0, 11], dtype=np.int64)
    built = HistoryFeatures(log).build("strong", requests, length)
    at = 0
    for request in requests.tolist():
        for target in range(log.candidate_offsets[request], log.candidate_offsets[request + 1]):
            expected = _oracle(log, request, int(log.candidate_item[target]), length)
            for column, value, wanted in zip(SETS["strong"], built[at], expected, strict=True):
                assert value == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True), (column, target)
            at += 1
    assert at == len(built)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_what_arrives_after_the_request_changes_nothing(seed):
    log = random_log(seed)
    request = np.array([5], dtype=np.int64)
    end = int(log.history_end[5])
    before = HistoryFeatures(log).build("basic", request, 1_000)
    last = int(log.user_offsets[log.request_user[5] + 1])
    log.event_item[end:last] = (log.event_item[end:last] + 1) % len(log.item_id)
    np.testing.assert_array_equal(HistoryFeatures(log).build("basic", request, 1_000), before)


def test_the_basic_set_is_the_strong_one_with_fewer_columns():
    log = random_log(3)
    everything = np.arange(len(log))
    features = HistoryFeatures(log)
    strong, basic = (features.build(which, everything, 50) for which in ("strong", "basic"))
    columns = [SETS["strong"].index(column) for column in SETS["basic"]]
    np.testing.assert_array_equal(strong[:, columns], basic)


def test_no_events_and_no_requests():
    empty = random_log(0, events=0)
    built = HistoryFeatures(empty).build("strong", np.arange(2), 10)
    assert built.shape == (10, len(SETS["strong"]))
    assert HistoryFeatures(random_log(1)).build("basic", np.arange(0), 10).shape == (0, 6)


def test_mistakes_are_told():
    features = HistoryFeatures(random_log(0))
    with pytest.raises(ValueError, match="no feature set 'best'; there are basic, strong"):
        features.build("best", np.arange(1), 10)
    with pytest.raises(ValueError, match="length 0"):
        features.build("basic", np.arange(1), 0)
