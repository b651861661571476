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
from scorer.features.settings import CONTEXT_WIDTH
from scorer.training.dataset import RankingDataset
from scorer.training.losses import listwise_shares

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
    #: [T, A]; see `ranking_losses`.
    labels: Tensor
    shares: Tensor


def draw_lengths(
    available: NDArray[np.int64], minimum: int, maximum: int, beta: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """How many of the `available` [R] newest events each request sees.

    min + (max - min) * Beta(a, b) with a, b < 1 is U-shaped: mostly short, some at full length ("train short, infer
    long", arXiv 2511.06077).
    """
    drawn = minimum + (maximum - minimum) * rng.beta(*beta, size=len(available))
    rounded = np.ceil(drawn / _LENGTH_MULTIPLE).astype(np.int64) * _LENGTH_MULTIPLE
    return np.minimum(np.minimum(rounded, maximum), available)


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
    """One step of `groups` (request indices); request r sees its `lengths[r]` newest events, `lengths` is [R]."""
    planned: list[Group] = []
    token_rows: list[NDArray[np.int64]] = []
    target_rows: list[NDArray[np.int64]] = []
    contexts: list[NDArray[np.float32]] = []
    tokens = targets = 0
    for requests in groups:
        rows, terms, mask, context = _history_of(dataset, requests, lengths, settings)
        rows_RM = _padded_targets(dataset, requests)
        token_rows.append(rows)
        target_rows.append(rows_RM.reshape(-1))
        contexts.append(np.repeat(context, rows_RM.shape[1], axis=0))
        planned.append(
            Group(
                tokens=slice(tokens, tokens + len(rows)),
                targets=slice(targets, targets + rows_RM.size),
                requests=len(requests),
                terms=torch.from_numpy(terms),
                mask=None if mask is None else torch.from_numpy(mask),
            )
        )
        tokens += len(rows)
        targets += rows_RM.size
    rows_P = np.concatenate(target_rows)
    real = rows_P >= 0
    # Padding is a candidate without item and group; nobody reads its logits.
    item = np.where(real, dataset.target_item_id[rows_P], np.uint64(0))
    group = np.where(real, dataset.target_group_id[rows_P], np.uint64(0))
    together = np.concatenate(groups)
    counts = dataset.target_offsets[together + 1] - dataset.target_offsets[together]
    labels = dataset.labels[rows_P[real]]
    return Step(
        history=_tensors(token_features(dataset.events[np.concatenate(token_rows)], settings)),
        targets=_tensors(target_features(item, group, settings)),
        context=torch.from_numpy(np.concatenate(contexts)),
        groups=planned,
        slot=torch.from_numpy(np.flatnonzero(real)),
        row=rows_P[real],
        request=torch.from_numpy(np.repeat(np.arange(len(together)), counts)),
        requests=len(together),
        labels=torch.from_numpy(labels.astype(np.float32)),
        shares=torch.from_numpy(listwise_shares(labels, np.concatenate([[0], np.cumsum(counts)]))),
    )


def _history_of(
    dataset: RankingDataset, requests: NDArray[np.int64], lengths: NDArray[np.int64], settings: FeatureSettings
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32]]:
    """The rows that a group's windows span, terms [R, G, J], mask [R, G] if any row is hidden, contexts [R, 7]."""
    end = dataset.history_end[requests]
    begin = end - lengths[requests]
    rows = np.arange(begin.min(), end.max())
    terms_RGJ = np.zeros((len(requests), 1 + len(rows), settings.terms), dtype=np.float32)
    mask_RG = np.full((len(requests), 1 + len(rows)), -np.inf, dtype=np.float32)
    mask_RG[:, 0] = 0
    context = np.empty((len(requests), CONTEXT_WIDTH), dtype=np.float32)
    for i, request in enumerate(requests):
        seen = dataset.events[begin[i] : end[i]]
        seq_no = dataset.event_seq_no[begin[i] : end[i]].astype(np.int64)
        head = HistoryHead.of(seen, int(seq_no[0]) if len(seq_no) else 0)
        time_ms = int(dataset.request_time_ms[request])
        # One further for the null key in front.
        window = slice(1 + begin[i] - rows[0], 1 + end[i] - rows[0]) if len(rows) else slice(1, 1)
        of_events = history_terms(seen["event_time_ms"], seq_no, head, settings)
        at, newest = np.array([time_ms]), np.array([head.newest_ms])
        terms_RGJ[i, window] = of_events * request_terms(at, newest, settings)[0]
        mask_RG[i, window] = 0
        context[i] = request_context(at, newest, np.array([head.seq_no]))[0]
    return rows, terms_RGJ, mask_RG if mask_RG.any() else None, context


def _padded_targets(dataset: RankingDataset, requests: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows [R, M] of the requests' targets in the dataset, -1 behind those of a request with fewer than M."""
    begin = dataset.target_offsets[requests][:, None]
    end = dataset.target_offsets[requests + 1][:, None]
    rows_RM = begin + np.arange((end - begin).max())
    return np.where(rows_RM < end, rows_RM, -1)


def _tensors(features: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in features.items()}
