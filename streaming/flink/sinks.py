"""Kafka sinks of (key, value) rows."""

from __future__ import annotations

from pyflink.common.serialization import RowFieldExtractorSchema
from pyflink.common.typeinfo import TypeInformation, Types
from pyflink.datastream import DataStream
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import KafkaRecordSerializationSchema, KafkaSink, KafkaSinkBuilder

from schemas.topics import Topic
from streaming.sections import KafkaSection, SinkSection, TransactionalSinkSection


def output_type() -> TypeInformation:
    """ROW(key, value), freshly built: a type that was used cannot be pickled with a function."""
    return Types.ROW([Types.PRIMITIVE_ARRAY(Types.BYTE()), Types.PRIMITIVE_ARRAY(Types.BYTE())])


def write(stream: DataStream, topic: Topic, kafka: KafkaSection, sink: SinkSection, uid: str) -> None:
    """Writes a stream of `output_type` rows; exactly once when `sink` has transactions, else at least once.

    The sink has its input's parallelism and so is joined to it by a forward edge: two updates of one user cannot
    overtake each other.
    """
    builder = (
        KafkaSink.builder()
        .set_bootstrap_servers(kafka.bootstrap)
        .set_record_serializer(
            KafkaRecordSerializationSchema.builder()
            .set_topic(topic.name)
            .set_key_serialization_schema(RowFieldExtractorSchema(0))
            .set_value_serialization_schema(RowFieldExtractorSchema(1))
            .build()
        )
        .set_property("acks", "all")
        .set_property("enable.idempotence", "true")
        .set_property("linger.ms", str(sink.linger_ms))
        .set_property("compression.type", sink.compression)
        .set_property("max.request.size", str(topic.max_message_bytes))
    )
    for name, value in kafka.properties.items():
        builder.set_property(name, value)
    stream.sink_to(_guarantee(builder, sink).build()).name(f"to {topic.name}").uid(uid)


def _guarantee(builder: KafkaSinkBuilder, sink: SinkSection) -> KafkaSinkBuilder:
    if isinstance(sink, TransactionalSinkSection):
        return (
            builder.set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .set_transactional_id_prefix(sink.transactional_id_prefix)
            .set_property("transaction.timeout.ms", str(sink.transaction_timeout_ms))
        )
    return builder.set_delivery_guarantee(DeliveryGuarantee.AT_LEAST_ONCE)
