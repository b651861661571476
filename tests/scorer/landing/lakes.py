"""Examples of every shape, as records of a topic, and a lake whose writes fail on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from hypothesis import strategies as st

from schemas.v1.ranking_pb2 import Candidates, FeatureColumn, Stamp
from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from scorer.landing.bounded import Landed
from scorer.landing.lake import Lake
from scorer.landing.land import LandReport, land
from scorer.landing.objects import Objects

TOPIC = "training.examples.v1"
TOPIC_ID = "u1"
DAY_MS = 86_400_000
#: 2026-11-25T00:00:00Z.
FIRST_MS = 1_795_564_800_000
_numbers = count()


def memory_url() -> str:
    """A place of its own: fsspec's memory is one for the process."""
    return f"memory://lake-{next(_numbers)}/examples"


def packed(dtype: str, values: Sequence[float]) -> bytes:
    return np.array(values, dtype).tobytes()


def simple(
    name: str,
    time_ms: int = FIRST_MS,
    *,
    version: int = 1,
    tasks: Iterable[str] = ("touch",),
    items: int = 2,
    **more: Any,
) -> TrainingExample:
    """An example with labels 0 and, in the version's place, 1."""
    labels = [int(at == version % items) for at in range(items)]
    return TrainingExample(
        **{"schema_version": 1, "user_id": 7, "stamp": Stamp(epoch=1 << 32, first_seq_no=1)} | more,
        request_id=name,
        request_time_ms=time_ms,
        label_version=version,
        targets=Candidates(item_id=packed("<u8", range(1, items + 1))),
        labels=[TaskLabels(task=task, labels=bytes(labels), weight=1) for task in tasks],
    )


_u64 = st.integers(0, (1 << 64) - 1)
_words = st.sampled_from(["touch", "finish", "version", "a b/c"])
_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def _features(draw: st.DrawFn, values: int) -> list[FeatureColumn]:
    """As integers or as floats, under the same few names: their types clash now and then."""
    columns = []
    for name in draw(st.lists(_words, unique=True, max_size=3)):
        if draw(st.booleans()):
            numbers = draw(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=values, max_size=values))
            columns.append(FeatureColumn(name=name, int64=packed("<i8", numbers)))
        else:
            floats = draw(st.lists(_float32, min_size=values, max_size=values))
            columns.append(FeatureColumn(name=name, float32=packed("<f4", floats)))
    return columns


@st.composite
def messages(draw: st.DrawFn) -> TrainingExample:
    """Any example the job may write, of three days and few requests: revisions and doubles are frequent."""
    items = draw(st.integers(1, 4))

    def column(dtype: str, values: st.SearchStrategy[int]) -> bytes:
        return packed(dtype, draw(st.lists(values, min_size=items, max_size=items)))

    day, request = draw(st.integers(0, 2)), draw(st.integers(0, 3))
    first, length = draw(st.integers(1, 1 << 40)), draw(st.integers(0, 10_000))
    return TrainingExample(
        schema_version=1,
        request_id=f"day {day} request {request}",
        response_id=draw(st.text("0123456789abcdef", max_size=32)),
        user_id=draw(_u64),
        # The first and the last millisecond of the day among them: a request keeps its time in all revisions.
        request_time_ms=FIRST_MS + day * DAY_MS + (0, 1, DAY_MS // 2, DAY_MS - 1)[request],
        label_version=draw(st.integers(1, 3)),
        targets=Candidates(
            item_id=column("<u8", _u64),
            group_id=column("<u8", _u64) if draw(st.booleans()) else b"",
            features=draw(_features(items)),
        ),
        position=column("<u2", st.integers(0, 65_535)) if draw(st.booleans()) else b"",
        labels=[
            TaskLabels(
                task=task,
                labels=column("u1", st.integers(0, 1)),
                weight=draw(_float32),
                changed_targets=draw(st.lists(st.integers(0, items - 1), unique=True)),
            )
            for task in draw(st.lists(_words, unique=True, max_size=3))
        ],
        stamp=Stamp(
            epoch=draw(_u64),
            first_seq_no=first,
            seq_no=first + length - 1,
            length=length,
            digest_version=1,
            digest=draw(_u64),
            model_version=draw(st.sampled_from(["", "20261125-a"])),
        ),
        superseded_responses=draw(st.integers(0, 3)),
        context=draw(_features(1)),
        caused_by=draw(st.lists(st.binary(min_size=16, max_size=16), max_size=2)),
    )


@dataclass
class Topic:
    """The examples topic: records by partition; every third offset is a transaction's mark."""

    records: dict[int, list[Landed]] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    id: str = TOPIC_ID

    def add(self, *examples: TrainingExample, partition: int = 0) -> None:
        end = self.ends.get(partition, 10 * partition)
        for example in examples:
            value = example.SerializeToString()
            self.records.setdefault(partition, []).append(Landed(TOPIC, partition, end, FIRST_MS + end, b"7", value))
            end += 1 + (end % 3 == 0)
        self.ends[partition] = end

    def all(self) -> list[Landed]:
        return [record for partition in sorted(self.records) for record in self.records[partition]]

    def land(self, lake: Lake, *, batch_bytes: int = 1 << 20) -> LandReport:
        """All that is new, as the command does it."""
        done = lake.manifest().next
        bounds = {number: (done.get(number, 10 * number), end) for number, end in self.ends.items()}
        fresh = (record for record in self.all() if record.offset >= bounds[record.partition][0])
        return land(lake, fresh, bounds, topic=TOPIC, topic_id=self.id, batch_bytes=batch_bytes)


class CrashError(Exception):
    """The process died here."""


class FailingObjects(Objects):
    """Dies at the n-th change: before it happens, or right after."""

    def __init__(self, url: str, at: int, *, after: bool) -> None:
        super().__init__(url)
        self.left, self.after = at, after

    def put(self, name: str, content: bytes) -> None:
        with_crash(self, lambda: super(FailingObjects, self).put(name, content))

    def put_new(self, name: str, content: bytes) -> None:
        with_crash(self, lambda: super(FailingObjects, self).put_new(name, content))

    def delete(self, name: str) -> None:
        with_crash(self, lambda: super(FailingObjects, self).delete(name))


def with_crash(objects: FailingObjects, change: Any) -> None:
    objects.left -= 1
    if objects.left < 0 and not objects.after:
        raise CrashError
    change()
    if objects.left < 0:
        raise CrashError


def crash_points(url: str) -> Iterator[FailingObjects]:
    """Before and after the first change, the second, ..: the caller stops when nothing crashed."""
    for at in count():
        for after in (False, True):
            yield FailingObjects(url, at, after=after)


def newest(examples: Iterable[TrainingExample]) -> dict[str, TrainingExample]:
    """What a reader must give, by request: the highest version, and the first of doubles; in the lake's order of tasks
    and features."""
    found: dict[str, TrainingExample] = {}
    for example in examples:
        held = found.get(example.request_id)
        if held is None or example.label_version > held.label_version:
            found[example.request_id] = example
    return {name: normal(example) for name, example in found.items()}


def normal(example: TrainingExample) -> TrainingExample:
    """With its repeated fields in order of their names."""
    copy = TrainingExample.FromString(example.SerializeToString())
    copy.labels.sort(key=lambda labels: labels.task)
    copy.targets.features.sort(key=lambda feature: feature.name)
    copy.context.sort(key=lambda feature: feature.name)
    return copy


def read(lake: Lake) -> list[TrainingExample]:
    """All days' requests."""
    days = lake.days()
    return [normal(example) for example in lake.requests(days[0], days[-1]).examples()] if days else []
