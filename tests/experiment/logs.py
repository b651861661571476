"""Small random logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scorer.experiment.arrays import SPLITS, LogArrays

DAY_MS = 86_400_000


def random_log(
    seed: int, *, users: int = 4, items: int = 9, events: int = 80, requests: int = 12, candidates: int = 5
) -> LogArrays:
    """Ties in time, several events a session, users without events, folders of several items; labels follow touches."""
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(users, size=events))
    offsets = np.searchsorted(user, np.arange(users + 1)).astype(np.int64)
    arrival = rng.integers(0, 400, size=events) * (DAY_MS // 4)
    arrival = arrival[np.lexsort((arrival, user))]
    asked = np.sort(rng.integers(0, 420, size=requests)) * (DAY_MS // 4) - 1
    # Before anything happened.
    asked[:1] = -1
    item = rng.integers(items, size=events).astype(np.int32)
    wanted = np.stack([rng.choice(items, candidates, replace=False) for _ in range(requests)]).astype(np.int32)
    return LogArrays(
        name=f"random {seed}",
        user_id=np.arange(users) * 7 + 3,
        item_id=np.arange(items) * 3 + 1,
        group_id=np.arange(4) + 11,
        item_group=(np.arange(items) % 4).astype(np.int32),
        user_offsets=offsets,
        event_item=item,
        event_repo=(item % 2).astype(np.int16),
        event_action=rng.integers(0, 3, size=events).astype(np.int8),
        event_session=np.cumsum(rng.random(events) < 0.4),
        event_time_ms=arrival - rng.integers(0, 3, size=events) * DAY_MS,
        arrival_time_ms=arrival,
        request_id=np.arange(requests) + 100,
        request_user=rng.integers(users, size=requests).astype(np.int32),
        request_time_ms=asked,
        split=np.minimum(np.arange(requests) * 4 // max(requests, 1), 2).astype(np.int8),
        candidate_offsets=np.arange(requests + 1) * candidates,
        candidate_item=wanted.reshape(-1),
        label=(rng.random(requests * candidates) < 0.3).astype(np.uint8),
    )


def write_parquet(log: LogArrays, directory: Path, **replaced: dict[str, list[object]]) -> Path:
    """The log as its two files; `events` and `requests` replace or, with None, drop columns."""
    order = np.argsort(log.arrival_time_ms, kind="stable")
    spans = [slice(*log.candidate_offsets[r : r + 2]) for r in range(len(log))]
    tables = {
        "events": {
            "user_id": log.user_id[log.event_user][order].tolist(),
            "item_id": log.item_id[log.event_item][order].tolist(),
            "group_id": log.group_id[log.event_group][order].tolist(),
            "repo_id": log.event_repo[order].tolist(),
            "action": log.event_action[order].tolist(),
            "event_time_ms": log.event_time_ms[order].tolist(),
            "arrival_time_ms": log.arrival_time_ms[order].tolist(),
            "session_id": log.event_session[order].tolist(),
        },
        "requests": {
            "request_id": log.request_id.tolist(),
            "user_id": log.user_id[log.request_user].tolist(),
            "request_time_ms": log.request_time_ms.tolist(),
            "candidates": [log.item_id[log.candidate_item[span]].tolist() for span in spans],
            "labels": [log.label[span].tolist() for span in spans],
            "split": [SPLITS[split] for split in log.split.tolist()],
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        columns |= replaced.get(name, {})
        kept = {column: values for column, values in columns.items() if values is not None}
        pq.write_table(pa.table(kept), directory / f"{name}.parquet")
    return directory
