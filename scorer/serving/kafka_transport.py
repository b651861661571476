"""The loop's transport on kafka-python."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import KafkaError, KafkaTimeoutError, NoOffsetForPartitionError
from kafka.structs import OffsetAndMetadata

from schemas.topics import ALL_TOPICS, REQUESTS, SCORER_GROUP
from scorer.serving.requests import Arrival
from scorer.serving.transport import Outgoing, Rebalanced, TransportError

#: A consumer has one fetch per broker under way; partitions that are resumed wait for it. Data end it at once.
_FETCH_WAIT_MS: Final = 100
_CLOSE_MS: Final = 10_000
#: A scorer that died is missed after so long, and its partitions move. Draining, which holds heartbeats up, is shorter.
_SESSION_MS: Final = 10_000
_HEARTBEAT_MS: Final = 2_000


class KafkaIntake:
    """A member of the scorers' consumer group."""

    def __init__(self, bootstrap: str, clock: Callable[[], float]) -> None:
        """Connects at once. `clock`: seconds, for the arrivals. Raises KafkaError when the broker does not answer."""
        self._clock = clock
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=SCORER_GROUP,
            enable_auto_commit=False,
            session_timeout_ms=_SESSION_MS,
            heartbeat_interval_ms=_HEARTBEAT_MS,
            # First offsets are written at deployment: beginning anywhere else would skip requests or answer old ones.
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=REQUESTS.max_message_bytes,
        )
        self._failed_commits: list[KafkaError] = []

    def join(self, listener: Rebalanced) -> None:
        """See `Intake`. Raises TransportError: the topic does not exist."""
        if not self._consumer.partitions_for_topic(REQUESTS.name):
            raise TransportError(f"topic {REQUESTS.name} does not exist; create it with `longrank topics apply`")
        self._consumer.subscribe([REQUESTS.name], listener=_Listener(self._consumer, listener))

    def poll(self, timeout_ms: int, max_records: int) -> Sequence[Arrival]:
        """See `Intake`. Raises TransportError: the group has no offset, or the offsets are gone."""
        try:
            batches: Mapping[TopicPartition, Sequence[Any]] = self._consumer.poll(timeout_ms, max_records)
        except NoOffsetForPartitionError as error:
            raise TransportError(
                f"group {SCORER_GROUP} has no offset ({error}); write the first ones with `longrank topics apply`"
            ) from error
        arrived = self._clock()
        return [
            Arrival(record.partition, record.offset, record.timestamp, record.key, record.value, arrived)
            for records in batches.values()
            for record in records
        ]

    def deliver(self, partitions: Collection[int]) -> None:
        """See `Intake`."""
        for place in self._consumer.assignment():
            if place.partition in partitions:
                self._consumer.resume(place)
            else:
                self._consumer.pause(place)

    def commit(self, offsets: Mapping[int, int], on_done: Callable[[BaseException | None], None]) -> None:
        """See `Intake`."""
        self._consumer.commit_async(
            _as_kafka(offsets),
            callback=lambda _, result: on_done(result if isinstance(result, BaseException) else None),
        )

    def close(self) -> None:
        """See `Intake`."""
        self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Runs on the consumer's own thread. The loop's lock may be waited for: a turn is far shorter than the session."""

    def __init__(self, consumer: KafkaConsumer, listener: Rebalanced) -> None:
        self._consumer, self._listener = consumer, listener

    async def on_partitions_revoked(self, _revoked: Collection[TopicPartition]) -> None:
        # kafka-python 3.0.12: a leader that rejoins because the topic's metadata changed wants to only until it has
        # made its assignment, in the middle of the join. A poll that returned meanwhile is then followed by one that
        # sees nothing to wait for: the join never completes and heartbeats stay off. Asked for, it is wanted until
        # it is complete.
        self._consumer._coordinator.request_rejoin()
        if offsets := self._listener.on_revoke():
            await self._consumer.commit_async(_as_kafka(offsets))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for place in assigned:
            self._consumer.pause(place)
        self._listener.on_assign({place.partition for place in assigned})

    async def on_partitions_lost(self, _lost: Collection[TopicPartition]) -> None:
        self._listener.on_lost()


def _as_kafka(offsets: Mapping[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(REQUESTS.name, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}


class KafkaOutlet:
    """An idempotent producer that waits for all replicas."""

    def __init__(self, bootstrap: str) -> None:
        """Connects at once. Raises KafkaError when the broker does not answer."""
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            allow_auto_create_topics=False,
            max_request_size=max(topic.max_message_bytes for topic in ALL_TOPICS),
        )

    def send(self, record: Outgoing, on_done: Callable[[BaseException | None], None]) -> None:
        """See `Outlet`. Raises TransportError when it cannot even be queued."""
        try:
            future = self._producer.send(
                record.topic,
                key=record.key,
                value=record.value,
                partition=record.partition,
                timestamp_ms=record.timestamp_ms,
            )
        except KafkaError as error:
            raise TransportError(f"{record.topic}/{record.partition}: {error}") from error
        future.add_callback(lambda _: on_done(None))
        future.add_errback(on_done)

    def flush(self, timeout_ms: int) -> None:
        """See `Outlet`."""
        try:
            self._producer.flush(timeout_ms / 1000)
        except KafkaTimeoutError as error:
            raise TransportError(f"not acknowledged within {timeout_ms} ms: {error}") from error

    def close(self) -> None:
        """See `Outlet`."""
        self._producer.close(_CLOSE_MS / 1000)
