"""Acceptance of SEED records: the rules of single events, over columns. A pure function of the record."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH, History, iterate_events
from schemas.limits import Limits
from schemas.packing import unpack_history
from schemas.reasons import Reason, Rejected
from schemas.v1.behaviour_pb2 import Seed
from streaming.sequence.state import EVENT_ID_BYTES, NO_EVENT_ID, split_ids

_OPTIONAL: Final = (
    ("watch_ms", HAS_WATCH),
    ("duration_ms", HAS_DURATION),
    ("surface", HAS_SURFACE),
    ("group_id", HAS_GROUP),
)
#: Events that are looked at one by one in less time.
_FEW: Final = 32
_ALL_FIELDS: Final = HAS_WATCH | HAS_DURATION | HAS_SURFACE | HAS_GROUP


def check_seed(seed: Seed, record_timestamp_ms: int, limits: Limits) -> History:
    """The events of one record of a seed, which satisfies what it must.

    Raises:
        Rejected: malformed_seed, or what its first bad event would be refused for.
    """
    if not 1 <= seed.parts <= limits.max_seed_parts or seed.part >= seed.parts:
        raise Rejected(
            Reason.MALFORMED_SEED, f"part {seed.part} of {seed.parts}; a seed has 1 .. {limits.max_seed_parts} parts"
        )
    if len(seed.event_ids) % EVENT_ID_BYTES or (seed.event_ids and seed.part + 1 < seed.parts):
        raise Rejected(
            Reason.MALFORMED_SEED,
            f"{len(seed.event_ids)} bytes of event_ids in part {seed.part} of {seed.parts}; the last part has them, of"
            f" {EVENT_ID_BYTES} bytes each",
        )
    if NO_EVENT_ID in split_ids(seed.event_ids):
        raise Rejected(Reason.MALFORMED_SEED, "an id among the event_ids is all zero")
    try:
        rows = unpack_history(seed.packed)
    except ValueError as error:
        raise Rejected(Reason.MALFORMED_SEED, str(error)) from error
    if not 1 <= len(rows) <= limits.max_seed_events:
        raise Rejected(Reason.MALFORMED_SEED, f"{len(rows)} events; a seed has 1 .. {limits.max_seed_events}")
    check_rows(rows, record_timestamp_ms, limits)
    return rows


def check_rows(rows: History, record_timestamp_ms: int, limits: Limits) -> None:
    """The rules of single events.

    Raises:
        Rejected: what the first bad event would be refused for.
    """
    if _plainly_good(rows, record_timestamp_ms, limits):
        return
    fields = rows["fields"]
    _refuse(fields > _ALL_FIELDS, fields, Reason.MALFORMED_SEED, "fields")
    for name, bit in _OPTIONAL:
        _refuse((rows[name] != 0) & (fields & bit == 0), rows[name], Reason.MALFORMED_SEED, f"absent {name}")
    items, groups = rows["item_id"], rows["group_id"]
    has_group = fields & HAS_GROUP != 0
    _refuse((items < 1) | (items > limits.max_id), items, Reason.ID_OUT_OF_RANGE, "item_id")
    _refuse(has_group & ((groups < 1) | (groups > limits.max_id)), groups, Reason.ID_OUT_OF_RANGE, "group_id")
    for name in ("action", "surface"):
        _refuse(rows[name] > limits.max_code, rows[name], Reason.ID_OUT_OF_RANGE, name)
    times = rows["event_time_ms"]
    outside = (times < limits.min_time_ms) | (times > limits.max_time_ms)
    _refuse(outside, times, Reason.TIME_OUT_OF_RANGE, "event_time_ms")
    # Any age is allowed; that is what a seed is for.
    _refuse(times > record_timestamp_ms + limits.max_earliness_ms, times, Reason.SKEW, "event_time_ms")


def _plainly_good(rows: History, record_timestamp_ms: int, limits: Limits) -> bool:
    """Whether a few looks at the extremes are enough: the same fields are there in all events, and nothing is bad."""
    latest = min(limits.max_time_ms, record_timestamp_ms + limits.max_earliness_ms)
    if len(rows) <= _FEW:
        return all(
            fields <= _ALL_FIELDS
            and limits.min_time_ms <= time_ms <= latest
            and 1 <= item <= limits.max_id
            and (1 <= group <= limits.max_id if fields & HAS_GROUP else not group)
            and action <= limits.max_code
            and (surface <= limits.max_code if fields & HAS_SURFACE else not surface)
            and (fields & HAS_WATCH or not watch)
            and (fields & HAS_DURATION or not duration)
            for time_ms, item, group, action, surface, watch, duration, fields in iterate_events(rows.tobytes())
        )
    fields = int(rows["fields"][0])
    if fields > _ALL_FIELDS or not (rows["fields"] == fields).all():
        return False
    if any(not fields & bit and rows[name].any() for name, bit in _OPTIONAL):
        return False
    ids = [rows["item_id"], *([rows["group_id"]] if fields & HAS_GROUP else [])]
    if any(each.min() < 1 or each.max() > limits.max_id for each in ids):
        return False
    if any(rows[name].max() > limits.max_code for name in ("action", "surface")):
        return False
    times = rows["event_time_ms"]
    return bool(times.min() >= limits.min_time_ms and times.max() <= latest)


def _refuse(bad: NDArray[np.bool_], values: NDArray[Any], reason: Reason, name: str) -> None:
    if bad.any():
        at = int(bad.argmax())
        raise Rejected(reason, f"event {at} of the seed has {name} {int(values[at])}")
