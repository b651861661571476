"""Where a run reads: the examples between two offsets, and the histories that their stamps name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from schemas.topics import EXAMPLES, PARTITIONS
from scorer.landing.bounded import Landed, TopicBounds, read_bounded, read_bounds
from scorer.landing.resolve import Resolver, store_resolver
from scorer.sequences.follower import follow_to_end
from scorer.sequences.store import SequenceStore


class Source(Protocol):
    """What a run needs of Kafka."""

    def bounds(self) -> TopicBounds:
        """The examples topic's identity and offsets now."""

    def examples(self, offsets: Mapping[int, tuple[int, int]]) -> Iterator[Landed]:
        """The records of partition -> [first, end), in partition order."""

    def histories(self) -> AbstractContextManager[Resolver]:
        """Resolves stamps as of now."""


class KafkaSource:
    """The real one."""

    def __init__(self, bootstrap: str, store: Path) -> None:
        """`store`: the directory of the trainer's own SequenceStore, which follows the topics from where it is."""
        self._bootstrap, self._store = bootstrap, store

    def bounds(self) -> TopicBounds:
        """See `Source`.

        Raises:
            BoundedReadError: the topic does not exist.
        """
        return read_bounds(self._bootstrap, EXAMPLES.name)

    def examples(self, offsets: Mapping[int, tuple[int, int]]) -> Iterator[Landed]:
        """See `Source`.

        Raises:
            BoundedReadError: a range is not there (any more), or the broker stopped answering.
        """
        begin, end = ({partition: span[at] for partition, span in offsets.items()} for at in (0, 1))
        return read_bounded(self._bootstrap, EXAMPLES.name, begin, end)

    @contextmanager
    def histories(self) -> Iterator[Resolver]:
        """See `Source`.

        Raises:
            FollowError, StoreError: see `follow_to_end`.
        """
        with SequenceStore(self._store) as store:
            follow_to_end(self._bootstrap, store, range(PARTITIONS))
            yield store_resolver(store)
