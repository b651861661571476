"""A job that starts without its state opens a new generation: with the old one it would number events a second time.

Looked up where the generations are recorded, in the newest updates and snapshots, by the client, with Flink's own Kafka
consumer and so with the job's own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from py4j.protocol import Py4JJavaError
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

from schemas.digest import generation_of
from schemas.topics import SNAPSHOTS, UPDATES, Topic
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from streaming.config import ConfigError
from streaming.sections import KafkaSection

_RECORDED_IN: Final[tuple[tuple[Topic, type[SequenceUpdate] | type[SequenceSnapshot]], ...]] = (
    (UPDATES, SequenceUpdate),
    (SNAPSHOTS, SequenceSnapshot),
)
_SHADED: Final = "org.apache.flink.kafka.shaded.org.apache.kafka"
_POLL_MS: Final = 500
#: Of polls that bring nothing, before a newest record counts as gone.
_PATIENCE_POLLS: Final = 20


def check_generation(generation: int, environment: StreamExecutionEnvironment, kafka: KafkaSection) -> None:
    """Refuses a start without state in a generation that is not above every recorded one.

    Args:
        environment: of the client; it knows whether `flink run` was given a savepoint or checkpoint.

    Raises:
        ConfigError: see above; or the topics cannot be read.
    """
    options = get_gateway().jvm.org.apache.flink.configuration.StateRecoveryOptions
    if environment._j_stream_execution_environment.getConfiguration().get(options.SAVEPOINT_PATH):
        return
    recorded = highest_generation(newest_values(kafka))
    if recorded >= generation:
        raise ConfigError(
            f"sequence.generation: {generation} is not above {recorded}, which sequences in {UPDATES.name} and"
            f" {SNAPSHOTS.name} have, and the job starts without their state: go on from its last savepoint or"
            " checkpoint (flink run -s ...), or raise the generation (longrank rebuild first, to keep the histories);"
            " sequence.check_generation=false if something else restores the state"
        )


def highest_generation(values: Iterable[tuple[Topic, bytes]]) -> int:
    """The highest generation that records of updates and snapshots have; 0 when none does."""
    types = {topic.name: message_type for topic, message_type in _RECORDED_IN}
    highest = 0
    for topic, value in values:
        try:
            epoch = types[topic.name].FromString(value).epoch
        except DecodeError:
            # Not a sequence's: nothing is recorded by it.
            continue
        highest = max(highest, generation_of(epoch))
    return highest


def newest_values(kafka: KafkaSection) -> Iterator[tuple[Topic, bytes]]:
    """The newest record of every partition of updates and snapshots that has one.

    Raises:
        ConfigError: the topics cannot be read.
    """
    gateway = get_gateway()
    properties = gateway.jvm.java.util.Properties()
    settings = kafka.properties | {
        "bootstrap.servers": kafka.bootstrap,
        "key.deserializer": f"{_SHADED}.common.serialization.ByteArrayDeserializer",
        "value.deserializer": f"{_SHADED}.common.serialization.ByteArrayDeserializer",
        "enable.auto.commit": "false",
        "auto.offset.reset": "none",
    }
    for name, value in settings.items():
        properties.setProperty(name, value)
    shaded = gateway.jvm.org.apache.flink.kafka.shaded.org.apache.kafka
    topics = {topic.name: topic for topic, _ in _RECORDED_IN}
    try:
        consumer = shaded.clients.consumer.KafkaConsumer(properties)
    except Py4JJavaError as error:
        raise ConfigError(f"kafka.bootstrap: {kafka.bootstrap}: {_last_cause(error)}") from error
    try:
        partitions = gateway.jvm.java.util.ArrayList()
        for topic in topics.values():
            for number in range(topic.partitions):
                partitions.add(shaded.common.TopicPartition(topic.name, number))
        consumer.assign(partitions)
        for name, record in _read_newest(consumer, partitions, gateway.jvm.java.time.Duration.ofMillis):
            yield topics[name], record
    except Py4JJavaError as error:
        raise ConfigError(
            f"kafka.bootstrap: {', '.join(topics)} cannot be read at {kafka.bootstrap}: {_last_cause(error)}"
        ) from error
    finally:
        consumer.close()


def _read_newest(consumer: Any, partitions: Any, milliseconds: Callable[[int], Any]) -> Iterator[tuple[str, bytes]]:
    begins, ends = consumer.beginningOffsets(partitions), consumer.endOffsets(partitions)
    due = {}
    for partition in partitions:
        end = int(ends[partition])
        if int(begins[partition]) < end:
            consumer.seek(partition, end - 1)
            due[str(partition.toString())] = partition
        else:
            consumer.seek(partition, end)
    silent = 0
    while due and silent < _PATIENCE_POLLS:
        silent += 1
        for record in consumer.poll(milliseconds(_POLL_MS)).iterator():
            silent = 0
            partition = due.pop(f"{record.topic()}-{record.partition()}", None)
            if partition is not None and record.value() is not None:
                yield str(record.topic()), bytes(record.value())


def _last_cause(error: Py4JJavaError) -> str:
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    return str(cause.toString())
