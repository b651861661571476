"""Acceptance: every rule once, the order of the rules, and that nothing but `Rejected` ever comes out of noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.history import HISTORY_DTYPE
from schemas.limits import Limits
from schemas.packing import pack_history
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason, Rejected
from schemas.topics import PARTITIONS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, RequestRef, Seed
from streaming.sequence.accept import accept_event

LIMITS = Limits()
NOW_MS = 1_750_000_000_000
USER = 4711
KEY = user_key(USER)
HOME = partition_of(KEY, PARTITIONS)


def event(**changes: object) -> BehaviourEvent:
    fields: dict[str, object] = {
        "schema_version": 1,
        "user_id": USER,
        "event_id": bytes(range(16)),
        "event_time_ms": NOW_MS,
        "interaction": Interaction(item_id=5, action=1),
    }
    return BehaviourEvent(**{name: value for name, value in (fields | changes).items() if value is not None})  # type: ignore[arg-type]


def accept(message: BehaviourEvent, key: bytes | None = KEY, partition: int = HOME) -> BehaviourEvent:
    return accept_event(key, message.SerializeToString(), partition, NOW_MS, LIMITS)


def refusal(message: BehaviourEvent) -> Reason:
    with pytest.raises(Rejected) as refused:
        accept(message)
    return refused.value.reason


def test_well_formed_events_pass_unchanged() -> None:
    full = Interaction(item_id=5, action=65_535, watch_ms=0, duration_ms=9, surface=0, group_id=LIMITS.max_id)
    reference = RequestRef(request_id="r" * 64, response_id="x", request_time_ms=NOW_MS)
    for message in (event(), event(interaction=full, request=reference), event(interaction=None, erase=Erase())):
        assert accept(message) == message


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, Reason.MALFORMED_KEY),
        (b"", Reason.MALFORMED_KEY),
        (b"0", Reason.MALFORMED_KEY),
        (b"04711", Reason.MALFORMED_KEY),
        (b"+4711", Reason.MALFORMED_KEY),
        (b"4_711", Reason.MALFORMED_KEY),
        (b" 4711", Reason.MALFORMED_KEY),
        ("٤٧١١".encode(), Reason.MALFORMED_KEY),
        (b"%d" % (LIMITS.max_id + 1), Reason.MALFORMED_KEY),
        (b"9" * 5_000, Reason.MALFORMED_KEY),
        (b"1" * (LIMITS.max_record_bytes + 1), Reason.OVERSIZED),
    ],
)
def test_keys(key: bytes | None, reason: Reason) -> None:
    with pytest.raises(Rejected) as refused:
        accept(event(), key=key)
    assert refused.value.reason is reason


def test_the_largest_id_is_a_user() -> None:
    key = user_key(LIMITS.max_id)
    message = event(user_id=LIMITS.max_id)
    assert accept(message, key, partition_of(key, PARTITIONS)).user_id == LIMITS.max_id


@pytest.mark.parametrize("partition", sorted(set(range(PARTITIONS)) - {HOME}))
def test_wrong_partition(partition: int) -> None:
    with pytest.raises(Rejected) as refused:
        accept(event(), partition=partition)
    assert refused.value.reason is Reason.WRONG_PARTITION


@pytest.mark.parametrize("value", [None, b"\xff", event().SerializeToString()[:-2], b"\x12\x02\xff\xfe" * 2 + b"\x01"])
def test_values_that_do_not_parse(value: bytes | None) -> None:
    with pytest.raises(Rejected) as refused:
        accept_event(KEY, value, HOME, NOW_MS, LIMITS)
    assert refused.value.reason is Reason.MALFORMED_VALUE


def reference(**changes: object) -> RequestRef:
    fields: dict[str, object] = {"request_id": "r", "response_id": "s", "request_time_ms": NOW_MS}
    return RequestRef(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (BehaviourEvent(), Reason.UNKNOWN_SCHEMA_VERSION),
        (event(schema_version=2), Reason.UNKNOWN_SCHEMA_VERSION),
        (event(user_id=USER + 1), Reason.KEY_MISMATCH),
        (event(event_id=None), Reason.MALFORMED_EVENT_ID),
        (event(event_id=bytes(17)), Reason.MALFORMED_EVENT_ID),
        (event(event_id=bytes(16)), Reason.MALFORMED_EVENT_ID),
        (event(request=reference(request_id="")), Reason.MALFORMED_REQUEST_ID),
        (event(request=reference(request_id="r" * 65)), Reason.MALFORMED_REQUEST_ID),
        (event(request=reference(response_id="é")), Reason.MALFORMED_REQUEST_ID),
        (event(request=reference(request_time_ms=0)), Reason.TIME_OUT_OF_RANGE),
        (event(interaction=None), Reason.UNKNOWN_KIND),
        (event(interaction=Interaction(item_id=0)), Reason.ID_OUT_OF_RANGE),
        (event(interaction=Interaction(item_id=LIMITS.max_id + 1)), Reason.ID_OUT_OF_RANGE),
        (event(interaction=Interaction(item_id=1, group_id=0)), Reason.ID_OUT_OF_RANGE),
        (event(interaction=Interaction(item_id=1, action=LIMITS.max_code + 1)), Reason.ID_OUT_OF_RANGE),
        (event(interaction=Interaction(item_id=1, surface=LIMITS.max_code + 1)), Reason.ID_OUT_OF_RANGE),
        (event(event_time_ms=LIMITS.min_time_ms - 1), Reason.TIME_OUT_OF_RANGE),
        (event(event_time_ms=LIMITS.max_time_ms + 1), Reason.TIME_OUT_OF_RANGE),
        (event(event_time_ms=NOW_MS - LIMITS.max_lateness_ms - 1), Reason.SKEW),
        (event(event_time_ms=NOW_MS + LIMITS.max_earliness_ms + 1), Reason.SKEW),
    ],
)
def test_every_reason(message: BehaviourEvent, reason: Reason) -> None:
    assert refusal(message) is reason


@pytest.mark.parametrize("time_ms", [NOW_MS - LIMITS.max_lateness_ms, NOW_MS + LIMITS.max_earliness_ms])
def test_the_edges_of_the_skew_are_inside(time_ms: int) -> None:
    assert accept(event(event_time_ms=time_ms)).event_time_ms == time_ms


def test_the_first_thing_wrong_is_named() -> None:
    wrong = event(
        schema_version=9, user_id=1, event_id=b"", interaction=Interaction(), event_time_ms=0, request=RequestRef()
    )
    reasons = [refusal(wrong)]
    for fix in (
        {"schema_version": 1},
        {"user_id": USER},
        {"event_id": bytes(range(16))},
        {"request": reference()},
        {"interaction": Interaction(item_id=1)},
    ):
        wrong.MergeFrom(BehaviourEvent(**fix))  # type: ignore[arg-type]
        reasons.append(refusal(wrong))
    order = list(Reason)
    assert reasons == sorted(set(reasons), key=order.index)


@given(
    key=st.one_of(st.none(), st.binary(max_size=24), st.just(KEY)),
    value=st.one_of(st.none(), st.binary(max_size=80), st.just(event().SerializeToString())),
    partition=st.integers(0, PARTITIONS - 1),
    timestamp_ms=st.integers(-1, 1 << 62),
)
def test_noise_is_accepted_or_rejected_and_always_the_same_way(
    key: bytes | None, value: bytes | None, partition: int, timestamp_ms: int
) -> None:
    def verdict() -> object:
        try:
            return accept_event(key, value, partition, timestamp_ms, LIMITS)
        except Rejected as refused:
            return refused.reason, refused.detail

    assert verdict() == verdict()


def seed(rows: np.ndarray | None = None, **changes: object) -> BehaviourEvent:
    rows = seed_rows() if rows is None else rows
    fields: dict[str, object] = {"part": 0, "parts": 1, "packed": pack_history(rows)}
    return event(interaction=None, seed=Seed(**(fields | changes)))  # type: ignore[arg-type]


def seed_rows(count: int = 3, **columns: object) -> np.ndarray:
    rows = np.zeros(count, dtype=HISTORY_DTYPE)
    rows["item_id"], rows["event_time_ms"] = 7, LIMITS.min_time_ms
    for name, value in columns.items():
        rows[name][1:2] = value
    return rows


def test_well_formed_seeds_pass_unchanged() -> None:
    full = {"fields": 15, "group_id": LIMITS.max_id, "watch_ms": 9, "duration_ms": 8, "surface": 7}
    for message in (
        seed(),
        seed(seed_rows(**full)),
        seed(part=1, parts=2, event_ids=b"i" * 32, rebuild=True),
        seed(seed_rows(event_time_ms=NOW_MS + LIMITS.max_earliness_ms)),
    ):
        assert accept(message) == message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (seed(parts=0), Reason.MALFORMED_SEED),
        (seed(part=2, parts=2), Reason.MALFORMED_SEED),
        (seed(parts=LIMITS.max_seed_parts + 1), Reason.MALFORMED_SEED),
        (seed(event_ids=bytes(17)), Reason.MALFORMED_SEED),
        (seed(parts=2, event_ids=b"i" * 16), Reason.MALFORMED_SEED),
        (seed(event_ids=b"i" * 16 + bytes(16)), Reason.MALFORMED_SEED),
        (seed(packed=b""), Reason.MALFORMED_SEED),
        (seed(packed=b"noise"), Reason.MALFORMED_SEED),
        (seed(seed_rows(0)), Reason.MALFORMED_SEED),
        (seed(seed_rows(LIMITS.max_seed_events + 1)), Reason.MALFORMED_SEED),
        (seed(seed_rows(fields=16)), Reason.MALFORMED_SEED),
        (seed(np.array([(LIMITS.min_time_ms, 7, 0, 0, 0, 0, 0, 16)], HISTORY_DTYPE)), Reason.MALFORMED_SEED),
        (seed(np.array([(LIMITS.min_time_ms, 7, 0, 0, 0, 0, 0, 8)], HISTORY_DTYPE)), Reason.ID_OUT_OF_RANGE),
        (seed(seed_rows(watch_ms=1)), Reason.MALFORMED_SEED),
        (seed(seed_rows(group_id=1)), Reason.MALFORMED_SEED),
        (seed(seed_rows(item_id=0)), Reason.ID_OUT_OF_RANGE),
        (seed(seed_rows(item_id=LIMITS.max_id + 1)), Reason.ID_OUT_OF_RANGE),
        (seed(seed_rows(fields=8)), Reason.ID_OUT_OF_RANGE),
        (seed(seed_rows(action=LIMITS.max_code + 1)), Reason.ID_OUT_OF_RANGE),
        (seed(seed_rows(event_time_ms=LIMITS.min_time_ms - 1)), Reason.TIME_OUT_OF_RANGE),
        (seed(seed_rows(event_time_ms=LIMITS.max_time_ms + 1)), Reason.TIME_OUT_OF_RANGE),
        (seed(seed_rows(event_time_ms=NOW_MS + LIMITS.max_earliness_ms + 1)), Reason.SKEW),
    ],
)
def test_seeds_are_refused_for_their_first_fault(message: BehaviourEvent, reason: Reason) -> None:
    assert refusal(message) is reason


def test_the_place_of_a_bad_event_is_named() -> None:
    with pytest.raises(Rejected, match="event 1 of the seed has item_id 0"):
        accept(seed(seed_rows(item_id=0)))
