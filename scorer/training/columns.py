"""A dataset as the loader gathers it: columns by event and by target, and the features of each id, computed once.

Ids repeat thousands of times, so an id's table rows and code are computed once, by the code that serving runs, and stay
on the device; events and targets carry an index into them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorer.features import FeatureSettings
from scorer.features.featurise import (
    behaviour_features,
    event_groups,
    group_features,
    item_features,
    request_context,
    request_terms,
)
from scorer.training.dataset import RankingDataset
from scorer.training.losses import listwise_shares


@dataclass(frozen=True, kw_only=True)
class IdTable:
    """Features of U ids; row 0 is the id 0, "none"."""

    #: int64 [U, 2] and int8 [U, code_bits].
    rows: Tensor
    code: Tensor

    def to(self, device: torch.device) -> IdTable:
        """The same on a device."""
        return IdTable(rows=self.rows.to(device), code=self.code.to(device))


@dataclass(frozen=True, kw_only=True)
class Columns:
    """E events, R requests and T targets of a `RankingDataset`, on the host."""

    #: Rows of the id tables, int32 [E].
    item: Tensor
    group: Tensor
    #: Rows of the model's tables, uint8 or int32 [E].
    action: Tensor
    surface: Tensor
    #: float16 [E, 4].
    engagement: Tensor
    #: ms UTC, int64 [E].
    time_ms: Tensor
    #: int32 [T].
    target_item: Tensor
    target_group: Tensor
    #: Labels or probabilities, and what the listwise loss compares with; float32 [T, A].
    labels: Tensor
    shares: Tensor
    items: IdTable
    groups: IdTable
    #: Of the requests: rows of the events, int64 [R]; targets, int64 [R + 1]; ms UTC, int64 [R]; number of the newest
    #: event, int64 [R].
    history_begin: NDArray[np.int64]
    history_end: NDArray[np.int64]
    target_offsets: NDArray[np.int64]
    request_time_ms: NDArray[np.int64]
    seq_no: NDArray[np.int64]
    tasks: tuple[str, ...]
    task_weights: tuple[float, ...]
    features: FeatureSettings

    @classmethod
    def of(cls, dataset: RankingDataset, features: FeatureSettings) -> Columns:
        """The columns of a dataset."""
        events = dataset.events
        item_ids, (item, target_item) = _factorised(events["item_id"], dataset.target_item_id)
        group_ids, (group, target_group) = _factorised(event_groups(events), dataset.target_group_id)
        behaviour = behaviour_features(events, features)
        return cls(
            item=item,
            group=group,
            action=_codes(behaviour["action_row"], features.actions),
            surface=_codes(behaviour["surface_row"], features.surfaces),
            engagement=torch.from_numpy(behaviour["engagement"].astype(np.float16)),
            time_ms=torch.from_numpy(np.ascontiguousarray(events["event_time_ms"])),
            target_item=target_item,
            target_group=target_group,
            labels=torch.from_numpy(dataset.labels.astype(np.float32)),
            shares=torch.from_numpy(listwise_shares(dataset.labels, dataset.target_offsets)),
            items=_table(*item_features(item_ids, features)),
            groups=_table(*group_features(group_ids, features)),
            history_begin=dataset.history_begin,
            history_end=dataset.history_end,
            target_offsets=dataset.target_offsets,
            request_time_ms=dataset.request_time_ms,
            seq_no=dataset.seq_no.astype(np.int64),
            tasks=dataset.tasks,
            task_weights=dataset.task_weights or (1.0,) * len(dataset.tasks),
            features=features,
        )

    def __len__(self) -> int:
        return len(self.request_time_ms)

    def request_inputs(
        self, requests: NDArray[np.int64], newest_ms: NDArray[np.int64], seen: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The requests' factors of the attention terms [r, J] and contexts [r, 7].

        Args:
            newest_ms: largest event time of what each request sees, ms UTC, [r]; not looked at where nothing is `seen`.
        """
        times = self.request_time_ms[requests]
        seq_no = np.where(seen, self.seq_no[requests], 0)
        newest = np.where(seen, newest_ms, 0)
        return request_terms(times, newest, self.features), request_context(times, newest, seq_no)


def _factorised(*columns: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], list[Tensor]]:
    """The sorted unique ids, 0 among them and so first, and each column as rows of them."""
    ids, inverse = np.unique(np.concatenate([np.zeros(1, np.uint64), *columns]), return_inverse=True)
    parts = np.split(inverse[1:].astype(np.int32), np.cumsum([len(column) for column in columns])[:-1])
    return ids, [torch.from_numpy(part.copy()) for part in parts]


def _table(rows: NDArray[np.int64], code: NDArray[np.int8]) -> IdTable:
    return IdTable(rows=torch.from_numpy(rows), code=torch.from_numpy(code))


def _codes(rows: NDArray[np.int64], count: int) -> Tensor:
    return torch.from_numpy(rows.astype(np.uint8 if count <= 256 else np.int32))
