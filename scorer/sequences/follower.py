"""Keeps store partitions up with the updates and snapshots topics.

A partition that is opened first takes the snapshots up to the end seen at that moment, then the updates up to theirs,
then both as they come. Offsets live in the store, in the same write as the data; there is no consumer group.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import OffsetOutOfRangeError

from schemas.topics import HEARTBEAT_KEY
from scorer.sequences.partition import Position, Refused
from scorer.sequences.records import StoreRecord
from scorer.sequences.restore import Route, unusable
from scorer.sequences.source import FOLLOWED_TOPICS, FollowError, KafkaSequenceSource, SequenceSource
from scorer.sequences.store import SequenceStore
from scorer.sequences.transition import Verdict

_log = logging.getLogger(__name__)

_POLL_MS: Final = 200
#: Polls of `follow_to_end` without any movement after which the broker is given up on.
_MAX_EMPTY_POLLS: Final = 300
_RECORDS_PER_BATCH: Final = 1_000

OnRefused = Callable[[Sequence[Refused]], None]


@dataclass
class Followed:
    """What a poll brought."""

    records: int = 0
    #: Partitions whose store changed.
    changed: set[int] = field(default_factory=set)
    #: Partitions that have reached their ends with this poll.
    caught_up: set[int] = field(default_factory=set)
    #: Partitions that were begun afresh, and so may not serve until they are caught up again.
    rebuilt: set[int] = field(default_factory=set)
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    refused: int = 0


class Follower:
    """Follows the partitions that it is given, into one store. Not thread-safe."""

    def __init__(
        self,
        source: SequenceSource,
        store: SequenceStore,
        on_refused: OnRefused,
        *,
        only_key: bytes | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            on_refused: see `PartitionStore.apply`.
            only_key: take the records of this key alone.
        """
        self._source, self._store, self._on_refused, self._only_key = source, store, on_refused, only_key
        self._routes: dict[int, Route] = {}

    @property
    def partitions(self) -> tuple[int, ...]:
        """The followed ones."""
        return tuple(sorted(self._routes))

    def caught_up(self, partition: int) -> bool:
        """It has reached the ends that were seen when it was opened."""
        return partition in self._routes and self._routes[partition].caught_up

    def progress(self) -> tuple[int, int]:
        """(records taken, records to take) of the restore, over all partitions."""
        done = total = 0
        for route in self._routes.values():
            for topic, target in route.targets.items():
                total += target - route.begins[topic]
                done += min(route.offsets[topic], target) - route.begins[topic]
        return done, total

    def follow(self, partitions: Iterable[int]) -> Followed:
        """Follow exactly these: opens what is new, releases what is not among them.

        Raises:
            StoreError: a partition's database cannot be opened.
            FollowError: a topic does not exist.
        """
        wanted = set(partitions)
        for partition in self._routes.keys() - wanted:
            del self._routes[partition]
            self._store.close_partition(partition)
        new = wanted - self._routes.keys()
        outcome = Followed()
        if new:
            self._begin(new, outcome)
        self._assign()
        return outcome

    def poll(self, timeout_ms: int, max_records: int = _RECORDS_PER_BATCH) -> Followed:
        """Takes what has come, waiting at most so long for the first.

        Raises:
            LayoutError: a store is damaged.
            OSError and others of `on_refused`: nothing of that partition's batch was taken.
        """
        outcome = Followed()
        if not self._routes:
            return outcome
        try:
            batches = self._source.poll(timeout_ms, max_records)
        except OffsetOutOfRangeError as error:
            self._begin_again(
                {partition.partition for partition in error.args[0]}, f"offsets are gone: {error}", outcome
            )
            return outcome
        by_partition: dict[int, list[tuple[str, Sequence[Any]]]] = defaultdict(list)
        for partition, records in batches.items():
            if partition.partition in self._routes:
                by_partition[partition.partition].append((partition.topic, records))
        restoring = [number for number, route in self._routes.items() if not route.caught_up]
        for number, of_topics in by_partition.items():
            self._take(number, of_topics, outcome)
        for number in restoring:
            self._advance(number, idle=not by_partition.get(number))
            if self._routes[number].caught_up:
                outcome.caught_up.add(number)
        return outcome

    def close(self) -> None:
        """Stop reading. The store stays with its owner."""
        self._source.close()

    def _begin(self, partitions: Iterable[int], outcome: Followed) -> None:
        topic_ids = self._source.topic_ids()
        places = {(p, topic): TopicPartition(topic, p) for p in sorted(partitions) for topic in FOLLOWED_TOPICS}
        bounds = self._source.bounds(places.values())
        for number in sorted(partitions):
            oldest = {topic: bounds[places[number, topic]][0] for topic in FOLLOWED_TOPICS}
            newest = {topic: bounds[places[number, topic]][1] for topic in FOLLOWED_TOPICS}
            stored = self._store.open_partition(number).position()
            if stored is not None and (why := unusable(stored, topic_ids, oldest, newest)):
                _log.warning("partition %d is rebuilt from Kafka: %s", number, why)
                self._store.rebuild_partition(number)
                outcome.rebuilt.add(number)
                stored = None
            self._routes[number] = route = Route.plan(stored, topic_ids, oldest, newest)
            if route.caught_up:
                outcome.caught_up.add(number)

    def _begin_again(self, partitions: set[int], why: str, outcome: Followed) -> None:
        for number in partitions & self._routes.keys():
            _log.warning("partition %d is rebuilt from Kafka: %s", number, why)
            self._store.rebuild_partition(number)
            outcome.rebuilt.add(number)
        self._begin(outcome.rebuilt, outcome)
        # The failed poll may have moved other partitions past records that it never returned.
        self._assign()

    def _assign(self) -> None:
        positions = {
            TopicPartition(topic, number): offset
            for number, route in self._routes.items()
            for topic, offset in route.offsets.items()
        }
        self._source.assign(positions)
        for number, route in self._routes.items():
            for topic in FOLLOWED_TOPICS:
                partition = TopicPartition(topic, number)
                if topic in route.waiting:
                    self._source.pause(partition)
                else:
                    self._source.resume(partition)

    def _take(self, number: int, of_topics: list[tuple[str, Sequence[Any]]], outcome: Followed) -> None:
        route = self._routes[number]
        offsets, records = dict(route.offsets), []
        # Snapshots before updates, as in a restore: it does not matter for what is stored, only for what it costs.
        for topic, batch in sorted(of_topics, key=lambda entry: FOLLOWED_TOPICS.index(entry[0])):
            for record in batch:
                offsets[topic] = record.offset + 1
                if record.key == HEARTBEAT_KEY or (self._only_key is not None and record.key != self._only_key):
                    continue
                records.append(
                    StoreRecord(topic, number, record.offset, record.timestamp, record.key, record.value),
                )
        applied = self._store.open_partition(number).apply(
            records, Position(offsets, route.topic_ids), self._on_refused
        )
        route.offsets = offsets
        outcome.records += len(records)
        outcome.changed.add(number)
        outcome.verdicts.update(applied.verdicts)
        outcome.refused += len(applied.refused)

    def _advance(self, number: int, *, idle: bool) -> None:
        route = self._routes[number]
        if idle:
            for topic in route.reading:
                # The last offsets before a target may hold transaction markers, which never come as records.
                position = self._source.position(TopicPartition(topic, number))
                route.offsets[topic] = max(route.offsets[topic], position)
        for topic in route.release():
            self._source.resume(TopicPartition(topic, number))


