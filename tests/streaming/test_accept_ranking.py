"""Acceptance of responses and impressions: every rule, and that noise is refused, never raised. Feedback is accepted
as the sequence job accepts it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from schemas.limits import Limits
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason, Rejected
from schemas.topics import PARTITIONS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, RequestRef
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Candidates,
    FeatureColumn,
    Impression,
    RankingResponse,
    Stamp,
)
from streaming.examples.accept import accept_feedback, accept_impression, accept_response, feedback_of
from streaming.sequence.accept import accept as accept_event

LIMITS = Limits(max_candidates=4)
NOW_MS = 1_750_000_000_000
USER = 4711
KEY = user_key(USER)
HOME = partition_of(KEY, PARTITIONS)
ACCEPT = {RankingResponse: accept_response, Impression: accept_impression}


def ids(*items: int) -> bytes:
    return np.asarray(items, dtype="<u8").tobytes()


def response(**changes: object) -> RankingResponse:
    fields: dict[str, object] = {
        "schema_version": 1,
        "request_id": "r",
        "response_id": "s",
        "user_id": USER,
        "request_time_ms": NOW_MS,
        "status": RESPONSE_STATUS_OK,
        "candidates": Candidates(item_id=ids(1, 2), group_id=ids(0, 9)),
        "stamp": Stamp(epoch=1),
    }
    return RankingResponse(**{name: value for name, value in (fields | changes).items() if value is not None})  # type: ignore[arg-type]


def impression(**changes: object) -> Impression:
    fields: dict[str, object] = {
        "schema_version": 1,
        "user_id": USER,
        "request_id": "r",
        "response_id": "s",
        "request_time_ms": NOW_MS,
        "impression_time_ms": NOW_MS + 5,
        "item_id": ids(1, 2, 3, 4),
    }
    return Impression(**(fields | changes))  # type: ignore[arg-type]


def accept(message: Message) -> Message:
    return ACCEPT[type(message)](KEY, message.SerializeToString(), HOME, NOW_MS, LIMITS)  # type: ignore[index]


@pytest.mark.parametrize(
    "message",
    [
        response(),
        response(candidates=Candidates(item_id=ids(1))),
        response(status=RESPONSE_STATUS_INVALID, candidates=None, stamp=None, error="no candidates"),
        impression(),
        impression(first_position=65_532),
    ],
)
def test_well_formed_messages_pass_unchanged(message: Message) -> None:
    assert accept(message) == message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (response(schema_version=2), Reason.UNKNOWN_SCHEMA_VERSION),
        (response(user_id=1), Reason.KEY_MISMATCH),
        (response(request_id=""), Reason.MALFORMED_REQUEST_ID),
        (response(response_id="s" * 65), Reason.MALFORMED_REQUEST_ID),
        (response(status=0), Reason.UNKNOWN_KIND),
        (response(stamp=None), Reason.UNKNOWN_KIND),
        (response(candidates=None), Reason.NO_CANDIDATES),
        (response(candidates=Candidates(item_id=ids(1, 2, 3, 4, 5))), Reason.TOO_MANY_CANDIDATES),
        (response(candidates=Candidates(item_id=ids(1)[:-1])), Reason.MALFORMED_COLUMNS),
        (response(candidates=Candidates(item_id=ids(1), group_id=ids(1, 2))), Reason.MALFORMED_COLUMNS),
        (response(candidates=Candidates(item_id=ids(1, 0))), Reason.ID_OUT_OF_RANGE),
        (response(candidates=Candidates(item_id=ids(1), features=[FeatureColumn(name="a")])), Reason.MALFORMED_COLUMNS),
        (response(context=[FeatureColumn(name="a", int64=ids(1, 2))]), Reason.MALFORMED_COLUMNS),
        (response(candidates=Candidates(item_id=ids(1, 1 << 63))), Reason.ID_OUT_OF_RANGE),
        (response(request_time_ms=1), Reason.TIME_OUT_OF_RANGE),
        (response(request_time_ms=NOW_MS + LIMITS.max_earliness_ms + 1), Reason.SKEW),
        (impression(schema_version=0), Reason.UNKNOWN_SCHEMA_VERSION),
        (impression(user_id=1), Reason.KEY_MISMATCH),
        (impression(request_id="é"), Reason.MALFORMED_REQUEST_ID),
        (impression(response_id=""), Reason.MALFORMED_REQUEST_ID),
        (impression(item_id=b""), Reason.NO_CANDIDATES),
        (impression(item_id=ids(1, 2, 3, 4, 5)), Reason.TOO_MANY_CANDIDATES),
        (impression(item_id=ids(1)[:-1]), Reason.MALFORMED_COLUMNS),
        (impression(item_id=ids(0)), Reason.ID_OUT_OF_RANGE),
        (impression(first_position=65_533), Reason.MALFORMED_COLUMNS),
        (impression(request_time_ms=1), Reason.TIME_OUT_OF_RANGE),
        (impression(impression_time_ms=1), Reason.TIME_OUT_OF_RANGE),
        (impression(request_time_ms=NOW_MS + LIMITS.max_earliness_ms + 1), Reason.SKEW),
        (impression(impression_time_ms=NOW_MS - LIMITS.max_lateness_ms - 1), Reason.SKEW),
    ],
)
def test_every_reason(message: Message, reason: Reason) -> None:
    with pytest.raises(Rejected) as refused:
        accept(message)
    assert refused.value.reason is reason


@given(
    accepts=st.sampled_from([accept_response, accept_impression]),
    value=st.one_of(st.none(), st.binary(max_size=80)),
    cut=st.integers(0, 50),
)
def test_noise_is_refused(accepts: object, value: bytes | None, cut: int) -> None:
    for noise in (value, response().SerializeToString()[:cut], impression().SerializeToString()[:cut]):
        with pytest.raises(Rejected):
            accepts(KEY, noise, HOME, NOW_MS, LIMITS)  # type: ignore[operator]


NAME = st.sampled_from(["", "r", "r" * 32, "s" * 64, "s" * 65, "\u00e9"])
TIME = st.sampled_from([0, 1, NOW_MS, NOW_MS + LIMITS.max_earliness_ms + 1, NOW_MS - LIMITS.max_lateness_ms, 1 << 62])
ID = st.sampled_from([0, 1, (1 << 63) - 1, 1 << 63])
CODE = st.sampled_from([0, 1, 65_535, 65_536])
EVENT = st.builds(
    BehaviourEvent,
    schema_version=st.sampled_from([1, 1, 1, 0, 2]),
    user_id=st.sampled_from([USER, USER, USER, 1]),
    event_id=st.sampled_from([b"0123456789abcdef", b"0123456789abcdef", bytes(16), b"short"]),
    event_time_ms=st.just(NOW_MS) | TIME,
    interaction=st.none()
    | st.builds(
        Interaction,
        item_id=st.just(7) | ID,
        action=CODE,
        watch_ms=st.none() | CODE,
        duration_ms=st.none() | CODE,
        surface=st.none() | CODE,
        group_id=st.none() | ID,
    ),
    request=st.none()
    | st.builds(RequestRef, request_id=st.just("r") | NAME, response_id=st.just("s") | NAME, request_time_ms=TIME),
)


def verdict(accept_record: Callable[[], object]) -> object:
    """What it returns; text: why it refuses."""
    try:
        return accept_record()
    except Rejected as refused:
        return str(refused)


@given(event=EVENT, erase=st.sampled_from([False, False, False, True]))
def test_feedback_is_accepted_as_the_sequence_job_accepts_it(event: BehaviourEvent, erase: bool) -> None:
    if erase:
        event.erase.CopyFrom(Erase())
    record = KEY, event.SerializeToString(), HOME
    wanted = verdict(lambda: accept_event(*record, NOW_MS, LIMITS)[4])
    accepted = verdict(lambda: accept_feedback(*record, 5, NOW_MS, LIMITS))
    if isinstance(wanted, str) or wanted is None:
        assert accepted == wanted
        return
    assert isinstance(accepted, tuple)
    assert accepted == feedback_of(event, USER, HOME, 5, NOW_MS)
    user_id, given, request_id, request_time_ms = accepted
    fields = {
        name: getattr(given, name)
        for name in ("item_id", "action", "watch_ms", "duration_ms", "surface", "group_id")
        if getattr(given, name) >= 0
    }
    rebuilt = BehaviourEvent(
        schema_version=1,
        user_id=user_id,
        event_id=given.event_id,
        event_time_ms=given.event_time_ms,
        interaction=Interaction(**fields),
        request=RequestRef(request_id=request_id, response_id=given.response_id, request_time_ms=request_time_ms)
        if request_id
        else None,
    )
    assert rebuilt == event
    assert (given.published_ms, given.partition, given.offset) == (NOW_MS, HOME, 5)
