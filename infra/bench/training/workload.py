"""A short video log of made-up users: requests at random moments of one long run of events, Zipf items."""

from __future__ import annotations

import numpy as np

from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH, HISTORY_DTYPE
from scorer.training.dataset import RankingDataset

_START_MS = 1_700_000_000_000
_ITEMS, _AUTHORS = 1_000_000, 50_000
_ZIPF = 1.2


def made_up(requests: int, targets: int, longest: int, seed: int, events: int) -> RankingDataset:
    """`requests` of `targets` targets each, with at least `longest` events before every one of them."""
    rng = np.random.default_rng(seed)
    history = np.zeros(events, dtype=HISTORY_DTYPE)
    history["item_id"] = rng.zipf(_ZIPF, events) % _ITEMS + 1
    history["group_id"] = history["item_id"] % _AUTHORS + 1
    history["event_time_ms"] = _START_MS + np.cumsum(rng.exponential(60_000, events)).astype(np.int64)
    history["action"] = rng.integers(1, 8, events)
    history["surface"] = rng.integers(1, 10, events)
    history["watch_ms"] = rng.integers(1, 60_000, events)
    history["duration_ms"] = rng.integers(5_000, 60_000, events)
    history["fields"] = HAS_WATCH | HAS_DURATION | HAS_SURFACE | HAS_GROUP
    end = np.sort(rng.integers(longest, events + 1, requests))
    target = rng.zipf(_ZIPF, requests * targets) % _ITEMS + 1
    return RankingDataset(
        events=history,
        event_seq_no=np.arange(1, events + 1, dtype=np.uint64),
        history_begin=np.zeros(requests, dtype=np.int64),
        history_end=end,
        request_time_ms=history["event_time_ms"][end - 1] + rng.integers(0, 600_000, requests),
        user_id=np.ones(requests, dtype=np.uint64),
        seq_no=end.astype(np.uint64),
        request_id=np.array([b"r%d" % request for request in range(requests)], dtype="S64"),
        target_offsets=np.arange(requests + 1, dtype=np.int64) * targets,
        target_item_id=target.astype(np.uint64),
        target_group_id=(target % _AUTHORS + 1).astype(np.uint64),
        labels=(rng.random((requests * targets, 1)) < 0.2).astype(np.uint8),
        tasks=("finish",),
    )
