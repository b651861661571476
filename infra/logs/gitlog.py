"""Reader of the bundled log's format: two Parquet files, `events.parquet` and `requests.parquet`.

The columns are those of `tests/data/gitlog_small/README.txt`: a user is an author, an item a file, a group its folder,
a session a commit. A request asks which files the coming commit touches; the commit arrives 1 ms later, and its events
are the request's feedback.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.logs.behaviour_log import BehaviourLog
from schemas.history import HAS_GROUP, HAS_SURFACE, HISTORY_DTYPE

TASK: Final = "touch"
#: The file's 0 add, 1 modify, 2 delete become 1, 2, 3: code 0 means "unspecified" in our events.
ACTION_OFFSET: Final = 1

_EVENT_COLUMNS: Final = ("user_id", "item_id", "group_id", "repo_id", "action", "event_time_ms", "arrival_time_ms")
_REQUEST_COLUMNS: Final = ("request_id", "user_id", "request_time_ms", "candidates", "labels")


def read_gitlog(directory: Path) -> BehaviourLog:
    """The log in `directory`.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a column is missing, or candidates and labels do not match, with the file and the row.
    """
    events = _read(directory / "events.parquet", (*_EVENT_COLUMNS, "session_id"))
    requests = _read(directory / "requests.parquet", _REQUEST_COLUMNS)

    history = np.zeros(events.num_rows, dtype=HISTORY_DTYPE)
    history["event_time_ms"] = _column(events, "event_time_ms")
    history["item_id"] = _column(events, "item_id")
    history["group_id"] = _column(events, "group_id")
    history["action"] = _column(events, "action").astype(np.int64) + ACTION_OFFSET
    history["surface"] = _column(events, "repo_id")
    history["fields"] = HAS_GROUP | HAS_SURFACE

    candidates = requests["candidates"].combine_chunks()
    labels = requests["labels"].combine_chunks()
    offsets = np.asarray(candidates.offsets, dtype=np.int64)
    if not np.array_equal(offsets, np.asarray(labels.offsets, dtype=np.int64)):
        row = int(np.flatnonzero(np.asarray(labels.offsets) != offsets)[0]) - 1
        raise ValueError(f"{directory / 'requests.parquet'}: row {row} has not as many labels as candidates")
    item = np.asarray(candidates.values).astype(np.uint64)
    label = np.asarray(labels.values).astype(np.uint8)

    arrival = _column(events, "arrival_time_ms").astype(np.int64)
    user = _column(events, "user_id").astype(np.uint64)
    asked = _Requests(
        time_ms=_column(requests, "request_time_ms").astype(np.int64),
        user=_column(requests, "user_id").astype(np.uint64),
        offsets=offsets,
        item=item,
        label=label,
    )
    return BehaviourLog(
        name=directory.name,
        task=TASK,
        arrival_ms=arrival,
        event_user=user,
        event=history,
        event_request=_feedback(arrival, user, _column(events, "session_id"), history["item_id"], asked),
        request_time_ms=asked.time_ms,
        request_user=asked.user,
        request_id=np.array([b"git-%d" % number for number in _column(requests, "request_id").tolist()], dtype="S64"),
        candidate_offsets=offsets,
        candidate_item=item,
        candidate_group=_groups(history["item_id"], history["group_id"], item),
        label=label,
    )


@dataclass(frozen=True, kw_only=True)
class _Requests:
    time_ms: NDArray[np.int64]
    user: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    item: NDArray[np.uint64]
    label: NDArray[np.uint8]

    def positives(self, request: int) -> NDArray[np.uint64]:
        span = slice(self.offsets[request], self.offsets[request + 1])
        positives: NDArray[np.uint64] = self.item[span][self.label[span] == 1]
        return positives


def _read(path: Path, columns: tuple[str, ...]) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a log is a directory with events.parquet and requests.parquet")
    missing = set(columns) - set(pq.read_schema(path).names)
    if missing:
        raise ValueError(f"{path}: missing columns {', '.join(sorted(missing))}")
    return pq.read_table(path, columns=list(columns))


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    column: NDArray[Any] = table[name].to_numpy()
    return column


def _groups(event_item: NDArray[Any], event_group: NDArray[Any], wanted: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The group of each wanted item; an item has one, and every candidate occurs in the events."""
    items, first = np.unique(event_item, return_index=True)
    at = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
    known = items[at] == wanted
    return np.where(known, event_group[first[at]], 0).astype(np.uint64)


def _feedback(
    arrival: NDArray[np.int64],
    user: NDArray[np.uint64],
    session: NDArray[Any],
    event_item: NDArray[Any],
    requests: _Requests,
) -> NDArray[np.int64]:
    """Which request each event answers, -1 for none; int64 [E].

    A user may have several commits, and several requests, in one second. A request belongs to a commit that touches
    all of its positive candidates; the requests with most positives choose first, each the smallest such commit.
    """
    requests_at: dict[tuple[int, int], list[int]] = defaultdict(list)
    for request, moment in enumerate(zip(requests.user.tolist(), (requests.time_ms + 1).tolist(), strict=True)):
        requests_at[moment].append(request)
    rows_at: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, moment in enumerate(zip(user.tolist(), arrival.tolist(), strict=True)):
        if moment in requests_at:
            rows_at[moment].append(row)
    answers = np.full(len(arrival), -1, dtype=np.int64)
    for moment, here in requests_at.items():
        rows = np.array(rows_at[moment], dtype=np.int64)
        commits = [rows[session[rows] == commit] for commit in dict.fromkeys(session[rows].tolist())]
        commits.sort(key=len)
        for request in sorted(here, key=lambda request: -len(requests.positives(request))):
            positives = requests.positives(request)
            for at, commit_rows in enumerate(commits):
                if np.isin(positives, event_item[commit_rows]).all():
                    answers[commits.pop(at)] = request
                    break
            else:
                raise ValueError(
                    f"requests.parquet row {request}: no commit 1 ms later touches its positive candidates"
                )
    return answers
