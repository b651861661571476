"""Examples as Arrow tables and Parquet bytes, and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError

from schemas.v1.ranking_pb2 import Candidates, FeatureColumn, Stamp
from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from scorer.landing.columns import (
    FIXED_SCHEMA,
    Column,
    call,
    changed_column,
    columns_of,
    label_column,
    weight_column,
)
from scorer.landing.manifest import Ranges, read_ranges
from scorer.landing.objects import LakeError

if TYPE_CHECKING:
    # The lake is read on machines that have no Kafka client.
    from scorer.landing.bounded import Landed

_RANGES: Final = b"longrank.ranges"
_MS_PER_DAY: Final = 86_400_000
#: Of one row group in memory: what a reader holds at a time.
_ROW_GROUP_BYTES: Final = 64 << 20


def examples_table(records: Sequence[Landed]) -> Any:
    """One row per record, in order of request time, partition and offset.

    All fields of the messages but the retired `produced_at_ms`, and the record's coordinates.

    Raises:
        LakeError: a record is no example, with its coordinates.
    """
    fixed: dict[str, list[Any]] = {name: [] for name in FIXED_SCHEMA.names}
    others: dict[Column, list[Any]] = {}
    for row, record in enumerate(records):
        try:
            example = TrainingExample.FromString(record.value)
            _add_fixed(fixed, example, record)
            for column, value in _other_values(example):
                if column not in others:
                    others[column] = [None] * len(records)
                values = others[column]
                if values[row] is not None:
                    raise ValueError(f"{column.kind} {column.name} stands twice")
                values[row] = value
        except (DecodeError, ValueError) as error:
            raise LakeError(f"{record.topic}/{record.partition}/{record.offset}: not an example: {error}") from error
    called = call(others)
    fields = [*FIXED_SCHEMA, *(column.field(name) for column, name in called.items())]
    columns = [*fixed.values(), *(others[column] for column in called)]
    arrays = [_array(values, field.type) for values, field in zip(columns, fields, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    return sorted_table(table)


def sorted_table(table: Any) -> Any:
    """In order of request time, partition and offset: the same rows make the same file."""
    return table.sort_by([("request_time", "ascending"), ("partition", "ascending"), ("offset", "ascending")])


def split_by_day(table: Any) -> Iterator[tuple[str, Any]]:
    """(yyyy-mm-dd, rows) for each UTC day of a sorted table; without the columns of tasks and features that only other
    days have."""
    days = table["request_time"].to_numpy().astype("datetime64[ms]").astype(np.int64) // _MS_PER_DAY
    for day, begin, count in zip(*np.unique(days, return_index=True, return_counts=True), strict=True):
        rows = table.slice(begin, count)
        absent = [name for name in columns_of(table.schema).values() if rows[name].null_count == len(rows)]
        yield str(np.datetime64(int(day), "D")), rows.drop_columns(absent)


def parquet_bytes(table: Any, ranges: Ranges) -> bytes:
    """A file; its key-value metadata say which offsets were read for it."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({_RANGES: json.dumps(ranges)})
    rows = max(1, _ROW_GROUP_BYTES * len(table) // max(1, table.nbytes))
    pq.write_table(table, sink, compression="zstd", row_group_size=rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def file_ranges(schema: Any) -> Mapping[int, Sequence[tuple[int, int]]] | None:
    """The offsets in a file's metadata; None: the file is not ours."""
    held = (schema.metadata or {}).get(_RANGES)
    return None if held is None else read_ranges(json.loads(held))


def batch_examples(batch: Any) -> Iterator[TrainingExample]:
    """The messages of a record batch again; tasks and features in the order of the columns."""
    others = columns_of(batch.schema)
    for row in batch_rows(batch):
        example = TrainingExample(
            schema_version=row["schema_version"],
            request_id=row["request_id"],
            response_id=row["response_id"],
            user_id=row["user_id"],
            request_time_ms=row["request_time"],
            label_version=row["label_version"],
            targets=Candidates(item_id=row["item_id"], group_id=row["group_id"]),
            position=row["position"],
            stamp=row_stamp(row),
            superseded_responses=row["superseded_responses"],
            caused_by=row["caused_by"],
        )
        for column, called in others.items():
            value = row[called]
            if value is None:
                continue
            if column.kind == "label":
                example.labels.append(
                    TaskLabels(
                        task=column.name,
                        labels=value,
                        weight=row[others[weight_column(column.name)]],
                        changed_targets=np.frombuffer(row[others[changed_column(column.name)]], "<u4").tolist(),
                    )
                )
            elif column.kind == "feature":
                example.targets.features.append(FeatureColumn(name=column.name, **{column.number: value}))
            elif column.kind == "context":
                packed = np.array([value], np.dtype(column.number).newbyteorder("<")).tobytes()
                example.context.append(FeatureColumn(name=column.name, **{column.number: packed}))
        yield example


def row_stamp(row: Mapping[str, Any]) -> Stamp:
    """The stamp of a row, a dict by column."""
    return Stamp(
        epoch=row["epoch"],
        first_seq_no=row["first_seq_no"],
        seq_no=row["seq_no"],
        length=row["history_length"],
        digest_version=row["digest_version"],
        digest=row["digest"],
        model_version=row["model_version"],
    )


STAMP_COLUMNS: Final = (
    "epoch",
    "first_seq_no",
    "seq_no",
    "history_length",
    "digest_version",
    "digest",
    "model_version",
)


def _add_fixed(fixed: Mapping[str, list[Any]], example: TrainingExample, record: Landed) -> None:
    """Lists of numbers as bytes, None for null."""
    stamp = example.stamp
    values = (
        example.request_id,
        example.response_id,
        example.user_id,
        example.request_time_ms,
        example.label_version,
        _whole(example.targets.item_id, 8, "item_id"),
        _whole(example.targets.group_id, 8, "group_id") or None,
        _whole(example.position, 2, "position") or None,
        stamp.epoch,
        stamp.first_seq_no,
        stamp.seq_no,
        stamp.length,
        stamp.digest_version,
        stamp.digest,
        stamp.model_version,
        example.superseded_responses,
        list(example.caused_by),
        example.schema_version,
        record.partition,
        record.offset,
        record.timestamp_ms,
    )
    for column, value in zip(fixed.values(), values, strict=True):
        column.append(value)


def _other_values(example: TrainingExample) -> Iterator[tuple[Column, Any]]:
    for labels in example.labels:
        yield label_column(labels.task), labels.labels
        yield weight_column(labels.task), labels.weight
        yield changed_column(labels.task), np.array(labels.changed_targets, "<u4").tobytes()
    for feature in example.targets.features:
        content, number = _typed(feature)
        yield Column("feature", feature.name, number), content
    for feature in example.context:
        content, number = _typed(feature)
        (value,) = np.frombuffer(content, np.dtype(number).newbyteorder("<")).tolist()
        yield Column("context", feature.name, number), value


def _typed(feature: FeatureColumn) -> tuple[bytes, str]:
    if feature.float32:
        return _whole(feature.float32, 4, feature.name), "float32"
    return _whole(feature.int64, 8, feature.name), "int64"


def _whole(content: bytes, width: int, name: str) -> bytes:
    if len(content) % width:
        raise ValueError(f"{name} has {len(content)} bytes, not a multiple of {width}")
    return content


def _array(values: Sequence[Any], of: Any) -> Any:
    """An Arrow array; lists of numbers come as their bytes, which are joined and never parsed."""
    if not _is_packed(of):
        return pa.array(values, of)
    dtype = np.dtype(of.value_type.to_pandas_dtype()).newbyteorder("<")
    sizes = [len(value) // dtype.itemsize if value else 0 for value in values]
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int32)
    content = np.frombuffer(b"".join(value for value in values if value), dtype)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(content, of.value_type),
        type=of,
        mask=pa.array([value is None for value in values], pa.bool_()),
    )


def batch_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """Rows by column, as the messages have the values: times as ms, lists of numbers as their bytes."""
    for values in zip(*(_values(column) for column in batch.columns), strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))


def _values(array: Any) -> Sequence[Any]:
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    if not _is_packed(array.type):
        values: list[Any] = array.to_pylist()
        return values
    numbers = array.flatten().to_numpy()
    content = memoryview(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes())
    ends = np.cumsum(array.value_lengths().fill_null(0).to_numpy()) * numbers.itemsize
    begins = [0, *ends.tolist()]
    there = array.is_valid().to_pylist()
    return [bytes(content[begins[row] : begins[row + 1]]) if known else None for row, known in enumerate(there)]


def _is_packed(of: Any) -> bool:
    """A list of numbers, which the messages have as bytes."""
    return pa.types.is_list(of) and not pa.types.is_binary(of.value_type)
