"""What a record of the requests topic asks for. Pure.

Two ways to be refused. A record that cannot be trusted to name a request (`Rejected`: key, bytes, version, user, id,
time) becomes a dead letter and nothing else. One that does name a request but cannot be scored (`Unanswerable`) also
gets an INVALID response, so that the application need not wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
from schemas.v1.ranking_pb2 import RankingRequest

_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """One record of the requests topic; the timestamp is the record's, ms; `arrived` is the loop's clock, s."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    arrived: float


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRequest:
    """An accepted request and where it came from."""

    arrival: Arrival
    message: RankingRequest
    #: uint64 [m], m >= 1.
    item_ids: NDArray[np.uint64]
    #: uint64 [m]; 0 means none.
    group_ids: NDArray[np.uint64]


class Unanswerable(Rejected):
    """The request can be answered only with why it cannot be scored."""

    def __init__(self, reason: Reason, detail: str, message: RankingRequest) -> None:
        super().__init__(reason, detail)
        self.message = message


def parse_request(arrival: Arrival, limits: Limits) -> ScoreRequest:
    """The request in a record.

    Raises:
        Unanswerable: its candidates cannot be scored.
        Rejected: it does not name a request.
    """
    user_id = accept_key(arrival.key, arrival.value, arrival.partition, limits, limits.max_record_bytes)
    message = parse(RankingRequest, arrival.value)
    check_version(message.schema_version)
    check_user(message.user_id, user_id)
    check_request_id("request_id", message.request_id)
    check_time("request_time_ms", message.request_time_ms, limits)
    check_skew("request_time_ms", message.request_time_ms, arrival.timestamp_ms, limits)
    try:
        item_ids = _ids("item_id", message.candidates.item_id, limits, lowest=1)
        group_ids = np.zeros(len(item_ids), dtype=np.uint64)
        if message.candidates.group_id:
            group_ids = _ids("group_id", message.candidates.group_id, limits, lowest=0)
        if len(group_ids) != len(item_ids):
            raise Rejected(Reason.MALFORMED_COLUMNS, f"{len(item_ids)} candidates have {len(group_ids)} groups")
        check_feature_columns("candidates.features", message.candidates.features, len(item_ids), limits)
        check_feature_columns("context", message.context, 1, limits)
    except Rejected as rejected:
        raise Unanswerable(rejected.reason, rejected.detail, message) from rejected
    return ScoreRequest(arrival, message, item_ids, group_ids)


def _ids(field: str, column: bytes, limits: Limits, lowest: int) -> NDArray[np.uint64]:
    """A column of m x uint64 little-endian, 1 <= m <= max_candidates."""
    if not column:
        raise Rejected(Reason.NO_CANDIDATES, f"candidates.{field} is empty")
    if len(column) % _ID_BYTES:
        raise Rejected(
            Reason.MALFORMED_COLUMNS, f"candidates.{field} has {len(column)} bytes, not whole ids of {_ID_BYTES}"
        )
    if len(column) > limits.max_candidates * _ID_BYTES:
        raise Rejected(
            Reason.TOO_MANY_CANDIDATES,
            f"{len(column) // _ID_BYTES} candidates, at most {limits.max_candidates} are scored",
        )
    ids = np.frombuffer(column, dtype="<u8")
    if ids.min() < lowest or ids.max() > limits.max_id:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"candidates.{field} holds an id outside {lowest} .. {limits.max_id}")
    return ids


def check_tasks(message: RankingRequest, tasks: tuple[str, ...]) -> tuple[int, ...]:
    """Columns of the model's tasks that the request wants, in its order; all when it names none.

    Raises:
        Unanswerable: unknown_task: the model has no such task, or one is named twice.
    """
    wanted = tuple(message.tasks) or tasks
    unknown = [task for task in wanted if task not in tasks]
    if unknown or len(set(wanted)) != len(wanted):
        raise Unanswerable(
            Reason.UNKNOWN_TASK, f"tasks {', '.join(wanted)} of a model that has {', '.join(tasks)}", message
        )
    return tuple(tasks.index(task) for task in wanted)
