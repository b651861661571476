"""The arrays of a step, flat, in pinned memory, and what the forward pass takes, made of them on the device.

Shape suffixes: L tokens, R requests, M targets of a step, all three constant over a run; what is not filled belongs to
one request more, the last, that nothing is learned from. J attention terms, A tasks.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorer.features.settings import CONTEXT_WIDTH
from scorer.model.attention import Ragged
from scorer.model.flat import FlatInputs
from scorer.training.columns import Columns, IdTable
from scorer.training.dataset import span_rows
from scorer.training.steps import StepSize


@dataclass(frozen=True)
class FlatBatch:
    """One step."""

    #: [L]: rows of the id tables, rows of the model's tables, [L, 4], ms UTC.
    item: Tensor
    group: Tensor
    action: Tensor
    surface: Tensor
    engagement: Tensor
    time_ms: Tensor
    #: [M].
    target_item: Tensor
    target_group: Tensor
    #: float32 [M, A].
    labels: Tensor
    shares: Tensor
    #: Which request a token and a target belong to: int64 [L], int64 [M].
    token_request: Tensor
    target_request: Tensor
    #: [R + 1]: ms UTC of the newest event, [R + 1, J] and [R + 1, 7]; weight in the loss, 0 for what is no request.
    newest_ms: Tensor
    request_terms: Tensor
    context: Tensor
    weight: Tensor
    #: int32 [R + 2].
    token_offsets: Tensor
    target_offsets: Tensor
    #: int32 [.., 2]; see `Ragged`.
    target_tiles: Tensor
    token_tiles: Tensor

    def to(self, device: torch.device) -> FlatBatch:
        """The same on a device; from pinned memory without waiting."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return replace(self, **moved)


def collate_flat(
    columns: Columns, requests: NDArray[np.int64], lengths: NDArray[np.int64], size: StepSize, *, tile: tuple[int, int],
    pin: bool = False,
) -> FlatBatch:  # fmt: skip
    """The arrays of one step; request r sees its `lengths[i]` newest events, `lengths` is [r].

    Args:
        tile: targets and tokens of one tile of the attention kernels.
    """
    end = columns.history_end[requests]
    rows, token_offsets = _spans(end - lengths, end, size.tokens, size.requests)
    first = columns.target_offsets[requests]
    target_rows, target_offsets = _spans(first, columns.target_offsets[requests + 1], size.targets, size.requests)
    real, used = len(rows), len(requests)
    newest = np.zeros(size.requests + 1, dtype=np.int64)
    filled = lengths > 0
    if real:
        starts = token_offsets[:used][filled]
        newest[:used][filled] = np.maximum.reduceat(columns.time_ms.numpy()[rows], starts)
    terms = np.zeros((size.requests + 1, columns.features.terms), dtype=np.float32)
    context = np.zeros((size.requests + 1, CONTEXT_WIDTH), dtype=np.float32)
    terms[:used], context[:used] = columns.request_inputs(requests, newest[:used], filled)
    weight = np.zeros(size.requests + 1, dtype=np.float32)
    weight[:used] = 1 / used
    index, target_index = torch.from_numpy(rows), torch.from_numpy(target_rows)

    def gather(column: Tensor, at: Tensor, length: int) -> Tensor:
        out = torch.empty((length, *column.shape[1:]), dtype=column.dtype, pin_memory=pin)
        torch.index_select(column, 0, at, out=out[: len(at)])
        out[len(at) :] = 0
        return out

    def tensor(array: NDArray[np.generic]) -> Tensor:
        made = torch.from_numpy(array)
        return made.pin_memory() if pin else made

    return FlatBatch(
        **{
            name: gather(getattr(columns, name), index, size.tokens)
            for name in ("item", "group", "action", "surface", "engagement", "time_ms")
        },
        **{
            name: gather(getattr(columns, name), target_index, size.targets)
            for name in ("target_item", "target_group", "labels", "shares")
        },
        token_request=tensor(_owner(token_offsets)),
        target_request=tensor(_owner(target_offsets)),
        newest_ms=tensor(newest),
        request_terms=tensor(terms),
        context=tensor(context),
        weight=tensor(weight),
        token_offsets=tensor(token_offsets.astype(np.int32)),
        target_offsets=tensor(target_offsets.astype(np.int32)),
        target_tiles=tensor(tiles(target_offsets, tile[0], size.targets)),
        token_tiles=tensor(tiles(token_offsets, tile[1], size.tokens)),
    )


