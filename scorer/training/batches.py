"""Which requests train together, how much history each sees, and the arrays of one step.

The history encoder looks at no request, so requests of one user share the encoding of their common rows: a group is up
to `group_size` consecutive requests of a user over one contiguous run of events, each request with its own window into
it. Their time and rank terms are the requests' own.

Shape suffixes: see `scorer/model/stca.py`; G is a group's events with the null key in front, P padded targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorer.features import FeatureSettings, HistoryHead
from scorer.features.featurise import history_terms, request_context, request_terms, target_features, token_features
from scorer.training.dataset import RankingDataset

_LENGTH_MULTIPLE: Final = 8


@dataclass(frozen=True, kw_only=True)
class Group:
    """R requests of one user with up to M targets each, over one run of events."""

    #: Rows of the step's tokens.
    tokens: slice
    #: Rows of the step's targets: R * M of them, short requests padded.
    targets: slice
    requests: int
    #: Product of event's and request's factors; zeros for the null key. [R, G, J].
    terms: Tensor
    #: 0 where a request sees the event, -inf where not; None where all see all. [R, G].
    mask: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one forward pass takes."""

    #: `token_features` of all groups' events.
    history: dict[str, Tensor]
    #: `target_features` of all groups' padded targets, P rows.
    targets: dict[str, Tensor]
    #: [P, 7].
    context: Tensor
    groups: list[Group]
    #: Where each real target is among the P, and its row in the dataset; int64 [T].
    slot: Tensor
    row: NDArray[np.int64]
    #: Index of each real target's request within the step; int64 [T].
    request: Tensor
    requests: int
    #: [T, A].
    labels: Tensor


def draw_lengths(
    available: NDArray[np.int64], minimum: int, maximum: int, beta: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """How many of the `available` [R] newest events each request sees.

    min + (max - min) * Beta(a, b) with a, b < 1 is U-shaped: mostly short, some at full length ("train short, infer
    long", arXiv 2511.06077).
    """
    drawn = minimum + (maximum - minimum) * rng.beta(*beta, size=len(available))
    rounded = np.ceil(drawn / _LENGTH_MULTIPLE).astype(np.int64) * _LENGTH_MULTIPLE
    return np.minimum(rounded, available)


def plan_groups(dataset: RankingDataset, group_size: int, rng: np.random.Generator | None) -> list[NDArray[np.int64]]:
    """Every request in one group of up to `group_size` consecutive requests of a user over contiguous events.

    With `rng` the cuts between a user's groups and the order of the groups are random.
    """
    order = np.lexsort((dataset.history_end, dataset.user_id))
    user = dataset.user_id[order]
    begin, end = dataset.history_begin[order], dataset.history_end[order]
    # A user's two requests share rows unless an epoch or a long pause is between them.
    reach = np.maximum.accumulate(end)
    cut = np.flatnonzero((user[1:] != user[:-1]) | (begin[1:] >= reach[:-1])) + 1
    groups: list[NDArray[np.int64]] = []
    for run in np.split(order, cut):
        first = int(rng.integers(1, group_size + 1)) if rng is not None else group_size
        groups.extend(part for part in np.split(run, range(first, len(run), group_size)) if len(part))
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    return groups


def collate(
    dataset: RankingDataset, groups: list[NDArray[np.int64]], lengths: NDArray[np.int64], settings: FeatureSettings
) -> Step:
    """One step. A request's first `history_end - lengths` rows are left out of its window."""
    planned: list[Group] = []
    token_rows: list[NDArray[np.int64]] = []
    # Rows of the padded targets in the dataset; -1 is padding.
    slots: list[NDArray[np.int64]] = []
    contexts: list[NDArray[np.float32]] = []
    tokens = targets = 0
    for requests in groups:
        end = dataset.history_end[requests]
        begin = end - lengths[requests]
        low, high = int(begin.min()), int(end.max())
        if low > high:
            low = high
        rows = np.arange(low, high)
        counts = dataset.target_offsets[requests + 1] - dataset.target_offsets[requests]
        most = int(counts.max())
        terms_RGJ = np.zeros((len(requests), 1 + len(rows), settings.terms), dtype=np.float32)
        visible = np.zeros((len(requests), 1 + len(rows)), dtype=bool)
        visible[:, 0] = True
        for i, request in enumerate(requests):
            window = slice(int(begin[i]), int(end[i]))
            head = HistoryHead.of(
                dataset.events[window], int(dataset.event_seq_no[begin[i]]) if lengths[request] else 0
            )
            shared = slice(1 + window.start - low, 1 + window.stop - low)
            time_ms = int(dataset.request_time_ms[request])
            terms_RGJ[i, shared] = history_terms(
                dataset.events["event_time_ms"][window],
                dataset.event_seq_no[window].astype(np.int64),
                head,
                settings,
            ) * request_terms(time_ms, head, settings)
            visible[i, shared] = True
            row = np.full(most, -1, dtype=np.int64)
            row[: counts[i]] = np.arange(dataset.target_offsets[request], dataset.target_offsets[request + 1])
            slots.append(row)
            contexts.append(np.broadcast_to(request_context(time_ms, head), (most, 7)))
        mask = None if visible.all() else torch.from_numpy(np.where(visible, 0, -np.inf).astype(np.float32))
        planned.append(
            Group(
                tokens=slice(tokens, tokens + len(rows)),
                targets=slice(targets, targets + len(requests) * most),
                requests=len(requests),
                terms=torch.from_numpy(terms_RGJ),
                mask=mask,
            )
        )
        token_rows.append(rows)
        tokens += len(rows)
        targets += len(requests) * most
    slot_rows = np.concatenate(slots)
    real = slot_rows >= 0
    row = slot_rows[real]
    request_of_slot = np.repeat(np.arange(len(slots)), [len(row) for row in slots])
    padded = np.where(real, slot_rows, 0)
    item = np.where(real, dataset.target_item_id[padded], np.uint64(0))
    group = np.where(real, dataset.target_group_id[padded], np.uint64(0))
    return Step(
        history=_tensors(token_features(dataset.events[np.concatenate(token_rows)], settings)),
        targets=_tensors(target_features(item, group, settings)),
        context=torch.from_numpy(np.concatenate(contexts)),
        groups=planned,
        slot=torch.from_numpy(np.flatnonzero(real)),
        row=row,
        request=torch.from_numpy(request_of_slot[real]),
        requests=len(slots),
        labels=torch.from_numpy(dataset.labels[row].astype(np.float32)),
    )


def _tensors(features: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in features.items()}
