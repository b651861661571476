"""Acceptance of responses and impressions: pure functions of the record."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from schemas.acceptance import (
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
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_BEHIND,
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Impression,
    RankingResponse,
)

_ID_BYTES: Final = 8
#: Ids that are looked at one by one in less time than numpy's calls take.
_FEW: Final = 128
#: Positions travel as uint16.
_MAX_POSITION: Final = 65_535


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
    if response.status not in (RESPONSE_STATUS_OK, RESPONSE_STATUS_INVALID, RESPONSE_STATUS_BEHIND):
        raise Rejected(Reason.UNKNOWN_KIND, f"status {response.status}")
    if response.status != RESPONSE_STATUS_INVALID:
        if not response.HasField("stamp"):
            raise Rejected(Reason.UNKNOWN_KIND, "a scored response without a stamp")
        _check_items("candidates.item_id", response.candidates.item_id, limits)
        groups = len(response.candidates.group_id)
        if groups and groups != len(response.candidates.item_id):
            raise Rejected(
                Reason.MALFORMED_COLUMNS,
                f"candidates.group_id has {groups} bytes, item_id {len(response.candidates.item_id)}",
            )
        candidates = len(response.candidates.item_id) // _ID_BYTES
        check_feature_columns("candidates.features", response.candidates.features, candidates, limits)
        check_feature_columns("context", response.context, 1, limits)
    check_time("request_time_ms", response.request_time_ms, limits)
    check_skew("request_time_ms", response.request_time_ms, record_timestamp_ms, limits)
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
    _check_items("item_id", impression.item_id, limits)
    last_position = impression.first_position + len(impression.item_id) // _ID_BYTES - 1
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
