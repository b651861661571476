"""The graphs' inputs: token-wise for the history (`encode`), per candidate and per request for the targets (`score`).

How time enters without breaking the append-only property. An attention logit gets terms c_j exp(-age_j / scale_j),
where age is the request's time minus the event's (time scales) or the newest seq_no minus the event's (rank scales).
Each is a product of a factor of the event and a factor of the request,

    exp(-(t_request - t_event) / tau) = exp((t_event - t_head) / tau) * exp((t_head - t_request) / tau),

with the head of the served history, its newest event, as the reference. So every factor is in [0, 1]: nothing
overflows at any age, what underflows is what no longer matters, and nothing of the request is in a key. The product
does not depend on the reference: a buffer of keys that outlives its head multiplies its `terms` columns by
`rebase_terms` and appends. Requests that share a history share its encoding whatever their times are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.history import HAS_DURATION, HAS_GROUP, HAS_WATCH, History
from scorer.features.hashing import sign_codes, table_rows
from scorer.features.settings import CONTEXT_WIDTH, ENGAGEMENT_WIDTH, HASHES, FeatureSettings

Features = dict[str, NDArray[Any]]

_MS_PER_DAY: Final = 86_400_000
_MS_PER_HOUR: Final = 3_600_000
#: 1970-01-01 was a Thursday; any fixed origin does.
_DAYS_PER_WEEK: Final = 7
#: Watching longer than the video lasts counts up to twice its length.
_MAX_WATCH_RATIO: Final = 2.0

#: Hash streams: two of table rows and one of codes for items, then the same for groups.
_ITEM_ROWS, _ITEM_CODE, _GROUP_ROWS, _GROUP_CODE = 0, HASHES, HASHES + 1, 2 * HASHES + 1
_STREAMS: Final = 2 * HASHES + 2


@dataclass(frozen=True, kw_only=True)
class HistoryHead:
    """Where a served history ends."""

    #: Largest event_time_ms among the served events, ms UTC; 0 without events.
    newest_ms: int
    #: seq_no of the newest served event; 0 without events.
    seq_no: int

    @classmethod
    def of(cls, history: History, first_seq_no: int) -> HistoryHead:
        """The head of events [L] numbered from `first_seq_no`."""
        if len(history) == 0:
            return cls(newest_ms=0, seq_no=0)
        return cls(newest_ms=int(history["event_time_ms"].max()), seq_no=first_seq_no + len(history) - 1)


def featurise_history(history: History, first_seq_no: int, head: HistoryHead, settings: FeatureSettings) -> Features:
    """The inputs of `encode` for events [L] numbered from `first_seq_no`. Row l depends on event l, its number, `head`.

    Returns:
        item_rows, group_rows: int64 [L, 2] table rows; 0 for a missing group.
        item_code, group_code: int8 [L, code_bits] of +1 and -1; zeros for a missing group.
        action_row, surface_row: int64 [L].
        engagement: float32 [L, 4].
        terms: float32 [L, J], the event's factors of the attention terms.

    Raises:
        ValueError: `head` is before one of the events.
    """
    seq_no = first_seq_no + np.arange(len(history), dtype=np.int64)
    return {
        **token_features(history, settings),
        "terms": history_terms(history["event_time_ms"], seq_no, head, settings),
    }


def token_features(history: History, settings: FeatureSettings) -> Features:
    """`featurise_history` without `terms`: what depends on the event alone."""
    return {
        **_id_features(history["item_id"], event_groups(history), settings, prefix=""),
        **behaviour_features(history, settings),
    }


def event_groups(history: History) -> NDArray[np.uint64]:
    """Groups [L] of events [L]; 0 where there is none."""
    return np.where(history["fields"] & HAS_GROUP, history["group_id"], np.uint64(0))


def behaviour_features(history: History, settings: FeatureSettings) -> Features:
    """`token_features` without the ids: action_row, surface_row, engagement."""
    fields = history["fields"]
    watched = (fields & HAS_WATCH) != 0
    has_duration = (fields & HAS_DURATION) != 0
    watch_s = history["watch_ms"] / 1_000.0
    duration_s = history["duration_ms"] / 1_000.0
    ratio = np.divide(watch_s, duration_s, out=np.zeros(len(history)), where=watched & has_duration & (duration_s > 0))
    engagement = np.empty((len(history), ENGAGEMENT_WIDTH), dtype=np.float32)
    engagement[:, 0] = watched
    engagement[:, 1] = np.log1p(watch_s) * watched / 4.0
    engagement[:, 2] = has_duration
    engagement[:, 3] = np.minimum(ratio, _MAX_WATCH_RATIO)
    return {
        "action_row": _code_rows(history["action"], settings.actions),
        "surface_row": _code_rows(history["surface"], settings.surfaces),
        "engagement": engagement,
    }


def featurise_targets(
    item_ids: NDArray[np.uint64],
    group_ids: NDArray[np.uint64],
    request_time_ms: int,
    head: HistoryHead,
    settings: FeatureSettings,
) -> Features:
    """The inputs of `score`, but the encoded history, for candidates [m]; group 0 means none.

    Returns:
        target_item_rows, target_group_rows: int64 [m, 2].
        target_item_code, target_group_code: int8 [m, code_bits].
        request_terms: float32 [J], the request's factors of the attention terms.
        request_context: float32 [7].

    Raises:
        ValueError: `group_ids` has another length than `item_ids`.
    """
    time_ms, newest_ms = np.array([request_time_ms]), np.array([head.newest_ms])
    return {
        **target_features(item_ids, group_ids, settings),
        "request_terms": request_terms(time_ms, newest_ms, settings)[0],
        "request_context": request_context(time_ms, newest_ms, np.array([head.seq_no]))[0],
    }


def target_features(item_ids: NDArray[np.uint64], group_ids: NDArray[np.uint64], settings: FeatureSettings) -> Features:
    """`featurise_targets` without what belongs to the request.

    Raises:
        ValueError: `group_ids` has another length than `item_ids`.
    """
    if len(item_ids) != len(group_ids):
        raise ValueError(f"{len(item_ids)} candidates have {len(group_ids)} groups")
    return _id_features(item_ids, group_ids, settings, prefix="target_")


def history_terms(
    event_time_ms: NDArray[np.int64], seq_no: NDArray[np.int64], head: HistoryHead, settings: FeatureSettings
) -> NDArray[np.float32]:
    """The event's factors [L, J] for times and numbers [L]: 1, exp((t - t_head) / tau), exp((n - n_head) / rho).

    Raises:
        ValueError: an event lies after `head`.
    """
    times = len(settings.time_scales_ms)
    exponents = np.zeros((len(seq_no), settings.terms))
    if len(seq_no):
        age_ms = head.newest_ms - event_time_ms
        rank = head.seq_no - seq_no
        if age_ms.min() < 0 or rank.min() < 0:
            raise ValueError(f"events up to {event_time_ms.max()} ms and number {seq_no.max()} lie after {head}")
        exponents[:, 1 : 1 + times] = age_ms[:, None] / -np.asarray(settings.time_scales_ms, dtype=np.float64)
        exponents[:, 1 + times :] = rank[:, None] / -np.asarray(settings.rank_scales, dtype=np.float64)
    return np.exp(exponents).astype(np.float32)


def request_terms(
    request_time_ms: NDArray[np.int64], newest_ms: NDArray[np.int64], settings: FeatureSettings
) -> NDArray[np.float32]:
    """The requests' factors [r, J], for request times and heads' times [r]; 0 for no head.

    A request before the newest event (clock skew) counts as at that event.
    """
    wait_ms = np.maximum(0, request_time_ms - newest_ms)
    times = len(settings.time_scales_ms)
    exponents = np.zeros((len(wait_ms), settings.terms))
    exponents[:, 1 : 1 + times] = -wait_ms[:, None] / np.asarray(settings.time_scales_ms, dtype=np.float64)
    return np.exp(exponents).astype(np.float32)


def rebase_terms(old: HistoryHead, new: HistoryHead, settings: FeatureSettings) -> NDArray[np.float32]:
    """Factors [J] that turn `history_terms` for `old` into those for `new`.

    Raises:
        ValueError: `new` is before `old`.
    """
    factors: NDArray[np.float32] = history_terms(np.array([old.newest_ms]), np.array([old.seq_no]), new, settings)[0]
    return factors


def request_context(
    request_time_ms: NDArray[np.int64], newest_ms: NDArray[np.int64], seq_no: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What requests say beside their candidates, [r, 7]: history?, log seq_no, log hours since it, hour and weekday.

    Args:
        request_time_ms, newest_ms, seq_no: of the requests and of their heads, [r]; seq_no 0 without history.
    """
    context = np.zeros((len(request_time_ms), CONTEXT_WIDTH), dtype=np.float32)
    known = seq_no > 0
    context[:, 0] = known
    context[:, 1] = np.log1p(seq_no) / 8.0
    context[:, 2] = known * np.log1p(np.maximum(0, request_time_ms - newest_ms) / _MS_PER_HOUR) / 8.0
    hour = 2 * np.pi * (request_time_ms % _MS_PER_DAY) / _MS_PER_DAY
    weekday = 2 * np.pi * (request_time_ms // _MS_PER_DAY % _DAYS_PER_WEEK) / _DAYS_PER_WEEK
    context[:, 3:] = np.stack([np.cos(hour), np.sin(hour), np.cos(weekday), np.sin(weekday)], axis=1)
    return context


def item_features(item_id: NDArray[Any], settings: FeatureSettings) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Table rows [n, 2] and code [n, code_bits] of items [n]."""
    streams = settings.seed * _STREAMS
    rows = table_rows(item_id, settings.item_buckets, HASHES, streams + _ITEM_ROWS)
    return rows, sign_codes(item_id, settings.code_bits, streams + _ITEM_CODE)


def group_features(group_id: NDArray[Any], settings: FeatureSettings) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Table rows [n, 2] and code [n, code_bits] of groups [n]; 0 means none."""
    streams = settings.seed * _STREAMS
    rows = table_rows(group_id, settings.group_buckets, HASHES, streams + _GROUP_ROWS)
    return rows, sign_codes(group_id, settings.code_bits, streams + _GROUP_CODE)


def _id_features(item_id: NDArray[Any], group_id: NDArray[Any], settings: FeatureSettings, prefix: str) -> Features:
    item_rows, item_code = item_features(item_id, settings)
    group_rows, group_code = group_features(group_id, settings)
    return {
        f"{prefix}item_rows": item_rows,
        f"{prefix}group_rows": group_rows,
        f"{prefix}item_code": item_code,
        f"{prefix}group_code": group_code,
    }


def _code_rows(codes: NDArray[Any], rows: int) -> NDArray[np.int64]:
    return np.where(codes < rows, codes, 0).astype(np.int64)
