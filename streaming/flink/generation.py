"""A job that starts without its state opens a new generation: with the old one it would number events a second time.

Looked up where the generations are recorded, in the newest updates and snapshots, by the client, with Flink's own Kafka
consumer and so with the job's own settings. The newest hundred of a partition, for where a generation was raised over a
restored state, only the users who came since are in it.
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
#: Of polls that bring nothing, before the topics count as unreadable.
_PATIENCE_POLLS: Final = 40
#: Of a partition.
_NEWEST_UPDATES: Final = 100


def check_generation(generation: int, environment: StreamExecutionEnvironment, kafka: KafkaSection) -> None:
    """Refuses a start without state in a generation that is not above those of the newest records.

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
    """The newest records of every partition of updates, and the newest of every partition of snapshots.

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
        begin, end = int(begins[partition]), int(ends[partition])
        consumer.seek(partition, max(begin, end - (_NEWEST_UPDATES if partition.topic() == UPDATES.name else 1)))
        if begin < end:
            due[str(partition.toString())] = end
    silent = 0
    while due:
        silent += 1
        if silent > _PATIENCE_POLLS:
            raise ConfigError(f"kafka.bootstrap: the newest records of {', '.join(sorted(due))} cannot be read")
        for record in consumer.poll(milliseconds(_POLL_MS)).iterator():
            silent = 0
            name = f"{record.topic()}-{record.partition()}"
            # The last record of a log is never compacted away.
            if int(record.offset()) + 1 >= due.get(name, 0):
                due.pop(name, None)
            if record.value() is not None:
                yield str(record.topic()), bytes(record.value())


def _last_cause(error: Py4JJavaError) -> str:
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    return str(cause.toString())
