"""The application's messages, from the rows of a log."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.logs.behaviour_log import BehaviourLog
from schemas import SCHEMA_VERSION
from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH
from schemas.partitioner import partition_of, user_key
from schemas.topics import IMPRESSIONS, PARTITIONS, REQUESTS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from schemas.v1.ranking_pb2 import Candidates, Impression, RankingRequest, RankingResponse


class Outgoing(NamedTuple):
    """A record to produce."""

    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int
    partition: int
    #: The event id or request id whose return ends a latency measurement.
    awaited: bytes | str | None = None


def event_message(log: BehaviourLog, number: int, event_id: bytes, response_id: str | None) -> BehaviourEvent:
    """Event `number`; `response_id` is the shown response it is feedback to, None when it is no feedback."""
    row = log.event[number]
    fields = int(row["fields"])
    interaction = Interaction(item_id=int(row["item_id"]), action=int(row["action"]))
    if fields & HAS_GROUP:
        interaction.group_id = int(row["group_id"])
    if fields & HAS_SURFACE:
        interaction.surface = int(row["surface"])
    if fields & HAS_WATCH:
        interaction.watch_ms = int(row["watch_ms"])
    if fields & HAS_DURATION:
        interaction.duration_ms = int(row["duration_ms"])
    message = BehaviourEvent(
        schema_version=SCHEMA_VERSION,
        user_id=int(log.event_user[number]),
        event_id=event_id,
        event_time_ms=int(row["event_time_ms"]),
        interaction=interaction,
    )
    if response_id is not None:
        request = int(log.event_request[number])
        message.request.CopyFrom(
            RequestRef(
                request_id=log.request_id[request].decode(),
                response_id=response_id,
                request_time_ms=int(log.request_time_ms[request]),
            )
        )
    return message


def request_record(log: BehaviourLog, number: int, min_seq_no: int, max_wait_ms: int) -> Outgoing:
    """Request `number`, to be scored on a history that has reached `min_seq_no`."""
    span = slice(log.candidate_offsets[number], log.candidate_offsets[number + 1])
    time = int(log.request_time_ms[number])
    message = RankingRequest(
        schema_version=SCHEMA_VERSION,
        request_id=log.request_id[number].decode(),
        user_id=int(log.request_user[number]),
        request_time_ms=time,
        candidates=Candidates(
            item_id=log.candidate_item[span].astype("<u8").tobytes(),
            group_id=log.candidate_group[span].astype("<u8").tobytes(),
        ),
        min_seq_no=min_seq_no,
        max_wait_ms=max_wait_ms,
    )
    key = user_key(message.user_id)
    value = message.SerializeToString()
    return Outgoing(REQUESTS.name, key, value, time, partition_of(key, PARTITIONS), message.request_id)


def impression_record(log: BehaviourLog, number: int, response: RankingResponse) -> Outgoing:
    """All candidates of request `number` as shown, best score first."""
    items = np.frombuffer(response.candidates.item_id, dtype="<u8")
    scores = np.frombuffer(response.scores[0].scores, dtype="<f4")
    shown = np.argsort(-scores, kind="stable")
    time = int(log.request_time_ms[number])
    message = Impression(
        schema_version=SCHEMA_VERSION,
        user_id=response.user_id,
        request_id=response.request_id,
        response_id=response.response_id,
        request_time_ms=time,
        impression_time_ms=time,
        item_id=items[shown].tobytes(),
    )
    key = user_key(response.user_id)
    return Outgoing(IMPRESSIONS.name, key, message.SerializeToString(), time, partition_of(key, PARTITIONS))