@dataclass
class FollowSummary:
    """What `follow_to_end` took."""

    records: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)


def follow_to_end(
    bootstrap: str,
    store: SequenceStore,
    partitions: Iterable[int],
    *,
    only_key: bytes | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FollowSummary:
    """Bring partitions of a store to the ends that the topics have now, and leave them open in it.

    Refused records are logged and returned; writing their dead letters is the scorer's, or every reader would.

    Args:
        only_key: take the records of this key alone.
        on_progress: called with (records taken, records to take).

    Raises:
        FollowError: a topic does not exist, or the broker stopped answering.
        StoreError: a database cannot be opened.
    """
    summary = FollowSummary()

    def note_refused(refused: Sequence[Refused]) -> None:
        for entry in refused:
            record = entry.record
            _log.warning("%s/%d/%d refused: %s", record.topic, record.partition, record.offset, entry.rejected)
        summary.refused.extend(refused)

    with closing(Follower(KafkaSequenceSource(bootstrap), store, note_refused, only_key=only_key)) as follower:
        wanted = sorted(partitions)
        follower.follow(wanted)
        empty_polls = 0
        while not all(follower.caught_up(partition) for partition in wanted):
            before = follower.progress()
            outcome = follower.poll(_POLL_MS)
            summary.records += outcome.records
            summary.verdicts.update(outcome.verdicts)
            empty_polls = 0 if follower.progress() != before else empty_polls + 1
            if empty_polls > _MAX_EMPTY_POLLS:
                raise FollowError(
                    f"no progress beyond {before[0]} of {before[1]} records; is the broker at {bootstrap} up?"
                )
            if on_progress is not None:
                on_progress(*follower.progress())
    return summary
