"""A small log with a rule in it: of a request's candidates, the user takes those that he has touched before."""

from __future__ import annotations

import numpy as np

from schemas.history import HAS_GROUP, HISTORY_DTYPE
from scorer.features import FeatureSettings
from scorer.model import ModelSettings
from scorer.training.dataset import RankingDataset

FEATURES = FeatureSettings(item_buckets=64, group_buckets=16, code_bits=64)
SMALL = ModelSettings(d=32, layers=2, heads=2, head_dim=48, table_dim=4)
NOW = 1_700_000_000_000


def planted(
    users: int = 4, requests_per_user: int = 6, history: int = 40, seed: int = 0, tasks: tuple[str, ...] = ("touch",)
) -> RankingDataset:
    """Requests of 2 to 6 targets at growing points of each user's history, the first of them before any event."""
    rng = np.random.default_rng(seed)
    events = np.zeros(users * history, dtype=HISTORY_DTYPE)
    events["item_id"] = rng.integers(1, 1_000, len(events))
    events["group_id"] = events["item_id"] % 10 + 1
    events["action"] = 1
    events["fields"] = HAS_GROUP
    begin, end, user_of, time_ms, items, labels, counts = [], [], [], [], [], [], []
    for user in range(users):
        low = user * history
        events["event_time_ms"][low : low + history] = NOW + np.sort(rng.integers(0, 10**9, history))
        for at in np.linspace(0, history, requests_per_user).astype(int):
            known = events["item_id"][low : low + at]
            count = int(rng.integers(2, 7))
            label = (rng.random(count) < 0.5) & (at > 0)
            fresh = rng.integers(1_000, 2_000, count).astype(np.uint64)
            items.append(np.where(label, rng.choice(known, count) if at else fresh, fresh).astype(np.uint64))
            labels.append(np.repeat(label.astype(np.uint8)[:, None], len(tasks), axis=1))
            begin.append(low)
            end.append(low + at)
            user_of.append(user + 1)
            time_ms.append(NOW + 10**9 + at * 1_000 + user)
            counts.append(count)
    begins, ends = np.array(begin), np.array(end)
    item = np.concatenate(items)
    return RankingDataset(
        events=events,
        event_seq_no=np.tile(np.arange(1, history + 1, dtype=np.uint64), users),
        history_begin=begins,
        history_end=ends,
        request_time_ms=np.array(time_ms),
        user_id=np.array(user_of, dtype=np.uint64),
        seq_no=(ends - begins).astype(np.uint64),
        request_id=np.array([b"r%d" % i for i in range(len(begin))], dtype="S64"),
        target_offsets=np.concatenate([[0], np.cumsum(counts)]),
        target_item_id=item,
        target_group_id=item % np.uint64(11),
        labels=np.concatenate(labels),
        tasks=tasks,
    )
