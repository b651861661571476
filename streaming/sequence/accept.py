"""Acceptance of behaviour events: a pure function of the record. No clock, no state."""

from __future__ import annotations

from typing import TypeAlias

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
from schemas.history import HAS_GROUP, History, decode_event, encode_event
from schemas.limits import Limits
from schemas.packing import unpack_history
from schemas.reasons import Reason, Rejected
from schemas.v1.behaviour_pb2 import BehaviourEvent, RequestRef
from streaming.sequence.accept_seed import check_seed
from streaming.sequence.state import EVENT_ID_BYTES, NO_EVENT_ID

#: An event with what every reader of it needs: user_id, event_id, event_time_ms; and an interaction's canonical
#: encoding (`schemas.history`), or a seed's rows. Each look into a message costs as much as a function call.
Accepted: TypeAlias = tuple[BehaviourEvent, int, bytes, int, bytes | History | None]


def accept_event(
    key: bytes | None, value: bytes | None, partition: int, record_timestamp_ms: int, limits: Limits
) -> BehaviourEvent:
    """The event that a record of behaviour.events.v1 carries.

    Args:
        record_timestamp_ms: when the application published the record; the event's own time is when the user acted.

    Raises:
        Rejected: with the first reason that applies, in the order of `Reason`.
    """
    return accept(key, value, partition, record_timestamp_ms, limits)[0]


def accepted(event: BehaviourEvent) -> Accepted:
    """What `accept` returns of an event that it has returned before."""
    content: bytes | History | None = None
    if event.HasField("interaction"):
        content = encode_event(event.event_time_ms, event.interaction)
    elif event.HasField("seed"):
        content = unpack_history(event.seed.packed)
    return event, event.user_id, event.event_id, event.event_time_ms, content


def accept(
    key: bytes | None, value: bytes | None, partition: int, record_timestamp_ms: int, limits: Limits
) -> Accepted:
    """`accept_event`, with what was read of the event on the way."""
    # Every record passes here: a check is called only where it will refuse.
    user_id = accept_key(key, value, partition, limits, limits.max_record_bytes)
    event = parse(BehaviourEvent, value)
    if event.schema_version != SCHEMA_VERSION:
        check_version(event.schema_version)
    if event.user_id != user_id:
        check_user(event.user_id, user_id)
    event_id = event.event_id
    if len(event_id) != EVENT_ID_BYTES or event_id == NO_EVENT_ID:
        raise Rejected(
            Reason.MALFORMED_EVENT_ID,
            f"event_id {event_id.hex()} is not of {EVENT_ID_BYTES} bytes that are not all zero",
        )
    if event.HasField("request"):
        _check_request(event.request, limits)
    event_time_ms = event.event_time_ms
    content: bytes | History | None = None
    if event.HasField("interaction"):
        content = encode_event(event_time_ms, event.interaction)
        _check_codes_and_ids(content, limits)
    elif event.HasField("seed"):
        content = check_seed(event.seed, record_timestamp_ms, limits)
    elif not event.HasField("erase"):
        raise Rejected(Reason.UNKNOWN_KIND, "the event is neither an interaction, an erase nor a seed")
    if not limits.min_time_ms <= event_time_ms <= limits.max_time_ms:
        check_time("event_time_ms", event_time_ms, limits)
    if not -limits.max_lateness_ms <= event_time_ms - record_timestamp_ms <= limits.max_earliness_ms:
        check_skew("event_time_ms", event_time_ms, record_timestamp_ms, limits)
    return event, user_id, event_id, event_time_ms, content


def _check_request(request: RequestRef, limits: Limits) -> None:
    # As above: a check is called only where it will refuse.
    request_id, response_id, time_ms = request.request_id, request.response_id, request.request_time_ms
    if not (request_id and response_id and len(request_id) + len(response_id) <= MAX_REQUEST_ID) or not (
        request_id.isascii() and response_id.isascii()
    ):
        check_request_id("request.request_id", request_id)
        check_request_id("request.response_id", response_id)
    if not limits.min_time_ms <= time_ms <= limits.max_time_ms:
        check_time("request.request_time_ms", time_ms, limits)


def _check_codes_and_ids(encoded: bytes, limits: Limits) -> None:
    _, item_id, group_id, action, surface, _, _, fields = decode_event(encoded)
    max_id, max_code = limits.max_id, limits.max_code
    if not 1 <= item_id <= max_id:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"item_id {item_id} is outside 1 .. {max_id}")
    if fields & HAS_GROUP and not 1 <= group_id <= max_id:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"group_id {group_id} is outside 1 .. {max_id}")
    if action > max_code:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"action {action} is above {max_code}")
    if surface > max_code:
        raise Rejected(Reason.ID_OUT_OF_RANGE, f"surface {surface} is above {max_code}")
