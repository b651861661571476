"""Upkeep of a lake: few large files in the place of many small ones; old days and forgotten users go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scorer.landing.lake import Lake
from scorer.landing.manifest import DataFile, data_name, merge_ranges
from scorer.landing.parquet import sorted_table
from scorer.landing.reader import Requests

#: What files are merged up to, compressed; several times as much in memory.
TARGET_BYTES: Final = 128 << 20


@dataclass(frozen=True, kw_only=True)
class CompactReport:
    """What a compaction did: files before and after, of those that it touched."""

    replaced: int = 0
    by: int = 0
    #: Rows of older label versions that are gone.
    superseded: int = 0
    #: Objects that nothing can want any more and that were deleted.
    swept: int = 0


def compact(lake: Lake, *, above: int = 1, target_bytes: int = TARGET_BYTES) -> CompactReport:
    """Merge the small files of every day that has more than `above`, in one commit, and sweep.

    A merged file holds the newest label version of each request in it; an older one whose successor is in another file
    stays, and readers leave it out. The files that were replaced are there until the next compaction.

    Raises:
        LakeError: another process committed meanwhile; nothing changed.
    """
    manifest = lake.manifest()
    replaced: list[DataFile] = []
    merged: list[DataFile] = []
    for group in _groups(manifest.files, above, target_bytes):
        ranges = merge_ranges(file.ranges for file in group)
        name = data_name(manifest.number + 1, group[0].day, "\n".join(file.path for file in group))
        table = sorted_table(Requests(lake.objects, group).to_arrow())
        merged.append(lake.write(name, group[0].day, table, ranges))
        replaced += group
    if not replaced:
        return CompactReport()
    lake.commit(manifest.replaced(replaced, merged, retire=True))
    return CompactReport(
        replaced=len(replaced),
        by=len(merged),
        superseded=sum(file.rows for file in replaced) - sum(file.rows for file in merged),
        swept=lake.sweep(),
    )


def drop_days(lake: Lake, before: str) -> list[str]:
    """Delete the days before one (yyyy-mm-dd), at once: the days that went.

    Raises:
        LakeError: another process committed meanwhile; nothing changed.
    """
    manifest = lake.manifest()
    old = [file for file in manifest.files if file.day < before]
    if old:
        lake.commit(manifest.replaced(old, (), retire=False))
        lake.sweep()
    return sorted({file.day for file in old})


def forget_users(lake: Lake, user_ids: Collection[int]) -> int:
    """Write the files that name a user again without that user, and delete the others at once: the rows that went.

    Of a user's examples that are still in the topic those land that were not landed yet: forget again after the topic's
    retention.

    Raises:
        LakeError: another process committed meanwhile; nothing changed.
    """
    manifest = lake.manifest()
    users = pa.array(sorted(user_ids), pa.uint64())
    gone: list[DataFile] = []
    written: list[DataFile] = []
    for file in manifest.files:
        with lake.objects.open(file.path) as opened:
            table = pq.read_table(opened)
        others = table.filter(pc.invert(pc.is_in(table["user_id"], users)))
        if len(others) == len(table):
            continue
        gone.append(file)
        if len(others):
            name = data_name(manifest.number + 1, file.day, file.path)
            written.append(lake.write(name, file.day, others, file.ranges))
    if gone:
        lake.commit(manifest.replaced(gone, written, retire=False))
        lake.sweep()
    return sum(file.rows for file in gone) - sum(file.rows for file in written)


def _groups(files: Iterable[DataFile], above: int, target_bytes: int) -> Iterator[list[DataFile]]:
    """Files of one day to merge into one each."""
    small = (file for file in files if file.bytes < target_bytes)
    for _, same_day in groupby(sorted(small, key=lambda file: (file.day, file.path)), key=lambda file: file.day):
        of_day = list(same_day)
        if len(of_day) <= above:
            continue
        group: list[DataFile] = []
        for file in of_day:
            if group and sum(held.bytes for held in group) + file.bytes > target_bytes:
                if len(group) > 1:
                    yield group
                group = []
            group.append(file)
        if len(group) > 1:
            yield group
