"""What training reads: flat arrays of events, requests and targets; a directory of .npy files between two processes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.history import HISTORY_DTYPE, History

_META_NAME: Final = "meta.json"
_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class RankingDataset:
    """R requests of some users, their T targets, and the E events that the requests saw.

    A user's events are contiguous rows in arrival order; a request sees the rows
    [history_begin, history_end), exactly those that were served.

    Raises:
        ValueError: arrays that do not fit together, with the array and the row.
    """

    #: `HISTORY_DTYPE` [E].
    events: History
    #: uint64 [E].
    event_seq_no: NDArray[np.uint64]
    #: int64 [R], rows of `events`.
    history_begin: NDArray[np.int64]
    history_end: NDArray[np.int64]
    #: ms UTC, int64 [R].
    request_time_ms: NDArray[np.int64]
    #: uint64 [R].
    user_id: NDArray[np.uint64]
    #: Head of the history that was served; 0 without history. uint64 [R].
    seq_no: NDArray[np.uint64]
    #: ASCII, S64 [R].
    request_id: NDArray[np.bytes_]
    #: Targets of request r: target_offsets[r] .. target_offsets[r + 1]; int64 [R + 1].
    target_offsets: NDArray[np.int64]
    #: uint64 [T].
    target_item_id: NDArray[np.uint64]
    #: 0 where unknown; uint64 [T].
    target_group_id: NDArray[np.uint64]
    #: 0 or 1, uint8 [T, tasks].
    labels: NDArray[np.uint8]
    tasks: tuple[str, ...]
    #: Of each task in the loss; none: 1 for all.
    task_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        events, requests, targets = len(self.events), len(self.request_time_ms), len(self.target_item_id)
        expected: dict[str, tuple[tuple[int, ...], Any]] = {
            "events": ((events,), HISTORY_DTYPE),
            "event_seq_no": ((events,), np.uint64),
            "history_begin": ((requests,), np.int64),
            "history_end": ((requests,), np.int64),
            "request_time_ms": ((requests,), np.int64),
            "user_id": ((requests,), np.uint64),
            "seq_no": ((requests,), np.uint64),
            "request_id": ((requests,), np.dtype("S64")),
            "target_offsets": ((requests + 1,), np.int64),
            "target_item_id": ((targets,), np.uint64),
            "target_group_id": ((targets,), np.uint64),
            "labels": ((targets, len(self.tasks)), np.uint8),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"dataset: {name} is {array.dtype} {array.shape}, must be {dtype} {shape}")
        if not self.tasks:
            raise ValueError("dataset: no tasks")
        if len(self.task_weights) not in (0, len(self.tasks)):
            raise ValueError(f"dataset: {len(self.task_weights)} weights of {len(self.tasks)} tasks")
        if self.target_offsets[0] != 0 or self.target_offsets[-1] != targets:
            raise ValueError(f"dataset: target_offsets must run from 0 to {targets}")
        self._refuse("a request without targets", np.diff(self.target_offsets) <= 0)
        self._refuse(
            "history rows outside of the events",
            (self.history_begin < 0) | (self.history_end < self.history_begin) | (self.history_end > events),
        )
        self._refuse("labels that are not 0 or 1", self.labels.max(axis=1, initial=0) > 1, of="target")
        seen = np.flatnonzero(self.history_end > self.history_begin)
        last = self.event_seq_no[self.history_end[seen] - 1]
        first = self.event_seq_no[self.history_begin[seen]]
        length = (self.history_end[seen] - self.history_begin[seen]).astype(np.uint64)
        self._refuse("events that do not end at the request's seq_no", last != self.seq_no[seen], rows=seen)
        self._refuse("events that are not numbered without a gap", last - first + np.uint64(1) != length, rows=seen)

    def _refuse(
        self, what: str, wrong: NDArray[np.bool_], of: str = "request", rows: NDArray[np.int64] | None = None
    ) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            row = row if rows is None else int(rows[row])
            name = f" ({self.request_id[row].decode()})" if of == "request" else ""
            raise ValueError(f"dataset: {what}: {of} {row}{name} and {int(wrong.sum()) - 1} more")

    def __len__(self) -> int:
        return len(self.request_time_ms)

    def select(self, requests: NDArray[Any]) -> RankingDataset:
        """The same events with only these requests (indices [n], in this order)."""
        begin, end = self.target_offsets[requests], self.target_offsets[requests + 1]
        offsets = np.concatenate([[0], np.cumsum(end - begin)]).astype(np.int64)
        targets = span_rows(begin, end - begin)
        return replace(
            self,
            history_begin=self.history_begin[requests],
            history_end=self.history_end[requests],
            request_time_ms=self.request_time_ms[requests],
            user_id=self.user_id[requests],
            seq_no=self.seq_no[requests],
            request_id=self.request_id[requests],
            target_offsets=offsets,
            target_item_id=self.target_item_id[targets],
            target_group_id=self.target_group_id[targets],
            labels=self.labels[targets],
        )

    def split_by_time(self, cut_ms: int) -> tuple[RankingDataset, RankingDataset]:
        """Requests before `cut_ms` and the others."""
        before = self.request_time_ms < cut_ms
        return self.select(np.flatnonzero(before)), self.select(np.flatnonzero(~before))

    def newest_part(self, share: float) -> tuple[RankingDataset, RankingDataset]:
        """The older requests, and about `share` of them, the newest, as a holdout; split between two times.

        Raises:
            ValueError: `share` is not in (0, 1), or one of the two would be empty.
        """
        if not 0 < share < 1:
            raise ValueError(f"share {share} is not in (0, 1)")
        if len(self) == 0:
            raise ValueError("no requests to split")
        times = np.sort(self.request_time_ms)
        older, newer = self.split_by_time(int(times[min(len(times) - 1, round(len(times) * (1 - share)))]))
        if not len(older) or not len(newer):
            raise ValueError(f"{len(self)} requests between {times[0]} and {times[-1]} ms do not split into two parts")
        return older, newer

    def digest(self) -> str:
        """SHA-256 of everything in it, hexadecimal."""
        digest = hashlib.sha256(json.dumps([self.tasks, self.task_weights]).encode())
        for name in _array_names():
            digest.update(np.ascontiguousarray(getattr(self, name)).view(np.uint8).data)
        return digest.hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the arrays as .npy files and, last, meta.json."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in _array_names():
            np.save(directory / f"{name}.npy", getattr(self, name), allow_pickle=False)
        meta = {"version": _VERSION, "tasks": self.tasks, "task_weights": self.task_weights}
        (directory / _META_NAME).write_text(json.dumps(meta) + "\n")

    @classmethod
    def load(cls, directory: Path) -> RankingDataset:
        """What `save` wrote; the events are memory-mapped.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: another version, or arrays that do not fit together.
        """
        meta = json.loads((directory / _META_NAME).read_text())
        if meta.get("version") != _VERSION:
            raise ValueError(f"{directory / _META_NAME}: version {meta.get('version')} is not readable here")
        arrays: dict[str, Any] = {
            name: np.load(directory / f"{name}.npy", mmap_mode="r" if name == "events" else None, allow_pickle=False)
            for name in _array_names()
        }
        return cls(**arrays, tasks=tuple(meta["tasks"]), task_weights=tuple(meta["task_weights"]))


def span_rows(begin: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows begin[i] .. begin[i] + counts[i] of all spans, one span after the other."""
    rows: NDArray[np.int64] = np.repeat(begin - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return rows


def _array_names() -> list[str]:
    return [field.name for field in fields(RankingDataset) if field.name not in ("tasks", "task_weights")]
