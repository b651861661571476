"""Where the follower reads: the two topics, by partition and offset, without a consumer group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, Protocol

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from schemas.topics import SNAPSHOTS, UPDATES

#: Snapshots first: most deltas that follow are then known already.
FOLLOWED_TOPICS: Final = (SNAPSHOTS.name, UPDATES.name)
#: A consumer has one fetch per broker under way; partitions that join wait for it. Data end it at once.
_FETCH_WAIT_MS: Final = 200
#: A snapshot of a full history, and the topic's limit, fit.
_PARTITION_FETCH_BYTES: Final = 2 * SNAPSHOTS.max_message_bytes


class FollowError(Exception):
    """The topics cannot be followed; the message says which and what to do."""


class SequenceSource(Protocol):
    """The part of a KafkaConsumer, and of the topics' identity, that following needs."""

    def topic_ids(self) -> Mapping[str, str]:
        """topic -> identity, of both topics."""

    def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """(oldest offset, next offset) of each."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these, from these offsets on."""

    def pause(self, partition: TopicPartition) -> None: ...

    def resume(self, partition: TopicPartition) -> None: ...

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Any]]:
        """Records by partition. Raises OffsetOutOfRangeError."""

    def position(self, partition: TopicPartition) -> int:
        """The next offset to read, also past what never comes as a record."""

    def close(self) -> None: ...


class KafkaSequenceSource:
    """The real one."""

    def __init__(self, bootstrap: str) -> None:
        """Connects at once. Raises KafkaError when the broker does not answer."""
        self._bootstrap = bootstrap
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
        )

    def topic_ids(self) -> Mapping[str, str]:
        """See `SequenceSource`. Raises FollowError: a topic does not exist."""
        with closing(KafkaAdminClient(bootstrap_servers=self._bootstrap)) as admin:
            described = {topic["name"]: topic for topic in admin.describe_topics(list(FOLLOWED_TOPICS))}
        for name in FOLLOWED_TOPICS:
            if described.get(name, {}).get("error_code", 3):
                raise FollowError(f"topic {name} does not exist; create it with `longrank topics apply`")
        return {name: str(described[name]["topic_id"]) for name in FOLLOWED_TOPICS}

    def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """See `SequenceSource`."""
        wanted = list(partitions)
        oldest, newest = self._consumer.beginning_offsets(wanted), self._consumer.end_offsets(wanted)
        return {partition: (oldest[partition], newest[partition]) for partition in wanted}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """See `SequenceSource`."""
        self._consumer.assign(list(positions))
        for partition, offset in positions.items():
            self._consumer.seek(partition, offset)

    def pause(self, partition: TopicPartition) -> None:
        """See `SequenceSource`."""
        self._consumer.pause(partition)

    def resume(self, partition: TopicPartition) -> None:
        """See `SequenceSource`."""
        self._consumer.resume(partition)

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Any]]:
        """See `SequenceSource`."""
        records: Mapping[TopicPartition, Sequence[Any]] = self._consumer.poll(timeout_ms, max_records)
        return records

    def position(self, partition: TopicPartition) -> int:
        """See `SequenceSource`."""
        position = self._consumer.position(partition)
        assert position is not None, "every assigned partition was sought"
        return int(position)

    def close(self) -> None:
        """See `SequenceSource`."""
        self._consumer.close()
