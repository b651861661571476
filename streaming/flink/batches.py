"""Records into Python many at a time, and out of it.

A crossing between Java and Python costs more than an event's whole work behind it, and after each crossing the
interpreter starts with cold caches: the same code takes four times as long as in a loop. So a small Java operator in
front of the process function joins a subtask's records into one byte array, and another one behind it takes the byte
array of its outputs apart. A batch ends when it is full, when its first record has waited long enough, before a
watermark and before a checkpoint's barrier: nothing is ever between two operators when their state is taken.

What leaves a batch has its first record's timestamp; the topics that the jobs write stamp what is appended anyway.

Both operators are source text (`java/*.java`) that Flink compiles with the compiler of its own SQL operators, so there
is no jar to build or to ship.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Final, TypeAlias

from pyflink.common.typeinfo import TypeInformation, Types
from pyflink.datastream import DataStream, KeyedStream

from streaming.flink.internals import generated_operator, keyed_where_it_is
from streaming.flink.sinks import output_type
from streaming.sections import BatchSection

#: Of a record: tag, bytes of key and value (-1: null), partition, offset, timestamp; then key and value.
RECORD_HEAD: Final = struct.Struct(">iiiiqq")
#: A batch of so many bytes is a watermark: one with records is longer.
WATERMARK_BYTES: Final = 8
#: Of a row: bytes of key and value; then these.
ROW_HEAD: Final = struct.Struct(">ii")


#: Tag, key, value, partition and offset as in `source.record_type`, and the timestamp in ms. (A class of its own would
#: cost as much as the splitting.)
BatchedRecord: TypeAlias = tuple[int, bytes | None, bytes | None, int, int, int]


def batch_type() -> TypeInformation:
    """A batch as the process function is handed it and as it emits it; built afresh at every use."""
    return Types.PRIMITIVE_ARRAY(Types.BYTE())


def in_batches(records: KeyedStream, batch: BatchSection, uid: str, *, tell_watermarks: bool = False) -> KeyedStream:
    """A stream of `source.keyed_records` with its records in batches, each of one subtask and under its first record's
    key: the process function has to set the key of the others itself (`internals.KeySwitch`).

    An empty batch comes before the state is saved.

    Args:
        tell_watermarks: each comes as a batch of its own (`told_watermark`), after the timers that it made due.
    """
    batches = generated_operator(
        records,
        "Batch",
        _source("Batch"),
        [batch.max_records, batch.max_bytes, batch.max_delay_ms, int(tell_watermarks)],
        Types.ROW([Types.LONG(), batch_type()]),
        uid,
    )
    return keyed_where_it_is(batches, batch_type())


def rows_of_batches(batches: DataStream, uid: str) -> DataStream:
    """The rows, of `sinks.output_type`, of a stream of `join_rows`' batches."""
    return generated_operator(batches, "Unbatch", _source("Unbatch"), [], output_type(), uid)


def told_watermark(batch: bytes) -> int | None:
    """The watermark that a batch tells, ms; None: it has records."""
    return int.from_bytes(batch, "big", signed=True) if len(batch) == WATERMARK_BYTES else None


def split_records(batch: bytes) -> Iterator[BatchedRecord]:
    """The records of a batch, in the order in which they came."""
    at, end = 0, len(batch)
    while at < end:
        tag, key_bytes, value_bytes, partition, offset, timestamp_ms = RECORD_HEAD.unpack_from(batch, at)
        at += RECORD_HEAD.size
        key = value = None
        if key_bytes >= 0:
            key = batch[at : at + key_bytes]
            at += key_bytes
        if value_bytes >= 0:
            value = batch[at : at + value_bytes]
            at += value_bytes
        yield tag, key, value, partition, offset, timestamp_ms


def join_rows(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A batch of (key, value) rows."""
    parts: list[bytes] = []
    for key, value in rows:
        parts += ROW_HEAD.pack(len(key), len(value)), key, value
    return b"".join(parts)


def _source(name: str) -> str:
    return files("streaming.flink").joinpath("java", f"{name}.java").read_text()
