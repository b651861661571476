"""Acceptance of responses, impressions and feedback: pure functions of the record.

All records pass here, and each look into a message costs as much as a function call: fields are read once, and a check
is called only where it will refuse.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

import numpy as np

from schemas import SCHEMA_VERSION
from schemas.acceptance import (
    MAX_REQUEST_ID,
    accept_key,
    check_request_id,
    check_skew,
    check_time,
    check_user,
    check_version,
    parse,
)
from schemas.feature_columns import check_feature_columns
from schemas.limits import Limits
from schemas.reasons import Reason, Rejected
from schemas.topics import RESPONSES
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_BEHIND,
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Impression,
    RankingResponse,
)
from streaming.examples.pending import Given
from streaming.sequence.accept import accept
from streaming.sequence.state import EVENT_ID_BYTES, NO_EVENT_ID

#: user_id, what was said, and request_id and request_time_ms of the request that it names; "": none.
AcceptedFeedback: TypeAlias = tuple[int, Given, str, int]

_ID_BYTES: Final = 8
#: Ids that are looked at one by one in less time than numpy's calls take.
_FEW: Final = 128
_STATUSES: Final = (RESPONSE_STATUS_OK, RESPONSE_STATUS_INVALID, RESPONSE_STATUS_BEHIND)
#: Positions travel as uint16.
_MAX_POSITION: Final = 65_535


def accept_feedback(
    key: bytes | None, value: bytes | None, partition: int, offset: int, record_timestamp_ms: int, limits: Limits
) -> AcceptedFeedback | None:
    """The interaction that a record of behaviour.events.v1 carries; None: it carries something else.

    Raises:
        Rejected: as `streaming.sequence.accept.accept` does.
    """
    user_id = accept_key(key, value, partition, limits, limits.max_record_bytes)
    event = parse(BehaviourEvent, value)
    named = feedback_of(event, user_id, partition, offset, record_timestamp_ms)
    _, said, request_id, request_time_ms = named
    response_id, max_id, max_code = said.response_id, limits.max_id, limits.max_code
    names = len(request_id) + len(response_id)
    sound = (
        event.schema_version == SCHEMA_VERSION
        and event.user_id == user_id
        and len(said.event_id) == EVENT_ID_BYTES
        and said.event_id != NO_EVENT_ID
        and 1 <= said.item_id <= max_id
        and (said.group_id < 0 or 1 <= said.group_id <= max_id)
        and said.action <= max_code
        and said.surface <= max_code
        and limits.min_time_ms <= said.event_time_ms <= limits.max_time_ms
        and -limits.max_lateness_ms <= said.event_time_ms - record_timestamp_ms <= limits.max_earliness_ms
        and (
            (
                request_id
                and response_id
                and names <= MAX_REQUEST_ID
                and request_id.isascii()
                and response_id.isascii()
                and limits.min_time_ms <= request_time_ms <= limits.max_time_ms
            )
            or not (names or event.HasField("request"))
        )
    )
    # What is not plainly sound is for the rules themselves to judge.
    if not sound and not isinstance(accept(key, value, partition, record_timestamp_ms, limits)[4], bytes):
        return None
    return named


def feedback_of(
    event: BehaviourEvent, user_id: int, partition: int, offset: int, record_timestamp_ms: int
) -> AcceptedFeedback:
    """What an interaction says, whose record stands there."""
    interaction, request = event.interaction, event.request
    watch_ms, duration_ms = interaction.watch_ms, interaction.duration_ms
    surface, group_id = interaction.surface, interaction.group_id
    has = interaction.HasField
    # What is not 0 is there: to ask is slow, and most are not 0.
    return (
        user_id,
        Given(
            record_timestamp_ms,
            event.event_id,
            partition,
            offset,
            event.event_time_ms,
            interaction.item_id,
            interaction.action,
            watch_ms if watch_ms or has("watch_ms") else -1,
            duration_ms if duration_ms or has("duration_ms") else -1,
            surface if surface or has("surface") else -1,
            group_id if group_id or has("group_id") else -1,
            request.response_id,
        ),
        request.request_id,
        request.request_time_ms,
    )


def accept_response(
    key: bytes | None, value: bytes | None, partition: int, record_timestamp_ms: int, limits: Limits
) -> RankingResponse:
    """The response that a record of ranking.responses.v1 carries.

    Raises:
        Rejected: with the first reason that applies.
    """
    # Scores come on top of the candidates a request may have, so that only the topic's own limit holds here.
    key_user_id = accept_key(key, value, partition, limits, RESPONSES.max_message_bytes)
    response = parse(RankingResponse, value)
    check_version(response.schema_version)
    check_user(response.user_id, key_user_id)
    check_request_id("request_id", response.request_id)
    check_request_id("response_id", response.response_id)
    status = response.status
    if status not in _STATUSES:
        raise Rejected(Reason.UNKNOWN_KIND, f"status {status}")
    if status != RESPONSE_STATUS_INVALID:
        if not response.HasField("stamp"):
            raise Rejected(Reason.UNKNOWN_KIND, "a scored response without a stamp")
        candidates = response.candidates
        item_id, groups = candidates.item_id, len(candidates.group_id)
        _check_items("candidates.item_id", item_id, limits)
        if groups and groups != len(item_id):
            raise Rejected(Reason.MALFORMED_COLUMNS, f"candidates.group_id has {groups} bytes, item_id {len(item_id)}")
        if features := candidates.features:
            check_feature_columns("candidates.features", features, len(item_id) // _ID_BYTES, limits)
        if context := response.context:
            check_feature_columns("context", context, 1, limits)
    request_time_ms = response.request_time_ms
    check_time("request_time_ms", request_time_ms, limits)
    check_skew("request_time_ms", request_time_ms, record_timestamp_ms, limits)
    return response


def accept_impression(
    key: bytes | None, value: bytes | None, partition: int, record_timestamp_ms: int, limits: Limits
) -> Impression:
    """The impression that a record of ranking.impressions.v1 carries.

    Raises:
        Rejected: with the first reason that applies.
    """
    key_user_id = accept_key(key, value, partition, limits, limits.max_record_bytes)
    impression = parse(Impression, value)
    check_version(impression.schema_version)
    check_user(impression.user_id, key_user_id)
    check_request_id("request_id", impression.request_id)
    check_request_id("response_id", impression.response_id)
    item_id = impression.item_id
    _check_items("item_id", item_id, limits)
    last_position = impression.first_position + len(item_id) // _ID_BYTES - 1
    if last_position > _MAX_POSITION:
        raise Rejected(Reason.MALFORMED_COLUMNS, f"the last position is {last_position}, above {_MAX_POSITION}")
    for field in ("request_time_ms", "impression_time_ms"):
        check_time(field, getattr(impression, field), limits)
    # The request's time too: it sets the timer, and a far one would hold state until then.
    for field in ("request_time_ms", "impression_time_ms"):
        check_skew(field, getattr(impression, field), record_timestamp_ms, limits)
    return impression


def _check_items(field: str, column: bytes, limits: Limits) -> None:
    """A column of m x uint64 little-endian, 1 <= m <= max_candidates, ids in range."""
    if not column:
        raise Rejected(Reason.NO_CANDIDATES, f"{field} is empty")
    if len(column) > limits.max_candidates * _ID_BYTES:
        raise Rejected(
            Reason.TOO_MANY_CANDIDATES, f"{field} has {len(column) // _ID_BYTES} items, above {limits.max_candidates}"
        )
    if len(column) % _ID_BYTES:
        raise Rejected(Reason.MALFORMED_COLUMNS, f"{field} has {len(column)} bytes, not whole ids of {_ID_BYTES}")
    lowest, highest = _extremes(column)
    if lowest < 1 or highest > limits.max_id:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"{field} holds an id outside 1 .. {limits.max_id}")


def _extremes(column: bytes) -> tuple[int, int]:
    if len(column) <= _FEW * _ID_BYTES:
        few = struct.unpack(f"<{len(column) // _ID_BYTES}Q", column)
        return min(few), max(few)
    items = np.frombuffer(column, dtype="<u8")
    return int(items.min()), int(items.max())
