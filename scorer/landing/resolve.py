"""Stamps to histories: the examples as the trainer reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.history import EVENT_BYTES, decode_events
from schemas.v1.ranking_pb2 import Stamp
from schemas.v1.training_pb2 import TrainingExample
from scorer.sequences.store import SequenceStore
from scorer.training.dataset import RankingDataset

#: (user_id, stamp) -> the canonical bytes of the very events served, or why there are none.
Resolver = Callable[[int, Stamp], bytes | str]


def store_resolver(store: SequenceStore) -> Resolver:
    """Resolves from a store that has followed the topics to where the stamps are."""

    def resolve(user_id: int, stamp: Stamp) -> bytes | str:
        resolved = store.resolve(user_id, stamp)
        return resolved.resolution.value if resolved.rows is None else resolved.rows.tobytes()

    return resolve


class UnresolvedError(Exception):
    """Too many stamps do not resolve: training would see something else than serving saw."""


@dataclass
class _Block:
    """Consecutive events of one user's epoch, shared by all the requests that saw a part of them."""

    first_seq_no: int
    rows: bytearray

    @property
    def end_seq_no(self) -> int:
        return self.first_seq_no + len(self.rows) // EVENT_BYTES

    def take(self, first_seq_no: int, served: bytes) -> None:
        """Extend by a served range that begins inside the block or right behind it.

        Raises:
            UnresolvedError: the two disagree about an event both hold.
        """
        held = self.rows[(first_seq_no - self.first_seq_no) * EVENT_BYTES :]
        if held[: len(served)] != served[: len(held)]:
            raise UnresolvedError(
                f"two stamps name different events between seq_no {first_seq_no} and {self.end_seq_no}"
            )
        self.rows += served[len(held) :]


def build_dataset(
    examples: Sequence[TrainingExample], resolve: Resolver, tasks: Sequence[str], *, max_unresolved: float
) -> tuple[RankingDataset, Counter[str]]:
    """The examples as flat arrays in order of request time, each with the history that its stamp names; and how many
    stamps had which outcome, "ok" or the resolver's word.

    Args:
        tasks: label columns; every example must have them all.
        max_unresolved: largest share of examples whose stamps may fail to resolve otherwise than by an erasure; those
            are left out and counted.

    The tasks have the weights of the newest request.

    Raises:
        UnresolvedError: the share is larger, with the outcomes.
        ValueError: an example lacks a task.
    """
    outcomes: Counter[str] = Counter()
    blocks: dict[tuple[int, int], list[_Block]] = {}
    kept: list[tuple[TrainingExample, tuple[int, int], int]] = []
    ordered = sorted(examples, key=lambda example: (example.user_id, example.stamp.epoch, example.stamp.seq_no))
    for example in ordered:
        stamp, user_epoch = example.stamp, (example.user_id, example.stamp.epoch)
        served = resolve(example.user_id, stamp)
        outcomes[served if isinstance(served, str) else "ok"] += 1
        if isinstance(served, str):
            continue
        of_user = blocks.setdefault(user_epoch, [])
        if not of_user or stamp.first_seq_no > of_user[-1].end_seq_no:
            of_user.append(_Block(stamp.first_seq_no, bytearray()))
        # A longer cap may reach further back than an earlier, shorter one: that range needs a block of its own.
        if stamp.first_seq_no < of_user[-1].first_seq_no:
            of_user.append(_Block(stamp.first_seq_no, bytearray()))
        of_user[-1].take(stamp.first_seq_no, served)
        kept.append((example, user_epoch, len(of_user) - 1))
    # A user who asked to be forgotten is no fault: those examples are left out, and counted under their own name.
    unresolved = len(examples) - outcomes["ok"] - outcomes["erased"]
    if unresolved > max_unresolved * len(examples):
        raise UnresolvedError(
            f"{unresolved} of {len(examples)} stamps do not resolve, allowed is a share of {max_unresolved}: "
            f"{dict(outcomes)}"
        )

    begin_of: dict[tuple[tuple[int, int], int], int] = {}
    rows, seq_nos, at = bytearray(), [], 0
    for user_epoch, of_user in blocks.items():
        for number, block in enumerate(of_user):
            begin_of[user_epoch, number] = at
            rows += block.rows
            seq_nos.append(np.arange(block.first_seq_no, block.end_seq_no, dtype=np.uint64))
            at += len(block.rows) // EVENT_BYTES

    kept.sort(key=lambda entry: (entry[0].request_time_ms, entry[0].request_id))
    begins, ends, items, groups, labels, counts = [], [], [], [], [], []
    for example, user_epoch, number in kept:
        block = blocks[user_epoch][number]
        begin = begin_of[user_epoch, number] + example.stamp.first_seq_no - block.first_seq_no
        begins.append(begin)
        ends.append(begin + example.stamp.length)
        item = np.frombuffer(example.targets.item_id, dtype="<u8")
        items.append(item)
        groups.append(np.frombuffer(example.targets.group_id or bytes(8 * len(item)), dtype="<u8"))
        labels.append(_labels(example, tasks, len(item)))
        counts.append(len(item))
    dataset = RankingDataset(
        tasks=tuple(tasks),
        task_weights=_weights(kept[-1][0], tasks) if kept else (),
        events=decode_events(bytes(rows)),
        event_seq_no=np.concatenate([*seq_nos, np.empty(0, np.uint64)]),
        history_begin=np.array(begins, dtype=np.int64),
        history_end=np.array(ends, dtype=np.int64),
        request_time_ms=np.array([example.request_time_ms for example, _, _ in kept], dtype=np.int64),
        user_id=np.array([example.user_id for example, _, _ in kept], dtype=np.uint64),
        seq_no=np.array([example.stamp.seq_no for example, _, _ in kept], dtype=np.uint64),
        request_id=np.array([example.request_id.encode() for example, _, _ in kept], dtype="S64"),
        target_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        target_item_id=np.concatenate([*items, np.empty(0, np.uint64)]).astype(np.uint64),
        target_group_id=np.concatenate([*groups, np.empty(0, np.uint64)]).astype(np.uint64),
        labels=np.concatenate([*labels, np.empty((0, len(tasks)), np.uint8)]),
    )
    return dataset, outcomes


def _weights(newest: TrainingExample, tasks: Sequence[str]) -> tuple[float, ...]:
    """As the label rules say them now; examples from before there were weights have none, which is 1."""
    by_task = {labels.task: labels.weight for labels in newest.labels}
    return tuple(by_task[task] or 1.0 for task in tasks)


def _labels(
    example: TrainingExample, tasks: Sequence[str], targets: int
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """uint8 [m, tasks]."""
    by_task = {labels.task: labels.labels for labels in example.labels}
    columns = np.empty((targets, len(tasks)), dtype=np.uint8)
    for at, task in enumerate(tasks):
        column = by_task.get(task, b"")
        if len(column) != targets:
            raise ValueError(
                f"example of {example.request_id}: task {task} has {len(column)} labels for {targets} targets"
            )
        columns[:, at] = np.frombuffer(column, dtype=np.uint8)
    return columns
