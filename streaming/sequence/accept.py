"""Acceptance of behaviour events: a pure function of the record. No clock, no state."""

from __future__ import annotations

from schemas.acceptance import (
    accept_key,
    check_request_id,
    check_skew,
    check_time,
    check_user,
    check_version,
    parse,
)
from schemas.limits import Limits
from schemas.reasons import Reason, Rejected
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from streaming.sequence.accept_seed import check_seed
from streaming.sequence.state import EVENT_ID_BYTES, NO_EVENT_ID


def accept_event(
    key: bytes | None, value: bytes | None, partition: int, record_timestamp_ms: int, limits: Limits
) -> BehaviourEvent:
    """The event that a record of behaviour.events.v1 carries.

    Args:
        record_timestamp_ms: when the application published the record; the event's own time is when the user acted.

    Raises:
        Rejected: with the first reason that applies, in the order of `Reason`.
    """
    key_user_id = accept_key(key, value, partition, limits, limits.max_record_bytes)
    event = parse(BehaviourEvent, value)
    check_version(event.schema_version)
    check_user(event.user_id, key_user_id)
    if len(event.event_id) != EVENT_ID_BYTES or event.event_id == NO_EVENT_ID:
        raise Rejected(
            Reason.MALFORMED_EVENT_ID,
            f"event_id {event.event_id.hex()} is not of {EVENT_ID_BYTES} bytes that are not all zero",
        )
    if event.HasField("request"):
        _check_request(event.request, limits)
    if event.HasField("interaction"):
        _check_interaction(event.interaction, limits)
    elif event.HasField("seed"):
        check_seed(event.seed, record_timestamp_ms, limits)
    elif not event.HasField("erase"):
        raise Rejected(Reason.UNKNOWN_KIND, "the event is neither an interaction, an erase nor a seed")
    check_time("event_time_ms", event.event_time_ms, limits)
    check_skew("event_time_ms", event.event_time_ms, record_timestamp_ms, limits)
    return event


def _check_request(request: RequestRef, limits: Limits) -> None:
    check_request_id("request.request_id", request.request_id)
    check_request_id("request.response_id", request.response_id)
    check_time("request.request_time_ms", request.request_time_ms, limits)


def _check_interaction(interaction: Interaction, limits: Limits) -> None:
    if not 1 <= interaction.item_id <= limits.max_id:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"item_id {interaction.item_id} is outside 1 .. {limits.max_id}")
    if interaction.HasField("group_id") and not 1 <= interaction.group_id <= limits.max_id:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"group_id {interaction.group_id} is outside 1 .. {limits.max_id}")
    if interaction.action > limits.max_code:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"action {interaction.action} is above {limits.max_code}")
    if interaction.surface > limits.max_code:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"surface {interaction.surface} is above {limits.max_code}")
