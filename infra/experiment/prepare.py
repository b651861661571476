"""From the two Parquet files of a recorded log to the arrays that the comparison reads, checked on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scorer.experiment.arrays import SPLITS, LogArrays

EVENTS: Final = "events.parquet"
REQUESTS: Final = "requests.parquet"

_EVENT_COLUMNS: Final = (
    "user_id",
    "item_id",
    "group_id",
    "repo_id",
    "action",
    "event_time_ms",
    "arrival_time_ms",
    "session_id",
)
_REQUEST_COLUMNS: Final = ("request_id", "user_id", "request_time_ms", "candidates", "labels", "split")


class LogFormatError(ValueError):
    """The log is not as its format says: which file, which row, what is wrong with it."""


def read_log(directory: Path) -> LogArrays:
    """The log in `directory`, whatever its name: `events.parquet` and `requests.parquet` as the bundled log has them.

    Raises:
        LogFormatError: a file or a column is missing, times fall, a candidate is unknown, and so on.
    """
    events_path, requests_path = directory / EVENTS, directory / REQUESTS
    events = _read(events_path, _EVENT_COLUMNS)
    requests = _read(requests_path, _REQUEST_COLUMNS)

    arrival = _integers(events, "arrival_time_ms", events_path)
    _check_rising(arrival, "arrival_time_ms", events_path)
    request_time = _integers(requests, "request_time_ms", requests_path)
    _check_rising(request_time, "request_time_ms", requests_path)

    event_user, request_user = (
        _integers(t, "user_id", p) for t, p in ((events, events_path), (requests, requests_path))
    )
    user_id = np.unique(np.concatenate([event_user, request_user]))
    item_id, first, event_item = np.unique(
        _integers(events, "item_id", events_path), return_index=True, return_inverse=True
    )
    group_id, event_group = np.unique(_integers(events, "group_id", events_path), return_inverse=True)
    item_group = event_group[first]
    _refuse(event_group != item_group[event_item], events_path, "group_id is another than the item had before")

    offsets, candidates, labels = _candidates(requests, requests_path)
    at = np.minimum(np.searchsorted(item_id, candidates), max(len(item_id) - 1, 0))
    unknown = item_id[at] != candidates if len(item_id) else np.ones(len(candidates), dtype=bool)
    request = np.repeat(np.arange(len(request_time)), np.diff(offsets))
    _refuse(unknown, requests_path, "a candidate occurs in no event", rows=request, values=candidates)
    _refuse(labels > 1, requests_path, "a label is not 0 or 1", rows=request, values=labels)

    # By user, and in the file's order within a user: that is the arrival order.
    by_user = np.argsort(event_user, kind="stable")
    counts = np.bincount(np.searchsorted(user_id, event_user), minlength=len(user_id))
    return LogArrays(
        name=directory.resolve().name,
        user_id=user_id,
        item_id=item_id,
        group_id=group_id,
        item_group=item_group.astype(np.int32),
        user_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        event_item=event_item[by_user].astype(np.int32),
        event_repo=_integers(events, "repo_id", events_path)[by_user].astype(np.int16),
        event_action=_integers(events, "action", events_path)[by_user].astype(np.int8),
        event_session=_integers(events, "session_id", events_path)[by_user],
        event_time_ms=_integers(events, "event_time_ms", events_path)[by_user],
        arrival_time_ms=arrival[by_user],
        request_id=_integers(requests, "request_id", requests_path),
        request_user=np.searchsorted(user_id, request_user).astype(np.int32),
        request_time_ms=request_time,
        split=_split(requests, requests_path),
        candidate_offsets=offsets,
        candidate_item=at.astype(np.int32),
        label=labels.astype(np.uint8),
    )


def _read(path: Path, columns: tuple[str, ...]) -> pa.Table:
    if not path.is_file():
        raise LogFormatError(f"{path}: no such file; a log is a directory with {EVENTS} and {REQUESTS}")
    try:
        missing = set(columns) - set(pq.read_schema(path).names)
        if missing:
            raise LogFormatError(f"{path}: missing columns {', '.join(sorted(missing))}")
        return pq.read_table(path, columns=list(columns))
    except pa.ArrowException as error:
        raise LogFormatError(f"{path}: not readable as Parquet: {error}") from error


def _integers(table: pa.Table, name: str, path: Path) -> NDArray[np.int64]:
    column = table[name]
    if not pa.types.is_integer(column.type):
        raise LogFormatError(f"{path}: {name} is {column.type}, must be an integer")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise LogFormatError(f"{path}: row {row}: {name} is null")
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _candidates(requests: pa.Table, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Offsets [R + 1], candidates [T], labels [T]."""
    lists = []
    for name in ("candidates", "labels"):
        column = requests[name]
        if not (pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type)):
            raise LogFormatError(f"{path}: {name} is {column.type}, must be a list of integers")
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise LogFormatError(f"{path}: row {row}: {name} is null")
        lengths = column.combine_chunks().value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        lists.append((lengths, column.combine_chunks().flatten()))
    (counts, items), (label_counts, labels) = lists
    _refuse(counts != label_counts, path, "not as many labels as candidates")
    _refuse(counts == 0, path, "no candidates")
    for name, values in (("candidates", items), ("labels", labels)):
        if values.null_count:
            raise LogFormatError(f"{path}: {name} has a null within a list")
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return offsets, np.asarray(items, dtype=np.int64), np.asarray(labels, dtype=np.int64)


def _split(requests: pa.Table, path: Path) -> NDArray[np.int8]:
    encoded = requests["split"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.array([SPLITS.index(name) if name in SPLITS else -1 for name in names], dtype=np.int8)
    split = codes[encoded.indices.to_numpy(zero_copy_only=False)] if len(codes) else np.empty(0, dtype=np.int8)
    _refuse(split < 0, path, f"split is none of {', '.join(SPLITS)}")
    return split


def _check_rising(times: NDArray[np.int64], name: str, path: Path) -> None:
    falls = np.flatnonzero(np.diff(times) < 0)
    if len(falls):
        row = int(falls[0]) + 1
        raise LogFormatError(f"{path}: row {row}: {name} {times[row]} is before {times[row - 1]} in the row above")


def _refuse(
    wrong: NDArray[Any],
    path: Path,
    what: str,
    rows: NDArray[np.int64] | None = None,
    values: NDArray[np.int64] | None = None,
) -> None:
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        row = at if rows is None else int(rows[at])
        value = "" if values is None else f": {values[at]}"
        raise LogFormatError(f"{path}: row {row}: {what}{value}")
