"""SEED records into behaviour.events.v1, and the wait until the sequence job has applied them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from infra.seed.errors import SeedError
from schemas.partitioner import partition_of, user_key
from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, HEARTBEAT_KEY, PARTITIONS, SEQUENCE_JOB_GROUP
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.operations_pb2 import DeadLetter
from scorer.landing.bounded import read_bounded

_PATIENCE_S: Final = 180.0
_PAUSE_S: Final = 0.25
_NUDGE_S: Final = 1.0


class Span(NamedTuple):
    """Offsets of the first and the last record."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Offsets in it, those of others between included."""
        return self.last - self.first + 1


def spans(places: Iterable[tuple[int, int]]) -> dict[int, Span]:
    """partition -> the span of its offsets, of (partition, offset)."""
    found: dict[int, Span] = {}
    for partition, offset in places:
        known = found.get(partition, Span(offset, offset))
        found[partition] = Span(min(known.first, offset), max(known.last, offset))
    return found


class EventPublisher:
    """An idempotent producer of behaviour.events.v1, for seeds and erases; a context manager. Raises KafkaError."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=20,
            batch_size=1 << 18,
            # What is packed is compressed.
            compression_type=None,
            max_request_size=EVENTS.max_message_bytes,
            allow_auto_create_topics=False,
        )

    def __enter__(self) -> EventPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close()

    def publish(self, records: Iterable[tuple[int, bytes]], timestamp_ms: int) -> dict[int, Span]:
        """Write (user_id, value) in order and wait for the acknowledgements; partition -> where they are."""
        futures = []
        for user_id, value in records:
            key = user_key(user_id)
            place = partition_of(key, PARTITIONS)
            futures.append(
                self._producer.send(EVENTS.name, key=key, value=value, partition=place, timestamp_ms=timestamp_ms)
            )
        self._producer.flush()
        return spans((done.partition, done.offset) for done in (future.get(0) for future in futures))

    def nudge(self, partitions: Iterable[int], timestamp_ms: int) -> None:
        """A heartbeat in each of the partitions: a source that sleeps over them wakes up and commits what it has read,
        which Kafka's consumer else does ten seconds later."""
        for partition in partitions:
            self._producer.send(
                EVENTS.name, key=HEARTBEAT_KEY, value=b"", partition=partition, timestamp_ms=timestamp_ms
            )
        self._producer.flush()


def wait_applied(
    bootstrap: str,
    published: Mapping[int, Span],
    on_progress: Callable[[int], None],
    *,
    nudge: Callable[[], object] = lambda: None,
    group: str = SEQUENCE_JOB_GROUP,
    patience_s: float = _PATIENCE_S,
) -> None:
    """Wait until the sequence job has committed beyond these records: a checkpoint holds what they led to.

    Args:
        published: partition -> where the records are.
        on_progress: told how many offsets of these spans are behind the committed ones.
        nudge: called once a second.

    Raises:
        SeedError: the offsets did not move for `patience_s`.
    """
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        last: dict[int, int] = {}
        deadline = nudge_at = time.monotonic()
        deadline += patience_s
        while True:
            if time.monotonic() >= nudge_at:
                nudge()
                nudge_at = time.monotonic() + _NUDGE_S
            found = admin.list_group_offsets({group: [TopicPartition(EVENTS.name, p) for p in published]})[group]
            committed = {place.partition: metadata.offset for place, metadata in found.items()}
            behind = {p: max(0, min(committed.get(p, 0) - s.first, s.length)) for p, s in published.items()}
            on_progress(sum(behind.values()))
            if all(behind[p] == span.length for p, span in published.items()):
                return
            if committed != last:
                last, deadline = committed, time.monotonic() + patience_s
            if time.monotonic() > deadline:
                raise SeedError(
                    f"group {group} has not moved for {patience_s:.0f} s: {committed}, wanted {dict(published)}; does"
                    " the sequence job run and take checkpoints? What is published stays, nothing need be repeated"
                )
            time.sleep(_PAUSE_S)
    finally:
        admin.close()


def refused_seeds(bootstrap: str, published: Mapping[int, Span]) -> list[str]:
    """A line for each seed's dead letter within these spans."""
    lines = []
    for record in read_bounded(bootstrap, DEAD_LETTER_TOPICS[EVENTS.name].name):
        letter = DeadLetter.FromString(record.value)
        place, offset = letter.source_partition, letter.source_offset
        first, last = published.get(place, Span(0, -1))
        # Live traffic between the seeds has dead letters of its own.
        if first <= offset <= last and _is_seed(letter.value):
            lines.append(f"{EVENTS.name}/{place}/{offset}: {letter.reason}: {letter.detail}")
    return lines


def _is_seed(value: bytes) -> bool:
    try:
        return BehaviourEvent.FromString(value).HasField("seed")
    except DecodeError:
        return False
