"""Reader of KuaiRand (https://kuairand.com; Gao et al., CIKM 2022, arXiv 2208.08696): CSV files as published.

Takes every `log_*.csv` of the directory, and `video_features_basic_*.csv` for the authors where it is there. One row is
one shown video. It becomes a view, played or skipped, and one more event for each of like, follow, comment, forward and
hate. The files have no request ids, so consecutive rows of one user in one tab are taken as pages of a feed: a request
whose candidates are the rows, asked 1 ms before the first of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from infra.logs.behaviour_log import BehaviourLog
from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH, HISTORY_DTYPE, History

TASK: Final = "play"
SKIPPED: Final = 1
PLAYED: Final = 2
#: Signal column -> action code of the extra event.
SIGNALS: Final = {"is_like": 3, "is_follow": 4, "is_comment": 5, "is_forward": 6, "is_hate": 7}
#: The files count users and videos from 0, we count from 1.
ID_OFFSET: Final = 1

_COLUMNS: Final = (
    *("user_id", "video_id", "time_ms", "is_click", *SIGNALS),
    *("play_time_ms", "duration_ms", "tab"),
)


def read_kuairand(directory: Path, *, page_size: int = 16, page_gap_ms: int = 600_000) -> BehaviourLog:
    """The log in `directory` (or in its `data/`).

    Args:
        page_size: rows of one request at most.
        page_gap_ms: a longer pause between two rows of a user begins a new request.

    Raises:
        FileNotFoundError: no `log_*.csv`.
        ValueError: a column is missing or holds something else than integers, with the file.
    """
    folder = directory / "data" if (directory / "data").is_dir() else directory
    logs = sorted(folder.glob("log_*.csv"))
    if not logs:
        raise FileNotFoundError(f"{folder}: no log_*.csv; point at the unpacked KuaiRand directory")
    rows = pa.concat_tables([_read(path, _COLUMNS) for path in logs])
    column = {name: rows[name].to_numpy().astype(np.int64) for name in _COLUMNS}
    order = np.lexsort((column["video_id"], column["user_id"], column["time_ms"]))
    column = {name: values[order] for name, values in column.items()}
    time, user = column["time_ms"], (column["user_id"] + ID_OFFSET).astype(np.uint64)
    view = _views(column, _authors(folder, column["video_id"]))

    request_of_row, first_row = _pages(time, user, column["tab"], column["video_id"], page_size, page_gap_ms)
    by_request = np.argsort(request_of_row, kind="stable")
    sizes = np.bincount(request_of_row, minlength=len(first_row))

    extras = [(np.flatnonzero(column[signal] == 1), code) for signal, code in SIGNALS.items()]
    # The view comes first, then the signals given during it, all at the row's time.
    row_of_event = np.concatenate([np.arange(len(time)), *(rows_with for rows_with, _ in extras)])
    event = view[row_of_event]
    event["action"][len(time) :] = np.concatenate([np.full(len(rows_with), code) for rows_with, code in extras])
    in_order = np.argsort(row_of_event, kind="stable")
    row_of_event, event = row_of_event[in_order], event[in_order]
    return BehaviourLog(
        name=directory.name,
        task=TASK,
        arrival_ms=time[row_of_event],
        event_user=user[row_of_event],
        event=event,
        event_request=request_of_row[row_of_event],
        request_time_ms=time[first_row] - 1,
        request_user=user[first_row],
        request_id=np.array([b"kuairand-%d" % number for number in range(len(first_row))], dtype="S64"),
        candidate_offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        candidate_item=view["item_id"][by_request],
        candidate_group=view["group_id"][by_request],
        label=column["is_click"][by_request].astype(np.uint8),
    )


def _read(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return pyarrow.csv.read_csv(
            path,
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(columns), column_types=dict.fromkeys(columns, pa.int64())
            ),
        )
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path}: {error}; wanted integer columns {', '.join(columns)}") from error


def _authors(folder: Path, video: NDArray[np.int64]) -> NDArray[np.int64]:
    """The author of each row's video, -1 where unknown."""
    author = np.full(len(video), -1, dtype=np.int64)
    for path in sorted(folder.glob("video_features_basic*.csv")):
        table = _read(path, ("video_id", "author_id"))
        order = np.argsort(table["video_id"].to_numpy(), kind="stable")
        videos, authors = table["video_id"].to_numpy()[order], table["author_id"].to_numpy()[order]
        if len(videos):
            at = np.minimum(np.searchsorted(videos, video), len(videos) - 1)
            author = np.where(videos[at] == video, authors[at], author)
    return author


def _views(column: dict[str, NDArray[np.int64]], author: NDArray[np.int64]) -> History:
    view: NDArray[Any] = np.zeros(len(author), dtype=HISTORY_DTYPE)
    view["event_time_ms"] = column["time_ms"]
    view["item_id"] = column["video_id"] + ID_OFFSET
    view["group_id"] = author + ID_OFFSET
    view["action"] = np.where(column["is_click"] == 1, PLAYED, SKIPPED)
    view["surface"] = column["tab"]
    view["watch_ms"] = column["play_time_ms"]
    view["duration_ms"] = column["duration_ms"]
    view["fields"] = HAS_WATCH | HAS_DURATION | HAS_SURFACE | np.where(author >= 0, HAS_GROUP, 0)
    return view


def _pages(
    time: NDArray[np.int64],
    user: NDArray[np.uint64],
    tab: NDArray[np.int64],
    video: NDArray[np.int64],
    page_size: int,
    page_gap_ms: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the request of each row, the first row of each request), requests in time order; no video twice in a page."""
    request_of_row = np.empty(len(time), dtype=np.int64)
    first_row: list[int] = []
    current: dict[int, tuple[int, int, set[int], int]] = {}
    rows = zip(time.tolist(), user.tolist(), tab.tolist(), video.tolist(), strict=True)
    for row, (at, who, where, what) in enumerate(rows):
        request, in_tab, shown, last = current.get(who, (-1, where, set(), at))
        if request < 0 or in_tab != where or len(shown) == page_size or what in shown or at - last > page_gap_ms:
            request, shown = len(first_row), set()
            first_row.append(row)
        request_of_row[row] = request
        shown.add(what)
        current[who] = (request, where, shown, at)
    return request_of_row, np.array(first_row, dtype=np.int64)
