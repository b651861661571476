"""Bounded reads: everything of a topic between two offsets per partition, each record once, in partition order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

_POLL_MS: Final = 1_000
#: A broker that has not answered by then is not there: the client's own 30 s keep a person waiting.
_BOOTSTRAP_TIMEOUT_MS: Final = 10_000
#: Polls without a record or any movement after which the broker is given up on.
_MAX_EMPTY_POLLS: Final = 60


class Landed(NamedTuple):
    """One record and its coordinates; timestamp in ms."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes


class TopicBounds(NamedTuple):
    """A topic's identity, another one for one made anew; partition -> [oldest, end) offsets, committed ones only."""

    topic_id: str
    offsets: dict[int, tuple[int, int]]


class BoundedReadError(Exception):
    """A range cannot be read whole."""


def read_bounded(
    bootstrap: str,
    topic: str,
    begin: Mapping[int, int] | None = None,
    end: Mapping[int, int] | None = None,
) -> Iterator[Landed]:
    """Records with begin[p] <= offset < end[p] of every partition p; committed ones only.

    Args:
        begin: first offset per partition; absent partitions begin at the oldest record.
        end: offset after the last per partition; absent partitions end at what is committed now.

    Raises:
        BoundedReadError: the topic does not exist, `begin` has aged out or lies beyond the end, or the broker stopped
            answering.
    """
    with closing(_consumer(bootstrap)) as consumer:
        yield from _read(consumer, topic, begin or {}, end or {})


def read_bounds(bootstrap: str, topic: str) -> TopicBounds:
    """What there is to read now.

    Raises:
        BoundedReadError: the topic does not exist.
    """
    with closing(_consumer(bootstrap)) as consumer:
        partitions = _partitions(consumer, topic)
        oldest = consumer.beginning_offsets(list(partitions.values()))
        newest = consumer.end_offsets(list(partitions.values()))
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        (described,) = admin.describe_topics([topic])
    bounds = {number: (oldest[partition], newest[partition]) for number, partition in partitions.items()}
    return TopicBounds(str(described["topic_id"]), bounds)


def _consumer(bootstrap: str) -> Any:
    return KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        bootstrap_timeout_ms=_BOOTSTRAP_TIMEOUT_MS,
        max_poll_records=5_000,
        fetch_max_bytes=64 << 20,
        max_partition_fetch_bytes=8 << 20,
    )


def _partitions(consumer: Any, topic: str) -> dict[int, Any]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise BoundedReadError(f"topic {topic} does not exist; create it with `longrank topics apply`")
    return {number: TopicPartition(topic, number) for number in sorted(numbers)}


def _read(consumer: Any, topic: str, begin: Mapping[int, int], end: Mapping[int, int]) -> Iterator[Landed]:
    partitions = _partitions(consumer, topic)
    oldest = consumer.beginning_offsets(list(partitions.values()))
    newest = consumer.end_offsets(list(partitions.values()))
    until: dict[Any, int] = {}
    for number, partition in partitions.items():
        first = begin.get(number, oldest[partition])
        if first < oldest[partition]:
            raise BoundedReadError(
                f"{topic}/{number}: offset {first} has aged out, the oldest record is {oldest[partition]}"
            )
        if first > newest[partition]:
            raise BoundedReadError(
                f"{topic}/{number}: offset {first} is beyond the end {newest[partition]}; was the topic made anew?"
            )
        last = min(end.get(number, newest[partition]), newest[partition])
        if first < last:
            until[partition] = last
            consumer.assign([*consumer.assignment(), partition])
            consumer.seek(partition, first)
    empty_polls = 0
    while until:
        before = {partition: consumer.position(partition) for partition in until}
        batches = consumer.poll(timeout_ms=_POLL_MS)
        for partition, records in batches.items():
            for record in records:
                if partition in until and record.offset < until[partition]:
                    yield Landed(topic, record.partition, record.offset, record.timestamp, record.key, record.value)
        # Positions also move over transaction markers, which are never returned as records.
        moved = {partition: consumer.position(partition) for partition in until}
        empty_polls = 0 if batches or moved != before else empty_polls + 1
        if empty_polls > _MAX_EMPTY_POLLS:
            raise BoundedReadError(f"{topic}: no progress towards {until} from {moved}")
        finished = [partition for partition, last in until.items() if moved[partition] >= last]
        for partition in finished:
            del until[partition]
            consumer.pause(partition)
