"""What a lake consists of after one commit: its files, and where each Kafka partition goes on. Pure.

Manifests are numbered without gaps and written once; the one with the highest number is the lake. A data file carries
the number of the commit it is written for. When that number is taken by another commit, the file can never be part of
the lake: it is left from a crash or a lost race, and may be deleted without asking anyone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import chain
from typing import Final

from scorer.landing.objects import PART_SUFFIX, LakeError

MANIFEST_FOLDER: Final = "_manifests"
_VERSION: Final = 1
_DIGITS: Final = 12
_NUMBERED: Final = re.compile(rf"(?:.*/)?\.?(\d{{{_DIGITS}}})[-.].*")

#: partition -> the ranges of offsets [first, end) that were read, in order, apart from each other.
Ranges = Mapping[int, Sequence[tuple[int, int]]]


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One Parquet file: the examples of one UTC day within ranges of offsets. The file's own metadata say the same."""

    #: Relative to the lake.
    path: str
    #: yyyy-mm-dd, of request_time_ms.
    day: str
    rows: int
    bytes: int
    ranges: Ranges


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Offsets [first, end) of a partition that had aged out of Kafka before they were landed, and were given up."""

    partition: int
    first: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A lake after `number` commits; number 0 is the empty lake."""

    number: int = 0
    #: Topic and its identity: a topic made anew has the same name and other records under the same offsets.
    topic: str = ""
    topic_id: str = ""
    #: partition -> the first offset that is not landed.
    next: Mapping[int, int] = field(default_factory=dict)
    files: tuple[DataFile, ...] = ()
    #: Files that the last compaction replaced: kept for those who still read them, until the next one.
    retired: tuple[str, ...] = ()
    holes: tuple[Hole, ...] = ()

    def check_topic(self, topic: str, topic_id: str) -> None:
        """Raises LakeError: the lake holds another topic's records."""
        if self.number and (topic, topic_id) != (self.topic, self.topic_id):
            raise LakeError(
                f"the lake holds topic {self.topic} with id {self.topic_id}, not {topic} with id {topic_id}: that was "
                "made anew or is another cluster's; land it in a lake of its own"
            )

    def landed(
        self, topic: str, topic_id: str, ranges: Mapping[int, tuple[int, int]], files: Iterable[DataFile]
    ) -> Manifest:
        """With the files of a further range per partition.

        Raises:
            LakeError: another topic, or a range that does not begin where the lake ends. A range that begins later is
                recorded as a hole.
        """
        self.check_topic(topic, topic_id)
        holes = []
        for partition, (first, end) in ranges.items():
            due = self.next.get(partition, first)
            if first < due or end < first:
                raise LakeError(f"{topic}/{partition}: offsets {first} to {end} are not what follows {due}")
            if first > due:
                holes.append(Hole(partition=partition, first=due, end=first))
        return replace(
            self,
            number=self.number + 1,
            topic=topic,
            topic_id=topic_id,
            next=dict(sorted({**self.next, **{partition: end for partition, (_, end) in ranges.items()}}.items())),
            files=(*self.files, *files),
            holes=(*self.holes, *holes),
        )

    def replaced(self, gone: Iterable[DataFile], by: Iterable[DataFile], *, retire: bool) -> Manifest:
        """With some files in the place of others.

        Args:
            retire: keep those that go until the next such commit. Otherwise neither they nor what is retired now is
                wanted any more.
        """
        paths = {file.path for file in gone}
        assert paths <= {file.path for file in self.files}, "a commit replaces files of its own manifest"
        kept = (file for file in self.files if file.path not in paths)
        retired = tuple(sorted(paths)) if retire else ()
        return replace(self, number=self.number + 1, files=(*kept, *by), retired=retired)

    def to_json(self) -> bytes:
        """UTF-8, the same bytes for the same manifest."""
        return (json.dumps({"version": _VERSION, **asdict(self)}, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, name: str, content: bytes) -> Manifest:
        """Args:
            name: for the message.

        Raises:
            LakeError: another version.
        """
        document = json.loads(content)
        if document.pop("version") != _VERSION:
            raise LakeError(f"{name}: written by a newer version of longrank; upgrade this one")
        return cls(
            **document
            | {
                "next": {int(partition): offset for partition, offset in document["next"].items()},
                "files": tuple(
                    DataFile(**file | {"ranges": read_ranges(file["ranges"])}) for file in document["files"]
                ),
                "retired": tuple(document["retired"]),
                "holes": tuple(Hole(**hole) for hole in document["holes"]),
            }
        )


def manifest_name(number: int) -> str:
    """Where a manifest lies."""
    return f"{MANIFEST_FOLDER}/{number:0{_DIGITS}d}.json"


def data_name(number: int, day: str, content: str) -> str:
    """A data file's place: the same for the same commit number, day and content, so that a repetition after a crash
    writes over what the crash left."""
    return f"day={day}/{number:0{_DIGITS}d}-{blake2b(content.encode(), digest_size=8).hexdigest()}.parquet"


def number_of(name: str) -> int | None:
    """The commit number in the name of a manifest, a data file or a part of one; None: not ours."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found and name.endswith((".json", ".parquet", PART_SUFFIX)) else None


def merge_ranges(all_ranges: Iterable[Ranges]) -> dict[int, list[tuple[int, int]]]:
    """The union, in order; ranges that touch become one."""
    merged: dict[int, list[tuple[int, int]]] = {}
    parts = chain.from_iterable(
        ((partition, first, end) for partition, spans in ranges.items() for first, end in spans)
        for ranges in all_ranges
    )
    for partition, first, end in sorted(parts):
        spans = merged.setdefault(partition, [])
        if spans and first <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((first, end))
    return merged


def read_ranges(document: Mapping[str, Sequence[Sequence[int]]]) -> dict[int, list[tuple[int, int]]]:
    """Ranges as JSON has them."""
    return {int(partition): [(first, end) for first, end in spans] for partition, spans in document.items()}
