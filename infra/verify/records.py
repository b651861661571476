"""Records as the checks take them: light tuples in batches, one partition of one topic at a time. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias
from zlib import crc32

from schemas.topics import HEARTBEAT_KEY
from scorer.landing.bounded import Landed

#: offset, timestamp in ms, key, value (of a record without one: no bytes). A plain tuple: there are millions a second.
Light: TypeAlias = tuple[int, int, bytes | None, bytes]
Batches: TypeAlias = Iterable[Sequence[Light]]


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


def by_partition(records: Iterable[Landed]) -> dict[int, list[Light]]:
    """Whole records of one topic as light ones of each partition, in their order."""
    found: dict[int, list[Light]] = defaultdict(list)
    for record in records:
        found[record.partition].append((record.offset, record.timestamp_ms, record.key, record.value or b""))
    return dict(found)


class Slice(NamedTuple):
    """The users whose keys have the hash `number` among `of`; the only one of 1 has all."""

    number: int = 0
    of: int = 1

    def filter(self, batches: Batches) -> Iterator[Sequence[Light]]:
        """The records of these users, and the heartbeats."""
        number, of = self
        if of == 1:
            yield from batches
            return
        for batch in batches:
            yield [one for one in batch if one[2] == HEARTBEAT_KEY or crc32(one[2] or b"") % of == number]
