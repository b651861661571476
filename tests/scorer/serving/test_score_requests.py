"""What a requests record may be, and what answers look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import SCHEMA_VERSION
from schemas.limits import Limits
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason, Rejected
from schemas.topics import PARTITIONS
from schemas.v1.ranking_pb2 import Candidates, FeatureColumn, RankingRequest, Stamp
from scorer.serving.desk import Ledger
from scorer.serving.requests import Arrival, Unanswerable, check_tasks, parse_request
from scorer.serving.responses import response_id

USER = 7
NOW_MS = 1_700_000_000_000
LIMITS = Limits(max_candidates=4)


def ids(*values: int) -> bytes:
    return np.array(values, dtype="<u8").tobytes()


def arrival(key: bytes | None = b"7", **fields) -> Arrival:
    message = RankingRequest(
        **{
            "schema_version": SCHEMA_VERSION,
            "request_id": "r",
            "user_id": USER,
            "request_time_ms": NOW_MS,
            "candidates": Candidates(item_id=ids(1, 2), group_id=ids(0, 9)),
            **fields,
        }
    )
    return Arrival(partition_of(user_key(USER), PARTITIONS), 5, NOW_MS, key, message.SerializeToString(), 0.0)


def test_columns_become_arrays():
    request = parse_request(arrival(), LIMITS)
    assert request.item_ids.tolist() == [1, 2]
    assert request.group_ids.tolist() == [0, 9]
    without = parse_request(arrival(candidates=Candidates(item_id=ids(1, 2, 3))), LIMITS)
    assert without.group_ids.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (replace(arrival(), key=None), Reason.MALFORMED_KEY),
        (replace(arrival(), key=b"07"), Reason.MALFORMED_KEY),
        (replace(arrival(), partition=0), Reason.WRONG_PARTITION),
        (replace(arrival(), value=None), Reason.MALFORMED_VALUE),
        (replace(arrival(), value=b"\xff"), Reason.MALFORMED_VALUE),
        (replace(arrival(), value=bytes(LIMITS.max_record_bytes)), Reason.OVERSIZED),
        (arrival(schema_version=99), Reason.UNKNOWN_SCHEMA_VERSION),
        (arrival(user_id=8), Reason.KEY_MISMATCH),
        (arrival(request_id=""), Reason.MALFORMED_REQUEST_ID),
        (arrival(request_id="x" * 65), Reason.MALFORMED_REQUEST_ID),
        (arrival(request_id="ü"), Reason.MALFORMED_REQUEST_ID),
        (arrival(request_time_ms=5), Reason.TIME_OUT_OF_RANGE),
        (arrival(request_time_ms=NOW_MS + LIMITS.max_earliness_ms + 1), Reason.SKEW),
    ],
)
def test_what_names_no_request_has_nobody_to_answer(record, reason):
    with pytest.raises(Rejected) as caught:
        parse_request(record, LIMITS)
    assert caught.value.reason == reason
    assert not isinstance(caught.value, Unanswerable)


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        (Candidates(), Reason.NO_CANDIDATES),
        (Candidates(group_id=ids(1)), Reason.NO_CANDIDATES),
        (Candidates(item_id=b"1234567"), Reason.MALFORMED_COLUMNS),
        (Candidates(item_id=ids(1, 2), group_id=ids(1)), Reason.MALFORMED_COLUMNS),
        (Candidates(item_id=ids(1, 2), group_id=b"1"), Reason.MALFORMED_COLUMNS),
        (Candidates(item_id=ids(1, 2, 3, 4, 5)), Reason.TOO_MANY_CANDIDATES),
        (Candidates(item_id=ids(1, 0)), Reason.ID_OUT_OF_RANGE),
        (Candidates(item_id=ids(1, 1 << 63)), Reason.ID_OUT_OF_RANGE),
        (Candidates(item_id=ids(1), group_id=ids(1 << 63)), Reason.ID_OUT_OF_RANGE),
        (Candidates(item_id=ids(1, 2), features=[FeatureColumn(name="a", int64=ids(1))]), Reason.MALFORMED_COLUMNS),
    ],
)
def test_candidates_that_cannot_be_scored_are_answered_with_why(candidates, reason):
    with pytest.raises(Unanswerable) as caught:
        parse_request(arrival(candidates=candidates), LIMITS)
    assert caught.value.reason == reason
    assert caught.value.message.request_id == "r"


def test_a_context_that_cannot_be_logged_is_answered_with_why():
    with pytest.raises(Unanswerable) as caught:
        parse_request(arrival(context=[FeatureColumn(name="place", int64=ids(1, 2))]), LIMITS)
    assert caught.value.reason == Reason.MALFORMED_COLUMNS


def test_tasks_are_the_models():
    model = ("touch", "like")
    assert check_tasks(RankingRequest(), model) == (0, 1)
    assert check_tasks(RankingRequest(tasks=["like", "touch"]), model) == (1, 0)
    for tasks in (["share"], ["like", "like"]):
        with pytest.raises(Unanswerable) as caught:
            check_tasks(RankingRequest(tasks=tasks), model)
        assert caught.value.reason == Reason.UNKNOWN_TASK


def test_a_response_id_names_request_candidates_history_and_model():
    stamp, both = Stamp(epoch=1, first_seq_no=1, seq_no=2, digest=3), Candidates(item_id=b"a", group_id=b"b")
    base = response_id("r", both, stamp, "v")
    assert base == response_id("r", both, stamp, "v")
    assert len(base) == 32
    assert int(base, 16) >= 0
    others = {
        response_id("s", both, stamp, "v"),
        response_id("r", Candidates(item_id=b"ab"), stamp, "v"),
        response_id("r", Candidates(item_id=b"a", group_id=b"b", features=[FeatureColumn(name="a")]), stamp, "v"),
        response_id("r", both, Stamp(epoch=1, first_seq_no=1, seq_no=2, digest=4), "v"),
        response_id("r", both, Stamp(epoch=1, first_seq_no=2, seq_no=2, digest=3), "v"),
        response_id("r", both, stamp, "w"),
        response_id("r", both, None, "v"),
    }
    assert len(others | {base}) == 8


@given(st.lists(st.tuples(st.sampled_from(["admit", "sent", "acked", "take"]), st.integers(0, 9), st.integers(1, 3))))
def test_a_ledger_commits_up_to_the_first_open_record(program):
    ledger = Ledger(0)
    outstanding: dict[int, int | None] = {}
    admitted, taken = 0, None
    for kind, which, outputs in program:
        unsent = [offset for offset, left in outstanding.items() if left is None]
        unacked = [offset for offset, left in outstanding.items() if left]
        if kind == "admit":
            # Compaction and other groups' markers leave holes between offsets.
            admitted += outputs
            outstanding[admitted - 1] = None
            ledger.admit(admitted - 1)
        elif kind == "sent" and unsent:
            offset = unsent[which % len(unsent)]
            outstanding[offset] = outputs
            ledger.sent(offset, outputs)
        elif kind == "acked" and unacked:
            offset = unacked[which % len(unacked)]
            outstanding[offset] -= 1
            if not outstanding[offset]:
                del outstanding[offset]
            ledger.acked(offset)
        elif kind == "take":
            first_open = min(outstanding, default=admitted) if admitted else None
            assert ledger.take_commit() == (None if first_open == taken else first_open)
            taken = first_open
        for offset in range(admitted + 1):
            assert ledger.all_sent_before(offset) == all(
                left is not None for at, left in outstanding.items() if at < offset
            )
