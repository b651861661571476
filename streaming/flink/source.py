"""Records of Kafka topics with their coordinates, keyed by user: one stream of (tag, key, value, partition, offset).

The Table API's source is the only one that hands key, partition, offset and timestamp to Python. The watermark follows
the records' timestamps per partition, heartbeats included; these are then filtered out, before Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pyflink.common.typeinfo import TypeInformation, Types
from pyflink.datastream import DataStream, KeyedStream
from pyflink.table import StreamTableEnvironment

from schemas.topics import HEARTBEAT_KEY, Topic
from streaming.flink.internals import keyed_by_first_field, set_source_uids
from streaming.sections import AlignedWatermarkSection, KafkaSection, WatermarkSection

#: Records without a user's key go here, to be refused by the process function; users count from 1.
NO_USER: Final = 0
_ALIGNED_EVERY_MS: Final = 50
#: A consumer hands out one partition after the other, as much of each as it fetched at once: by default a megabyte,
#: which may be hours of a topic. And what is on its way when a partition is stopped is a few polls.
_IN_STEP: Final = {"max.partition.fetch.bytes": str(64 << 10), "max.poll.records": "100"}
_MS_PER_DAY: Final = 86_400_000


def record_type() -> TypeInformation:
    """ROW(tag, key, value, partition, offset): a record behind the exchange; tag is the topic's place."""
    return Types.ROW(
        [
            Types.INT(),
            Types.PRIMITIVE_ARRAY(Types.BYTE()),
            Types.PRIMITIVE_ARRAY(Types.BYTE()),
            Types.INT(),
            Types.LONG(),
        ]
    )


def keyed_records(
    tables: StreamTableEnvironment, topics: tuple[Topic, ...], kafka: KafkaSection, watermark: WatermarkSection
) -> KeyedStream:
    """The records of the topics as one stream keyed by user, each with its topic's place in `topics` as tag.

    The stream's timestamps are the records'. A record whose key is null or no number comes under `NO_USER`.
    """
    for topic in topics:
        tables.execute_sql(_source_ddl(topic, kafka, watermark))
    query = " UNION ALL ".join(_select(place, topic) for place, topic in enumerate(topics))
    records: DataStream = tables.to_data_stream(tables.sql_query(query))
    set_source_uids(records, {_table(topic): f"from-{topic.name}" for topic in topics})
    return keyed_by_first_field(records, record_type())


def _table(topic: Topic) -> str:
    return topic.name.replace(".", "_")


def _select(place: int, topic: Topic) -> str:
    # DECODE never fails: bytes that are no text become replacement characters, hence no number and no heartbeat.
    text = "DECODE(k, 'UTF-8')"
    return (
        f"SELECT COALESCE(TRY_CAST({text} AS BIGINT), CAST({NO_USER} AS BIGINT)) AS user_id,"
        f" ROW({place}, k, v, `partition`, `offset`) AS record, ts"
        f" FROM {_table(topic)} WHERE k IS NULL OR {text} <> '{HEARTBEAT_KEY.decode()}'"
    )


def _source_ddl(topic: Topic, kafka: KafkaSection, watermark: WatermarkSection) -> str:
    options = {
        "connector": "kafka",
        "topic": topic.name,
        "properties.bootstrap.servers": kafka.bootstrap,
        "properties.group.id": kafka.group_id,
        # Never silently from "earliest": a restored job whose offsets are gone would step over the hole.
        "scan.startup.mode": "group-offsets",
        "properties.auto.offset.reset": "none",
        # The number of partitions never changes within a topic's version.
        "scan.topic-partition-discovery.interval": "0",
        "key.format": "raw",
        "key.fields": "k",
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }
    if isinstance(watermark, AlignedWatermarkSection):
        options |= {f"properties.{name}": value for name, value in _IN_STEP.items()}
    options |= {f"properties.{name}": value for name, value in kafka.properties.items()}
    if watermark.idle_timeout_ms:
        options["scan.watermark.idle-timeout"] = f"{watermark.idle_timeout_ms} ms"
    if isinstance(watermark, AlignedWatermarkSection) and watermark.max_drift_ms:
        options["scan.watermark.alignment.group"] = "topics"
        options["scan.watermark.alignment.max-drift"] = f"{watermark.max_drift_ms} ms"
        # A replay may go as fast as one drift in this time.
        options["scan.watermark.alignment.update-interval"] = f"{_ALIGNED_EVERY_MS} ms"
    return (
        f"CREATE TEMPORARY TABLE {_table(topic)} ("
        " k BYTES, v BYTES,"
        " `partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL,"
        " ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,"
        f" WATERMARK FOR ts AS ts - {_interval(watermark.out_of_orderness_ms)}"
        f") WITH ({_options(options)})"
    )


def _interval(duration_ms: int) -> str:
    days, rest_ms = divmod(duration_ms, _MS_PER_DAY)
    seconds, ms = divmod(rest_ms, 1_000)
    clock = f"{seconds // 3_600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}"
    return f"INTERVAL '{days} {clock}' DAY(3) TO SECOND(3)"


def _options(options: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    return ", ".join(f"{quoted(name)} = {quoted(value)}" for name, value in options.items())