def tiles(offsets: NDArray[np.int64], tile: int, rows: int) -> NDArray[np.int32]:
    """(request, first row) of every piece of at most `tile` rows; request -1 behind the last, so that the number is
    the same for every step of `rows` rows and as many requests. int32 [n, 2]."""
    counts = -(-np.diff(offsets) // tile)
    request = np.repeat(np.arange(len(counts)), counts)
    piece = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
    out = np.full((math.ceil(rows / tile) + len(counts), 2), -1, dtype=np.int32)
    out[: len(request), 0] = request
    out[: len(request), 1] = offsets[request] + piece * tile
    return out


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What stays on the device for all steps: the ids' features and the scales of the attention terms."""

    items: IdTable
    groups: IdTable
    #: No request has more targets than a tile of the attention kernels.
    single: bool
    #: float32, one per term.
    time_scales: Tensor
    rank_scales: Tensor

    @classmethod
    def of(cls, columns: Columns, device: torch.device, target_tile: int) -> Lookup:
        """Those of `columns`."""
        settings = columns.features
        most = int(np.diff(columns.target_offsets).max(initial=0))
        return cls(
            items=columns.items.to(device),
            groups=columns.groups.to(device),
            single=most <= target_tile,
            time_scales=_scales(settings.time_scales_ms, device),
            rank_scales=_scales(settings.rank_scales, device),
        )

    def rows(self, batch: FlatBatch) -> list[Tensor]:
        """Rows in the tables of items and of groups, [L + M, 2] each: of all tokens, then of all targets."""
        items = torch.cat([batch.item, batch.target_item]).long()
        groups = torch.cat([batch.group, batch.target_group]).long()
        return [self.items.rows[items], self.groups.rows[groups]]


def flat_inputs(batch: FlatBatch, lookup: Lookup, vectors: Sequence[Tensor] = ()) -> FlatInputs:
    """The forward pass' inputs, computed where the batch is.

    Args:
        vectors: sums of the tables' rows for `Lookup.rows`, where they are gathered already.
    """
    items, groups = lookup.items, lookup.groups
    rank = batch.token_offsets[1:][batch.token_request] - 1 - torch.arange(len(batch.item), device=batch.item.device)
    age_ms = (batch.newest_ms[batch.token_request] - batch.time_ms).float()
    terms = torch.cat(
        [
            torch.ones_like(age_ms)[:, None],
            torch.exp(-age_ms[:, None] / lookup.time_scales),
            torch.exp(-rank.float()[:, None] / lookup.rank_scales),
        ],
        dim=1,
    )
    item, group, target_item, target_group = (
        index.long() for index in (batch.item, batch.group, batch.target_item, batch.target_group)
    )
    history = {
        "item_code": items.code[item],
        "group_code": groups.code[group],
        "action_row": batch.action.long(),
        "surface_row": batch.surface.long(),
        "engagement": batch.engagement.float(),
    }
    targets = {"target_item_code": items.code[target_item], "target_group_code": groups.code[target_group]}
    if vectors:
        tokens = len(batch.item)
        for name, vector in zip(("item_vectors", "group_vectors"), vectors, strict=True):
            history[name], targets[f"target_{name}"] = vector[:tokens], vector[tokens:]
    else:
        history |= {"item_rows": items.rows[item], "group_rows": groups.rows[group]}
        targets |= {"target_item_rows": items.rows[target_item], "target_group_rows": groups.rows[target_group]}
    return FlatInputs(
        history=history,
        targets=targets,
        terms=terms,
        request_terms=batch.request_terms[batch.target_request],
        context=batch.context[batch.target_request],
        ragged=Ragged(batch.token_offsets, batch.target_offsets, batch.target_tiles, batch.token_tiles, lookup.single),
    )


def load_ahead(batches: Iterator[FlatBatch], ahead: int) -> Generator[FlatBatch, None, None]:
    """The same batches, made by another thread, at most `ahead` before they are asked for.

    What the other thread raises is raised here. It ends when the generator is closed.
    """
    made: queue.Queue[FlatBatch | BaseException | None] = queue.Queue(ahead)
    closed = threading.Event()

    def put(item: FlatBatch | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # handed over, not swallowed
            put(error)

    thread = threading.Thread(target=run, name="loader", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()


def _spans(
    begin: NDArray[np.int64], end: NDArray[np.int64], total: int, slots: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of all spans, and offsets [slots + 2]: unused slots are empty, the last has the rest up to `total`."""
    counts = end - begin
    offsets = np.zeros(slots + 2, dtype=np.int64)
    np.cumsum(counts, out=offsets[1 : 1 + len(counts)])
    used = int(offsets[len(counts)])
    offsets[1 + len(counts) :] = used
    offsets[-1] = total
    return span_rows(begin, counts), offsets


def _owner(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _scales(scales: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(scales, dtype=torch.float32, device=device)
