"""Bounded reads of single partitions through librdkafka: a record costs a seventh of what it does in Python.

The ranges and their errors are those of `scorer.landing.bounded`: committed records only, up to what is committed now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.verify.records import Light
from scorer.landing.bounded import BoundedReadError

#: Records of a batch: enough for what a batch costs, few enough for the processor's cache.
_BATCH: Final = 2_000
#: How long a batch may wait to be full, s: at the end of a range, where offsets are transactions' marks, it does.
_WAIT_S: Final = 0.1
_ANSWER_S: Final = 10.0
#: Without a record for so long the broker is given up on, s.
_PATIENCE_S: Final = 60.0


class Range(NamedTuple):
    """The offsets first <= offset < end."""

    first: int
    end: int


class PartitionReader:
    """Reads one partition after the other. Not thread-safe."""

    def __init__(self, bootstrap: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is asked yet."""
        self._bootstrap, self._clock = bootstrap, clock
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                # Never used: partitions are assigned and no offset is committed.
                "group.id": "longrank.verify",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                # A partition that was just assigned waits no longer than this for its first records.
                "fetch.wait.max.ms": 10,
                # The default, a second, is how long a full queue would stay empty.
                "fetch.queue.backoff.ms": 5,
                "queued.min.messages": 20_000,
                "queued.max.messages.kbytes": 16_384,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def ranges(self, topic: str) -> dict[int, Range]:
        """What each partition holds now, to the last committed record.

        Raises:
            BoundedReadError: the topic does not exist, or the broker does not answer.
        """
        try:
            found = self._consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic]
            numbers = sorted(found.partitions)
            if found.error is not None or not numbers:
                raise BoundedReadError(f"topic {topic} does not exist; create it with `longrank topics apply`")
            oldest = self._offsets(topic, numbers, OffsetSpec.earliest())
            newest = self._offsets(topic, numbers, OffsetSpec.latest())
        except KafkaException as error:
            raise BoundedReadError(f"{topic}: {self._bootstrap} does not answer: {error}") from error
        return {number: Range(oldest[number], newest[number]) for number in numbers}

    def _offsets(self, topic: str, numbers: Sequence[int], spec: Any) -> dict[int, int]:
        asked = {TopicPartition(topic, number): spec for number in numbers}
        answers: Mapping[Any, Any] = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_ANSWER_S
        )
        return {place.partition: answer.result().offset for place, answer in answers.items()}

    def read(self, topic: str, partition: int, span: Range) -> Iterator[list[Light]]:
        """The records with span.first <= offset < span.end, in batches.

        Raises:
            BoundedReadError: the first has aged out, or the broker stopped answering.
        """
        if span.first >= span.end:
            return
        consume, at = self._consumer.consume, span.first
        self._consumer.assign([TopicPartition(topic, partition, span.first)])
        since = self._clock()
        try:
            while at < span.end:
                messages = consume(min(_BATCH, span.end - at), _WAIT_S)
                if not messages:
                    if self._clock() - since > _PATIENCE_S:
                        raise BoundedReadError(f"{topic}/{partition}: no progress towards {span.end} from {at}")
                    continue
                since = self._clock()
                batch = [
                    (message.offset(), message.timestamp()[1], message.key(), message.value() or b"")
                    for message in messages
                    if message.error() is None
                ]
                if len(batch) < len(messages):
                    self._raise(topic, partition, span, messages)
                    # The end of what is committed: whatever offsets are left are marks of transactions.
                    at = span.end
                if batch:
                    at = max(at, batch[-1][0] + 1)
                    if at > span.end:
                        batch = [one for one in batch if one[0] < span.end]
                    yield batch
        finally:
            self._consumer.unassign()

    def _raise(self, topic: str, partition: int, span: Range, messages: Sequence[Any]) -> None:
        for message in messages:
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                continue
            if error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise BoundedReadError(f"{topic}/{partition}: offset {span.first} has aged out: {error.str()}")
            raise BoundedReadError(f"{topic}/{partition}: {error.str()}")
