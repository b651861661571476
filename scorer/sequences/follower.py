"""Keeps store partitions up with the updates and snapshots topics.

A partition that is opened first takes the snapshots up to the end seen at that moment, then the updates up to theirs,
then both as they come. Offsets live in the store, in the same write as the data; there is no consumer group.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import OffsetOutOfRangeError

from schemas.topics import HEARTBEAT_KEY
from scorer.sequences.partition import Position, Refused
from scorer.sequences.records import StoreRecord
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
class _Followed:
    """One partition on its way."""

    #: topic -> next offset to read.
    offsets: dict[str, int]
    #: topic -> offset to reach before serving, as seen when the partition was opened.
    targets: dict[str, int]
    #: topic -> where reading began, for progress.
    begins: dict[str, int]
    topic_ids: Mapping[str, str]
    #: Topics that wait for those before them.
    waiting: list[str]

    @property
    def caught_up(self) -> bool:
        return all(self.offsets[topic] >= target for topic, target in self.targets.items())

    def release(self) -> list[str]:
        """Topics that may begin, for those before them have reached their targets."""
        released: list[str] = []
        while self.waiting:
            before = FOLLOWED_TOPICS[: FOLLOWED_TOPICS.index(self.waiting[0])]
            if any(self.offsets[topic] < self.targets[topic] for topic in before):
                break
            released.append(self.waiting.pop(0))
        return released


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
        self._followed: dict[int, _Followed] = {}

    @property
    def partitions(self) -> tuple[int, ...]:
        """The followed ones."""
        return tuple(sorted(self._followed))

    def caught_up(self, partition: int) -> bool:
        """It has reached the ends that were seen when it was opened."""
        return partition in self._followed and self._followed[partition].caught_up

    def progress(self) -> tuple[int, int]:
        """(records taken, records to take) of the restore, over all partitions."""
        done = total = 0
        for followed in self._followed.values():
            for topic, target in followed.targets.items():
                total += target - followed.begins[topic]
                done += min(followed.offsets[topic], target) - followed.begins[topic]
        return done, total

    def follow(self, partitions: Iterable[int]) -> Followed:
        """Follow exactly these: opens what is new, releases what is not among them.

        Raises:
            StoreError: a partition's database cannot be opened.
            FollowError: a topic does not exist.
        """
        wanted = set(partitions)
        for partition in self._followed.keys() - wanted:
            del self._followed[partition]
            self._store.close_partition(partition)
        new = wanted - self._followed.keys()
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
        if not self._followed:
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
            if partition.partition in self._followed:
                by_partition[partition.partition].append((partition.topic, records))
        restoring = [number for number, followed in self._followed.items() if not followed.caught_up]
        for number, of_topics in by_partition.items():
            self._take(number, of_topics, outcome)
        for number in restoring:
            self._advance(number, idle=not by_partition.get(number))
            if self._followed[number].caught_up:
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
            if stored is not None and (why := _unusable(stored, topic_ids, oldest, newest)):
                _log.warning("partition %d is rebuilt from Kafka: %s", number, why)
                self._store.rebuild_partition(number)
                outcome.rebuilt.add(number)
                stored = None
            offsets = dict(stored.offsets) if stored else dict(oldest)
            followed = _Followed(offsets, newest, dict(offsets), topic_ids, waiting=list(FOLLOWED_TOPICS[1:]))
            followed.release()
            self._followed[number] = followed
            if followed.caught_up:
                outcome.caught_up.add(number)

    def _begin_again(self, partitions: set[int], why: str, outcome: Followed) -> None:
        for number in partitions & self._followed.keys():
            _log.warning("partition %d is rebuilt from Kafka: %s", number, why)
            self._store.rebuild_partition(number)
            outcome.rebuilt.add(number)
        self._begin(outcome.rebuilt, outcome)
        # The failed poll may have moved other partitions past records that it never returned.
        self._assign()

    def _assign(self) -> None:
        positions = {
            TopicPartition(topic, number): offset
            for number, followed in self._followed.items()
            for topic, offset in followed.offsets.items()
        }
        self._source.assign(positions)
        for number, followed in self._followed.items():
            for topic in FOLLOWED_TOPICS:
                partition = TopicPartition(topic, number)
                if topic in followed.waiting:
                    self._source.pause(partition)
                else:
                    self._source.resume(partition)

    def _take(self, number: int, of_topics: list[tuple[str, Sequence[Any]]], outcome: Followed) -> None:
        followed = self._followed[number]
        offsets, records = dict(followed.offsets), []
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
            records, Position(offsets, followed.topic_ids), self._on_refused
        )
        followed.offsets = offsets
        outcome.records += len(records)
        outcome.changed.add(number)
        outcome.verdicts.update(applied.verdicts)
        outcome.refused += len(applied.refused)

    def _advance(self, number: int, *, idle: bool) -> None:
        followed = self._followed[number]
        if idle:
            for topic in followed.targets.keys() - followed.waiting:
                # The last offsets before a target may hold transaction markers, which never come as records.
                position = self._source.position(TopicPartition(topic, number))
                followed.offsets[topic] = max(followed.offsets[topic], position)
        for topic in followed.release():
            self._source.resume(TopicPartition(topic, number))


def _unusable(
    stored: Position, topic_ids: Mapping[str, str], oldest: Mapping[str, int], newest: Mapping[str, int]
) -> str | None:
    """Why a stored position cannot be continued; None when it can."""
    for topic in FOLLOWED_TOPICS:
        if stored.topic_ids.get(topic) != topic_ids[topic]:
            return f"topic {topic} was recreated"
        offset = stored.offsets.get(topic, -1)
        if not oldest[topic] <= offset <= newest[topic]:
            return f"offset {offset} of {topic} is outside {oldest[topic]} .. {newest[topic]}"
    return None


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
