"""Hand-made features of a user's history for boosting; numpy only.

Every feature of a (request, candidate) is computed from the request's window alone: the user's last N events that had
arrived by its time. Clocks are arrival times, rows and sessions, which never fall within a user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scorer.experiment.arrays import LogArrays
from scorer.experiment.touches import FadingSums, Runs, TouchIndex

_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000

Column = NDArray[np.float32]

#: The reference's six: of the item and of its folder.
BASIC_KEYED: Final = ("count", "fading:90", "rank")
#: Of the item and of its folder. What stands behind the colon is a half-life.
STRONG_KEYED: Final = (
    "count",
    "rank",
    "session_rank",
    "previous_session_rank",
    "age",
    "event_age",
    "first_age",
    "sessions",
    "newest_size",
    *(f"fading:{days}" for days in (1, 7, 30, 90, 365)),
    *(f"share:{days}" for days in (7, 90, 365, 1_500)),
    *(f"sized:{days}" for days in (7, 90, 1_500)),
    *(f"by_rank:{events}" for events in (10, 60, 300, 1_500, 6_000)),
    *(f"by_session:{sessions}" for sessions in (2, 8, 30, 120, 600)),
    *(f"sized_by_session:{sessions}" for sessions in (8, 120, 1_500)),
)
#: Of the item and its folder together, of its repository, and of the window.
STRONG_OTHER: Final = (
    ("item", "action"),
    ("item", "of_folder"),
    ("item", "of_folder:90"),
    ("repo", "part"),
    ("repo", "rank"),
    ("user", "count"),
    ("user", "age"),
    ("user", "newest_size"),
    ("user", "fading:7"),
    ("user", "fading:90"),
    ("user", "mean_size"),
)
#: (of what, which feature) of each column.
SETS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "basic": tuple((of, name) for of in ("item", "folder") for name in BASIC_KEYED),
    "strong": (*((of, name) for of in ("item", "folder") for name in STRONG_KEYED), *STRONG_OTHER),
}

#: The sums that fade: by which clock, the unit of their half-lives, and whether a touch in a session of s events
#: counts 1/s: what was touched alone says more than what was touched with a hundred others.
_FADES: Final = {
    "fading": ("time", _DAY_MS, False),
    "sized": ("time", _DAY_MS, True),
    "by_rank": ("row", 1, False),
    "by_session": ("session", 1, False),
    "sized_by_session": ("session", 1, True),
}
#: Keep logarithms of quotients finite: a touch long faded against a user who was long away.
_SMALL, _SMALL_WHOLE = 1e-3, 1e-2
#: Half-life of `mean_size`, events.
_SIZE_HALF_LIFE: Final = 1_000.0


class HistoryFeatures:
    """The features of any requests of a log; what all requests share is computed once.

    Of the touches of an item, folder, repository, or of all the user's events, in the window; NaN without a touch:
        count: log(1 + touches). part: touches / events in the window.
        rank: events since the latest touch, 0 for the newest event. session_rank, previous_session_rank: sessions
            since the latest and since the last but one.
        age, first_age, event_age: log(1 + hours) since the latest and the first touch arrived, and since the latest
            happened.
        sessions: log(1 + sessions with a touch). newest_size: log(events of the latest touch's session).
        fading:H, sized:H, by_rank:H, by_session:H, sized_by_session:H: see `_FADES`; 0 without a touch.
        share:H: log of fading:H over that of all the user's events. of_folder[:H]: log of the item's count, or
            fading:H, over its folder's.
        action: of the latest touch. mean_size: sessions per event, over about the last 1,000 events.
    """

    def __init__(self, log: LogArrays) -> None:
        self._log = log
        # A repository is a property of the item: that of its first event.
        items, first = np.unique(log.event_item, return_index=True)
        repos, repo_of_event = np.unique(log.event_repo, return_inverse=True)
        item_repo = np.zeros(len(log.item_id), dtype=np.int32)
        item_repo[items] = repo_of_event[first]
        #: The key of each item by what is touched, and how many keys there are.
        self._keys: dict[str, tuple[NDArray[np.int32], int]] = {
            "item": (np.arange(len(log.item_id), dtype=np.int32), len(log.item_id)),
            "folder": (log.item_group, len(log.group_id)),
            "repo": (item_repo, len(repos)),
            "user": (np.zeros_like(item_repo), 1),
        }
        user = log.event_user
        self._index = {of: TouchIndex(user, key[log.event_item], keys) for of, (key, keys) in self._keys.items()}
        begins = np.zeros(len(user), dtype=np.int64)
        begins[1:] = (log.event_session[1:] != log.event_session[:-1]) | (user[1:] != user[:-1])
        session = np.cumsum(begins)
        self._size = np.bincount(session)[session].astype(np.float64) if len(session) else np.zeros(0)
        self._clocks = {"time": log.arrival_time_ms, "row": np.arange(len(user)), "session": session}
        self._sums: dict[tuple[str, str, float, bool], FadingSums] = {}
        self._session_count: dict[str, NDArray[np.int64]] = {}

    def build(self, which: str, requests: NDArray[np.int64], length: int) -> NDArray[np.float32]:
        """The columns `SETS[which]` for all candidates of `requests` [n], in their order; float32 [t, columns].

        Args:
            length: serving length N, events.

        Raises:
            ValueError: no such set, or `length` is not positive.
        """
        if which not in SETS:
            raise ValueError(f"no feature set {which!r}; there are {', '.join(SETS)}")
        if length < 1:
            raise ValueError(f"length {length} is not positive")
        pairs = _Pairs.of(self._log, requests, length)
        runs: dict[str, Runs] = {}
        out = np.empty((len(pairs.item), len(SETS[which])), dtype=np.float32)
        for column, (of, name) in enumerate(SETS[which]):
            self._find(of, pairs, runs)
            out[:, column] = self._column(of, name, pairs, runs)
        return out

    def _find(self, of: str, pairs: _Pairs, runs: dict[str, Runs]) -> Runs:
        if of not in runs:
            key = self._keys[of][0][pairs.item]
            runs[of] = self._index[of].find(pairs.user, key, pairs.first_row, pairs.end_row)
        return runs[of]

    def _column(self, of: str, name: str, pairs: _Pairs, runs: dict[str, Runs]) -> Any:
        family, _, parameter = name.partition(":")
        if family in _FADES:
            return self._fade(of, family, float(parameter), pairs, runs)
        if family == "share":
            part, whole = (self._fade(one, "fading", float(parameter), pairs, runs) for one in (of, "user"))
            return np.log((part + _SMALL) / (whole + _SMALL_WHOLE))
        if family == "of_folder" and parameter:
            part, whole = (self._fade(one, "fading", float(parameter), pairs, runs) for one in (of, "folder"))
            return np.log((part + _SMALL) / (whole + _SMALL_WHOLE))
        if family == "of_folder":
            return np.log((runs[of].count + 0.1) / (self._find("folder", pairs, runs).count + 1))
        if family == "count":
            return np.log1p(runs[of].count)
        if family == "mean_size":
            sessions = self._sum(of, "row", _SIZE_HALF_LIFE, True)(runs[of], pairs.end_row)
            return sessions / np.maximum(self._sum(of, "row", _SIZE_HALF_LIFE, False)(runs[of], pairs.end_row), 1e-9)
        some = runs[of].touched if family != "previous_session_rank" else runs[of].count > 1
        out = np.full(len(some), np.nan, dtype=np.float32)
        out[some] = self._measure(of, family, runs[of].only(some), pairs.only(some))
        return out

    def _measure(self, of: str, name: str, runs: Runs, pairs: _Pairs) -> Any:
        """Of pairs with a touch, or with two where the last but one is asked for."""
        index, log = self._index[of], self._log
        latest = index.rows[runs.high - 1]
        session = self._clocks["session"]
        if name == "rank":
            return pairs.end_row - 1 - latest
        if name == "session_rank":
            return session[pairs.end_row - 1] - session[latest]
        if name == "previous_session_rank":
            return session[pairs.end_row - 1] - session[index.rows[runs.high - 2]]
        if name == "age":
            return _hours(pairs.time_ms - log.arrival_time_ms[latest])
        if name == "event_age":
            return _hours(np.abs(pairs.time_ms - log.event_time_ms[latest]))
        if name == "first_age":
            return _hours(pairs.time_ms - log.arrival_time_ms[index.rows[runs.low]])
        if name == "sessions":
            if of not in self._session_count:
                self._session_count[of] = index.cumulative(session)
            seen = self._session_count[of]
            return np.log1p(1 + seen[runs.high - 1] - seen[runs.low])
        if name == "newest_size":
            return np.log(self._size[latest])
        if name == "part":
            return runs.count / (pairs.end_row - pairs.first_row)
        assert name == "action", name
        return log.event_action[latest]

    def _fade(
        self, of: str, family: str, half_life: float, pairs: _Pairs, runs: dict[str, Runs]
    ) -> NDArray[np.float64]:
        clock, unit, sized = _FADES[family]
        if clock == "time":
            now = pairs.time_ms
        elif clock == "row":
            now = pairs.end_row
        else:
            # Without events there is no session, and nothing that asks for it.
            now = self._clocks["session"][np.maximum(pairs.end_row - 1, 0)] if len(self._size) else pairs.end_row
        return self._sum(of, clock, half_life * unit, sized)(self._find(of, pairs, runs), now)

    def _sum(self, of: str, clock: str, half_life: float, sized: bool) -> FadingSums:
        key = (of, clock, half_life, sized)
        if key not in self._sums:
            weight = 1 / self._size if sized else None
            self._sums[key] = self._index[of].fading(self._clocks[clock], half_life, weight)
        return self._sums[key]


@dataclass(frozen=True)
class _Pairs:
    """(request, candidate) pairs and each one's window of rows; all [t]."""

    item: NDArray[np.int32]
    user: NDArray[np.int32]
    time_ms: NDArray[np.int64]
    first_row: NDArray[np.int64]
    end_row: NDArray[np.int64]

    @classmethod
    def of(cls, log: LogArrays, requests: NDArray[np.int64], length: int) -> _Pairs:
        request = np.repeat(requests, np.diff(log.candidate_offsets)[requests])
        end_row = log.history_end[request]
        return cls(
            item=log.candidate_item[log.targets_of(requests)],
            user=log.request_user[request],
            time_ms=log.request_time_ms[request],
            first_row=np.maximum(log.history_begin[request], end_row - length),
            end_row=end_row,
        )

    def only(self, some: NDArray[np.bool_]) -> _Pairs:
        return _Pairs(self.item[some], self.user[some], self.time_ms[some], self.first_row[some], self.end_row[some])


def _hours(ms: NDArray[np.int64]) -> NDArray[np.float64]:
    hours: NDArray[np.float64] = np.log1p(ms / _HOUR_MS)
    return hours
