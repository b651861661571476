"""Landed examples: immutable Parquet files by UTC day, and the numbered manifests that say which of them count.

<lake>/day=2026-11-26/000000000013-5f0c1a9e77b2d410.parquet
<lake>/_manifests/000000000013.json

What a commit adds or replaces, in however many files, appears with its manifest and not before: whatever dies, the lake
is as after the last commit, and the next one goes on from there. Of two commits from the same state one is refused.
"""

from __future__ import annotations

from typing import Any, Final

from scorer.landing.manifest import MANIFEST_FOLDER, DataFile, Manifest, Ranges, manifest_name, number_of
from scorer.landing.objects import PART_SUFFIX, LakeError, Objects
from scorer.landing.parquet import parquet_bytes
from scorer.landing.reader import Requests

#: Manifests that are kept, the newest: a commit that was prepared longer ago than this many is recognised by them.
KEPT_MANIFESTS: Final = 100


class Lake:
    """A lake at one URL. It holds nothing open, and looks at the newest manifest each time."""

    def __init__(self, url: str | Objects, **storage_options: Any) -> None:
        """
        Args:
            url: a path or what fsspec takes, for example `s3://bucket/examples`; need not be there yet.
            storage_options: for fsspec's file system.

        Raises:
            LakeError: fsspec does not know the protocol, or its package is not installed.
        """
        self.objects = url if isinstance(url, Objects) else Objects(url, **storage_options)

    def manifest(self) -> Manifest:
        """The newest; number 0 where nothing was landed yet.

        Raises:
            LakeError: it was written by a newer version, or the manifests are lost and the data are not.
        """
        number = max(self._numbers(), default=0)
        if number:
            name = manifest_name(number)
            return Manifest.from_json(f"{self.objects.url}/{name}", self.objects.read(name))
        # The first commit may have died before its manifest; later ones had one before them.
        if any((number_of(name) or 0) > 1 for name in self.objects.names()):
            raise LakeError(
                f"{self.objects.url}: there are data and no {MANIFEST_FOLDER}/; restore it, or land into an empty place"
            )
        return Manifest()

    def write(self, name: str, day: str, rows: Any, ranges: Ranges) -> DataFile:
        """Write a data file that a commit may then name: a day's rows of these ranges."""
        content = parquet_bytes(rows, ranges)
        self.objects.put(name, content)
        return DataFile(path=name, day=day, rows=len(rows), bytes=len(content), ranges=ranges)

    def commit(self, manifest: Manifest) -> None:
        """Make it the newest; its files are written.

        Raises:
            LakeError: another process committed since this one began; nothing changed.
        """
        lost = LakeError(
            f"{self.objects.url}: another process committed number {manifest.number} first; run this again after it"
        )
        try:
            self.objects.put_new(manifest_name(manifest.number), manifest.to_json())
        except FileExistsError as error:
            raise lost from error
        # The number can be free again because its manifest was swept; then so was the one before, which goes first.
        if manifest.number > 1 and not self.objects.exists(manifest_name(manifest.number - 1)):
            self.objects.delete(manifest_name(manifest.number))
            raise lost

    def sweep(self) -> int:
        """Delete what no commit can ever want again: what crashes and lost races left, files that were replaced before
        the last compaction, and manifests but the newest. How many objects.

        Safe beside readers of the newest manifest and the one before the last compaction, and beside other commits:
        what they are writing has a higher number.
        """
        newest = self.manifest()
        wanted = {file.path for file in newest.files} | {*newest.retired}
        wanted |= {manifest_name(number) for number in range(newest.number - KEPT_MANIFESTS + 1, newest.number + 1)}
        swept = 0
        for name in self.objects.names():
            number = number_of(name)
            if number is not None and number <= newest.number and name not in wanted:
                self.objects.delete(name)
                swept += 1
        return swept

    def days(self) -> list[str]:
        """yyyy-mm-dd, in order."""
        return sorted({file.day for file in self.manifest().files})

    def requests(self, day: str, last_day: str | None = None) -> Requests:
        """The requests of a day, or of all days from one to another, that one included; as of now.

        Args:
            day: yyyy-mm-dd, UTC, of `request_time_ms`.

        Raises:
            LakeError: nothing is landed of these days.
        """
        files = [file for file in self.manifest().files if day <= file.day <= (last_day or day)]
        if not files:
            days = self.days()
            there = f"there are {len(days)} days, {days[0]} to {days[-1]}" if days else "nothing is landed"
            raise LakeError(f"{self.objects.url}: no requests of {day}{f' to {last_day}' if last_day else ''}; {there}")
        return Requests(self.objects, files)

    def _numbers(self) -> list[int]:
        names = self.objects.names(MANIFEST_FOLDER)
        return [number for name in names if not name.endswith(PART_SUFFIX) and (number := number_of(name)) is not None]
