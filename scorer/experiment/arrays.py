"""A recorded log as flat arrays: events, requests, their splits; numpy only. What `longrank experiment` prepares.

Index arrays point into sorted arrays of distinct ids. The files hold the same in a form that zlib shrinks (see
`compact.py`); loading computes what follows from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from scorer.experiment.compact import load_arrays, save_arrays

if TYPE_CHECKING:
    from scorer.training.dataset import RankingDataset

VERSION: Final = 1
#: What `split` holds.
SPLITS: Final = ("train", "valid", "test")
#: The file's 0 add, 1 modify, 2 delete are 1, 2, 3 in our events, as in `infra.logs.gitlog`: 0 means "unspecified".
ACTION_OFFSET: Final = 1
TASK: Final = "touch"

_META: Final = "meta.json"
_EVENTS: Final = "events.npz"
_REQUESTS: Final = "requests.npz"


@dataclass(frozen=True, kw_only=True)
class LogArrays:
    """E events of U users on I items, and R requests with T candidates in all.

    A user's events are contiguous and in arrival order. Point in time: request r may use the rows
    [history_begin[r], history_end[r]) and no other; serving at length N uses the last N of them.

    Raises:
        ValueError: arrays that do not fit together, with the array and the row.
    """

    name: str

    #: Distinct ids, rising; int64 [U], [I], [G].
    user_id: NDArray[np.int64]
    item_id: NDArray[np.int64]
    group_id: NDArray[np.int64]
    #: The group of each item; int32 [I].
    item_group: NDArray[np.int32]

    #: Events of user u: user_offsets[u] .. user_offsets[u + 1]; int64 [U + 1].
    user_offsets: NDArray[np.int64]
    #: Index into `item_id`; int32 [E].
    event_item: NDArray[np.int32]
    #: As in the log; int16 [E].
    event_repo: NDArray[np.int16]
    #: As in the log, 0 add, 1 modify, 2 delete; int8 [E].
    event_action: NDArray[np.int8]
    #: Events of one session happened together; int64 [E].
    event_session: NDArray[np.int64]
    #: When it happened and when it became known, ms UTC; the second never falls within a user. int64 [E].
    event_time_ms: NDArray[np.int64]
    arrival_time_ms: NDArray[np.int64]

    #: As in the log; int64 [R].
    request_id: NDArray[np.int64]
    #: Index into `user_id`; int32 [R].
    request_user: NDArray[np.int32]
    #: ms UTC, never falling; int64 [R].
    request_time_ms: NDArray[np.int64]
    #: Index into `SPLITS`: the log's own split, within each user by time; int8 [R].
    split: NDArray[np.int8]
    #: Candidates of request r: candidate_offsets[r] .. candidate_offsets[r + 1]; int64 [R + 1].
    candidate_offsets: NDArray[np.int64]
    #: Index into `item_id`; int32 [T].
    candidate_item: NDArray[np.int32]
    #: 0 or 1; uint8 [T].
    label: NDArray[np.uint8]

    def __post_init__(self) -> None:
        users, items, groups = len(self.user_id), len(self.item_id), len(self.group_id)
        events, requests, targets = len(self.event_item), len(self.request_id), len(self.candidate_item)
        lengths = {
            "item_group": items,
            "user_offsets": users + 1,
            "event_repo": events,
            "event_action": events,
            "event_session": events,
            "event_time_ms": events,
            "arrival_time_ms": events,
            "request_user": requests,
            "request_time_ms": requests,
            "split": requests,
            "candidate_offsets": requests + 1,
            "label": targets,
        }
        for name, length in lengths.items():
            if getattr(self, name).shape != (length,):
                raise ValueError(f"log {self.name}: {name} is {getattr(self, name).shape}, must be {(length,)}")
        for name, offsets, end in (
            ("user_offsets", self.user_offsets, events),
            ("candidate_offsets", self.candidate_offsets, targets),
        ):
            if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
                raise ValueError(f"log {self.name}: {name} must rise from 0 to {end}")
        self._refuse("item_group", (self.item_group < 0) | (self.item_group >= groups), "is no group")
        self._refuse("event_item", (self.event_item < 0) | (self.event_item >= items), "is no item")
        self._refuse("candidate_item", (self.candidate_item < 0) | (self.candidate_item >= items), "is no item")
        self._refuse("request_user", (self.request_user < 0) | (self.request_user >= users), "is no user")
        self._refuse("split", (self.split < 0) | (self.split >= len(SPLITS)), "is no split")
        self._refuse("label", self.label > 1, "is not 0 or 1")
        falls = np.flatnonzero(np.diff(self.arrival_time_ms) < 0) + 1
        falls = falls[~np.isin(falls, self.user_offsets)]
        if len(falls):
            raise ValueError(f"log {self.name}: arrival_time_ms falls within a user at row {falls[0]}")

    def _refuse(self, name: str, wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"log {self.name}: {name} row {row}: {getattr(self, name)[row]} {what}")

    def __len__(self) -> int:
        return len(self.request_id)

    @cached_property
    def event_group(self) -> NDArray[np.int32]:
        """Index into `group_id`; int32 [E]."""
        return self.item_group[self.event_item]

    @cached_property
    def candidate_group(self) -> NDArray[np.int32]:
        """Index into `group_id`; int32 [T]."""
        return self.item_group[self.candidate_item]

    @cached_property
    def event_user(self) -> NDArray[np.int32]:
        """Index into `user_id`; int32 [E]."""
        return np.repeat(np.arange(len(self.user_id), dtype=np.int32), np.diff(self.user_offsets))

    @cached_property
    def candidate_request(self) -> NDArray[np.int32]:
        """The request of each candidate; int32 [T]."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.candidate_offsets))

    @cached_property
    def history_begin(self) -> NDArray[np.int64]:
        """First row of the request's user in the events; int64 [R]."""
        return self.user_offsets[self.request_user]

    @cached_property
    def history_end(self) -> NDArray[np.int64]:
        """The row behind the last event with arrival_time_ms <= request_time_ms; int64 [R]."""
        # Times become ranks, so that (user, time) fits one integer whatever the times are.
        times, rank = np.unique(self.arrival_time_ms, return_inverse=True)
        key = self.event_user.astype(np.int64) * (len(times) + 1) + rank
        arrived = np.searchsorted(times, self.request_time_ms, side="right")
        asked = self.request_user.astype(np.int64) * (len(times) + 1) + arrived
        return np.searchsorted(key, asked, side="left").astype(np.int64)

    @cached_property
    def history_length(self) -> NDArray[np.int64]:
        """Events that the request may use; int64 [R]."""
        return self.history_end - self.history_begin

    def targets_of(self, requests: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the candidates of `requests` [n], in their order; int64 [t]."""
        begin = self.candidate_offsets[requests]
        counts = self.candidate_offsets[requests + 1] - begin
        rows: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(begin - np.cumsum(counts) + counts, counts)
        return rows

    def time_split(self, valid_from_ms: int, test_from_ms: int) -> NDArray[np.int8]:
        """A split by time for the whole log, int8 [R] as `split`: no request of valid or test lies before one of train.

        Raises:
            ValueError: the times are in the wrong order.
        """
        if valid_from_ms > test_from_ms:
            raise ValueError(f"valid begins at {valid_from_ms} ms, after test at {test_from_ms} ms")
        cuts = np.array([valid_from_ms, test_from_ms])
        return np.searchsorted(cuts, self.request_time_ms, side="right").astype(np.int8)

    def to_ranking_dataset(
        self, requests: NDArray[Any] | None = None, event_time: Literal["event", "arrival"] = "event"
    ) -> RankingDataset:
        """What `scorer.training` reads, with all events and these requests (indices; None: all).

        Args:
            event_time: which time the events' `event_time_ms` holds: when it happened, or when it became known.
        """
        from schemas.history import HAS_GROUP, HAS_SURFACE, HISTORY_DTYPE
        from scorer.training.dataset import RankingDataset

        history = np.zeros(len(self.event_item), dtype=HISTORY_DTYPE)
        history["event_time_ms"] = self.event_time_ms if event_time == "event" else self.arrival_time_ms
        history["item_id"] = self.item_id[self.event_item]
        history["group_id"] = self.group_id[self.event_group]
        history["action"] = self.event_action.astype(np.int64) + ACTION_OFFSET
        history["surface"] = self.event_repo
        history["fields"] = HAS_GROUP | HAS_SURFACE
        whole = RankingDataset(
            events=history,
            event_seq_no=(np.arange(len(history)) - self.user_offsets[self.event_user] + 1).astype(np.uint64),
            history_begin=self.history_begin,
            history_end=self.history_end,
            request_time_ms=self.request_time_ms,
            user_id=self.user_id[self.request_user].astype(np.uint64),
            seq_no=self.history_length.astype(np.uint64),
            request_id=np.array([b"%d" % number for number in self.request_id.tolist()], dtype="S64"),
            target_offsets=self.candidate_offsets,
            target_item_id=self.item_id[self.candidate_item].astype(np.uint64),
            target_group_id=self.group_id[self.candidate_group].astype(np.uint64),
            labels=self.label[:, None],
            tasks=(TASK,),
        )
        return whole if requests is None else whole.select(requests)

    def save(self, directory: Path) -> None:
        """Writes two .npz files and, last, meta.json."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _META).unlink(missing_ok=True)
        for file, names in ((_EVENTS, _EVENT_ARRAYS), (_REQUESTS, _REQUEST_ARRAYS)):
            save_arrays(directory / file, {name: getattr(self, name) for name in names}, _TIMES)
        (directory / _META).write_text(json.dumps({"version": VERSION, "name": self.name}) + "\n")

    @classmethod
    def load(cls, directory: Path) -> LogArrays:
        """What `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: another version, or arrays that do not fit together.
        """
        if not (directory / _META).is_file():
            raise FileNotFoundError(
                f"{directory / _META}: no such file; `longrank experiment LOG --out ARRAYS` writes it"
            )
        meta = json.loads((directory / _META).read_text())
        if meta.get("version") != VERSION:
            raise ValueError(f"{directory / _META}: version {meta.get('version')} is not {VERSION}; prepare it again")
        return cls(name=meta["name"], **load_arrays(directory / _EVENTS), **load_arrays(directory / _REQUESTS))


_EVENT_ARRAYS: Final = (
    "user_id",
    "item_id",
    "group_id",
    "item_group",
    "user_offsets",
    "event_item",
    "event_repo",
    "event_action",
    "event_session",
    "event_time_ms",
    "arrival_time_ms",
)
_REQUEST_ARRAYS: Final = (
    "request_id",
    "request_user",
    "request_time_ms",
    "split",
    "candidate_offsets",
    "candidate_item",
    "label",
)
#: Neighbours are close to each other: stored as differences.
_TIMES: Final = frozenset(
    {
        "user_id",
        "item_id",
        "group_id",
        "item_group",
        "user_offsets",
        "event_session",
        "arrival_time_ms",
        "event_time_ms",
        "request_time_ms",
        "request_id",
        "candidate_offsets",
    }
)
