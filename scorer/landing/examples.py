"""Examples within a cut: which records a training run takes, and where the next one goes on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.v1.training_pb2 import TrainingExample
from scorer.landing.bounded import Landed


@dataclass(frozen=True, kw_only=True)
class ExampleCut:
    """The newest label version of every request with request_time_ms in [from_ms, cut_ms)."""

    #: In order of request time.
    examples: list[TrainingExample]
    #: partition -> [first, end) offsets; the next run begins at `end`.
    offsets: dict[int, tuple[int, int]]
    read: int
    #: Repeated requests: older label versions and doubles.
    superseded: int
    #: Requests at or after the cut: left to the next run.
    later: int
    #: Requests before `from_ms`: an earlier run had them.
    earlier: int


@dataclass
class _Range:
    first: int
    end: int
    #: The first record that the next run must read again.
    resume: int | None = field(default=None)


def take_examples(records: Iterable[Landed], begin: Mapping[int, int], from_ms: int, cut_ms: int) -> ExampleCut:
    """Sort out what was read from `begin` on.

    Args:
        begin: partition -> first offset read; absent partitions begin at their first record.
    """
    newest: dict[str, TrainingExample] = {}
    ranges: dict[int, _Range] = {partition: _Range(offset, offset) for partition, offset in begin.items()}
    read = superseded = later = earlier = 0
    for record in records:
        read += 1
        span = ranges.setdefault(record.partition, _Range(record.offset, record.offset))
        span.end = record.offset + 1
        example = TrainingExample.FromString(record.value)
        if example.request_time_ms >= cut_ms:
            later += 1
            if span.resume is None:
                span.resume = record.offset
        elif example.request_time_ms < from_ms:
            earlier += 1
        else:
            known = newest.get(example.request_id)
            superseded += known is not None
            if known is None or example.label_version > known.label_version:
                newest[example.request_id] = example
    return ExampleCut(
        examples=sorted(newest.values(), key=lambda example: (example.request_time_ms, example.request_id)),
        offsets={
            partition: (span.first, span.end if span.resume is None else span.resume)
            for partition, span in ranges.items()
        },
        read=read,
        superseded=superseded,
        later=later,
        earlier=earlier,
    )
