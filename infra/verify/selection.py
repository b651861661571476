"""Which responses, examples and users are checked. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from infra.verify.records import Batches, Light
from schemas.topics import EXAMPLES, HEARTBEAT_KEY, RESPONSES, Topic

#: Parts of the users, for a share of them.
_SHARES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The default is everything."""

    #: Request times, ms UTC: from <= time < until; None: no bound.
    from_ms: int | None = None
    until_ms: int | None = None
    #: (topic, partition) -> the offsets first <= offset < end, of responses and examples; other partitions are whole.
    offsets: Mapping[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    #: Of all users, always the same ones; a larger share has them, too.
    users_share: float = 1.0
    #: Keys of the only users to check; None: see `users_share`.
    users: frozenset[bytes] | None = None

    def takes_time(self, request_time_ms: int) -> bool:
        """Is a request of this time in the range?"""
        return (self.from_ms is None or request_time_ms >= self.from_ms) and (
            self.until_ms is None or request_time_ms < self.until_ms
        )

    def takes_offset(self, topic: Topic, partition: int, offset: int) -> bool:
        """Is the record in the range?"""
        span = self.offsets.get((topic.name, partition))
        return span is None or span[0] <= offset < span[1]

    def takes_user(self, key: bytes | None) -> bool:
        """Is the user with this key among those to check?"""
        if self.users is not None:
            return key in self.users
        return self.users_share >= 1.0 or _hash(key or b"") % _SHARES < self.users_share * _SHARES

    def whole(self, topic: Topic, partition: int) -> bool:
        """Are all records of the partition in the range of offsets? Else nothing can be said to be missing."""
        return (topic.name, partition) not in self.offsets

    def filter(self, batches: Batches) -> Batches:
        """The records of the users to check, and the heartbeats."""
        return batches if self.users is None and self.users_share >= 1.0 else self._filtered(batches)

    def _filtered(self, batches: Batches) -> Iterator[Sequence[Light]]:
        known: dict[bytes | None, bool] = {HEARTBEAT_KEY: True}
        for batch in batches:
            for _, _, key, _ in batch:
                if key not in known:
                    known[key] = self.takes_user(key)
            yield [one for one in batch if known[one[2]]]


def sample_users(keys: Iterable[bytes], count: int) -> frozenset[bytes]:
    """`count` of the users with these keys, always the same ones. Keys may come again and again."""
    taken: set[bytes] = set()
    newest_first: list[tuple[int, bytes]] = []
    for key in keys:
        if key in taken:
            continue
        order = -_hash(key)
        if len(taken) < count:
            heapq.heappush(newest_first, (order, key))
        elif (order, key) > newest_first[0]:
            taken.discard(heapq.heapreplace(newest_first, (order, key))[1])
        else:
            continue
        taken.add(key)
    return frozenset(taken)


#: Where users are looked for that have something to be checked.
SAMPLED_TOPICS = (RESPONSES, EXAMPLES)


def _hash(key: bytes) -> int:
    # Other bits than those that tell the slices of a partition apart.
    return crc32(b"sample" + key) >> 4
