"""The first two stages: the examples of the plan's offsets to a file; and their stamps resolved, to a dataset.

A stage takes a run's directory to a run's directory; see `runs.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from infra.errors import InfraError
from infra.retrain.runs import DATASET_NAME, EXAMPLES_NAME, Run
from infra.retrain.source import Source
from schemas.v1.training_pb2 import TrainingExample
from scorer.landing.examples import take_examples
from scorer.landing.resolve import build_dataset
from scorer.registry.manifest import LabelWindow
from scorer.training.dataset import RankingDataset

_LANDED: Final = "landed.json"
_RESOLVED: Final = "resolved.json"
#: In front of each message.
_LENGTH: Final = struct.Struct("<I")
_MS_PER_DAY: Final = 86_400_000


class Landed(BaseModel):
    """What was read of the topic."""

    model_config = ConfigDict(frozen=True)

    #: Partition -> [first, end); the next run goes on at `end`.
    offsets: dict[int, tuple[int, int]]
    read: int
    #: Newest label versions within the cut: what the run takes.
    taken: int
    superseded: int
    later: int
    earlier: int


class Resolved(BaseModel):
    """What became of the stamps, and the labels by time."""

    model_config = ConfigDict(frozen=True)

    requests: int
    targets: int
    events: int
    outcomes: dict[str, int]
    labels: tuple[LabelWindow, ...]


def land(run: Run, source: Source) -> None:
    """Read the plan's offsets; the newest version of every example within the cut is kept."""
    plan = run.plan
    begin = {partition: first for partition, (first, _) in plan.offsets.items()}
    cut = take_examples(source.examples(plan.offsets), begin, plan.from_ms, plan.cut_ms)
    with run.replacing(EXAMPLES_NAME) as path, path.open("wb") as file:
        for example in cut.examples:
            message = example.SerializeToString()
            file.write(_LENGTH.pack(len(message)) + message)
    landed = Landed(
        offsets=cut.offsets,
        read=cut.read,
        taken=len(cut.examples),
        superseded=cut.superseded,
        later=cut.later,
        earlier=cut.earlier,
    )
    run.write(_LANDED, landed.model_dump_json())


def landed(run: Run) -> Landed:
    """What `land` found."""
    return Landed.model_validate_json((run.path / _LANDED).read_bytes())


def resolve(
    run: Run, source: Source, tasks: Sequence[str], *, max_unresolved: float, label_window_requests: int
) -> None:
    """The examples with the very histories that were served.

    Raises:
        UnresolvedError: training would see other histories than serving saw.
        InfraError: an example lacks a task.
    """
    with source.histories() as resolver:
        examples = list(_read_examples(run.path / EXAMPLES_NAME))
        try:
            dataset, outcomes = build_dataset(examples, resolver, tasks, max_unresolved=max_unresolved)
        except ValueError as error:
            raise InfraError(f"{error}; do the settings' tasks have label rules in the example job?") from error
    with run.replacing(DATASET_NAME) as path:
        dataset.save(path)
    resolved = Resolved(
        requests=len(dataset),
        targets=len(dataset.target_item_id),
        events=len(dataset.events),
        outcomes=dict(outcomes),
        labels=label_windows(dataset, label_window_requests),
    )
    run.write(_RESOLVED, resolved.model_dump_json())


def resolved(run: Run) -> Resolved:
    """What `resolve` found."""
    return Resolved.model_validate_json((run.path / _RESOLVED).read_bytes())


def dataset_of(run: Run) -> RankingDataset:
    """What `resolve` made."""
    return RankingDataset.load(run.path / DATASET_NAME)


def label_windows(dataset: RankingDataset, least: int) -> tuple[LabelWindow, ...]:
    """Label counts by UTC day, days together until a window has `least` requests; what is left at the end joins the
    last window. In order of time."""
    if not len(dataset):
        return ()
    order = np.argsort(dataset.request_time_ms, kind="stable")
    days = dataset.request_time_ms[order] // _MS_PER_DAY
    cuts = [0]
    for begin in (np.flatnonzero(np.diff(days)) + 1).tolist():
        if begin - cuts[-1] >= least:
            cuts.append(begin)
    if len(cuts) > 1 and len(order) - cuts[-1] < least:
        cuts.pop()
    targets = np.diff(dataset.target_offsets)[order]
    positives = np.add.reduceat(dataset.labels, dataset.target_offsets[:-1], axis=0, dtype=np.int64)[order]
    return tuple(
        LabelWindow(
            first_day=_day(days[first]),
            last_day=_day(days[end - 1]),
            requests=end - first,
            targets=int(targets[first:end].sum()),
            positives=dict(zip(dataset.tasks, positives[first:end].sum(axis=0).tolist(), strict=True)),
        )
        for first, end in pairwise([*cuts, len(order)])
    )


def _day(number: np.int64) -> str:
    return str(np.datetime64(int(number), "D"))


def _read_examples(path: Path) -> Iterator[TrainingExample]:
    with path.open("rb") as file:
        while length := file.read(_LENGTH.size):
            yield TrainingExample.FromString(file.read(*_LENGTH.unpack(length)))
