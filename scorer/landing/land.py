"""Records to commits: batches bounded in memory, each of which is in the lake whole or not at all. No Kafka.

The lake's manifest says where each partition goes on, not a consumer group: a repeated run begins where the last commit
ended, wherever the one before it died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from scorer.landing.lake import Lake
from scorer.landing.manifest import Manifest, data_name
from scorer.landing.parquet import examples_table, split_by_day

if TYPE_CHECKING:
    from scorer.landing.bounded import Landed

#: Message bytes of a batch; about four times as much in memory.
BATCH_BYTES: Final = 64 << 20


@dataclass(kw_only=True)
class LandReport:
    """What a run added."""

    records: int = 0
    bytes: int = 0
    commits: int = 0
    #: yyyy-mm-dd -> records.
    days: dict[str, int] = field(default_factory=dict)
    #: partition -> [first, end) offsets.
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)


def land(
    lake: Lake,
    records: Iterable[Landed],
    bounds: Mapping[int, tuple[int, int]],
    *,
    topic: str,
    topic_id: str,
    batch_bytes: int = BATCH_BYTES,
    on_record: Callable[[], None] = lambda: None,
) -> LandReport:
    """Add what was read.

    Args:
        records: everything within `bounds`, in order within each partition.
        bounds: partition -> [first, end) offsets; `first` is where the lake's manifest goes on, or beyond a hole. Where
            there is nothing to read, the first commit says so: what comes and ages out before the next run is missed.
        batch_bytes: of messages in one commit.

    Raises:
        LakeError: a record is no example; the bounds do not follow what is landed; another process committed. What was
            committed before stays.
    """
    report = LandReport(offsets={partition: span for partition, span in bounds.items() if span[0] < span[1]})
    manifest = lake.manifest()
    reached = {partition: first for partition, (first, _) in bounds.items()}
    batch: list[Landed] = []
    size = 0
    ends = dict(reached)
    for record in records:
        if size + len(record.value) > batch_bytes and batch:
            manifest = _commit(lake, manifest, batch, reached, ends, topic, topic_id, report)
            batch, size, reached = [], 0, dict(ends)
        batch.append(record)
        size += len(record.value)
        ends[record.partition] = record.offset + 1
        on_record()
    # Up to the very end, also past the marks of transactions: a quiet partition's could age out and leave a hole.
    ends = {partition: max(first, end) for partition, (first, end) in bounds.items()}
    if _moved(manifest, reached, ends):
        _commit(lake, manifest, batch, reached, ends, topic, topic_id, report)
    return report


def _commit(
    lake: Lake,
    manifest: Manifest,
    batch: list[Landed],
    reached: Mapping[int, int],
    ends: Mapping[int, int],
    topic: str,
    topic_id: str,
    report: LandReport,
) -> Manifest:
    moved = _moved(manifest, reached, ends)
    # Before anything is written, and with the number that this commit will have.
    ahead = manifest.landed(topic, topic_id, moved, ())
    read = {partition: span for partition, span in moved.items() if span[0] < span[1]}
    of_file = {partition: [span] for partition, span in read.items()}
    files = []
    for day, rows in split_by_day(examples_table(batch)):
        files.append(lake.write(data_name(ahead.number, day, repr(sorted(read.items()))), day, rows, of_file))
    manifest = manifest.landed(topic, topic_id, moved, files)
    lake.commit(manifest)
    report.commits += 1
    report.records += len(batch)
    for file in files:
        report.bytes += file.bytes
        report.days[file.day] = report.days.get(file.day, 0) + file.rows
    return manifest


def _moved(manifest: Manifest, reached: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """partition -> [first, end) of those that go on elsewhere than the manifest says, also without a record."""
    return {
        partition: (reached[partition], end) for partition, end in ends.items() if manifest.next.get(partition) != end
    }
