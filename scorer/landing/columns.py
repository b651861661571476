"""The columns of landed examples: those that all have, and those of each task, feature and context value. Pure.

A task's or feature's column is known by its kind, name and type, kept in the Arrow field's metadata; what it is called
is for people: `label_touch`, `feature_age_h`. Files of different days may have different ones; readers take the union.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

_KIND: Final = b"longrank.kind"
_NAME: Final = b"longrank.name"
#: Kinds of columns with an entry for each target.
_LISTS: Final = frozenset({"label", "changed", "feature"})
_TIME: Final = pa.timestamp("ms", tz="UTC")


def list_of(number: Any) -> Any:
    """A list type as Parquet files give it back; Arrow's own calls the element otherwise and is not equal."""
    return pa.list_(pa.field("element", number))


FIXED_SCHEMA: Final = pa.schema(
    [
        ("request_id", pa.string()),
        ("response_id", pa.string()),
        ("user_id", pa.uint64()),
        ("request_time", _TIME),
        ("label_version", pa.uint32()),
        # One entry for each of the m targets, in shown order. Null: no groups known, nothing shown.
        ("item_id", list_of(pa.uint64())),
        ("group_id", list_of(pa.uint64())),
        ("position", list_of(pa.uint16())),
        # The stamp.
        ("epoch", pa.uint64()),
        ("first_seq_no", pa.uint64()),
        ("seq_no", pa.uint64()),
        ("history_length", pa.uint32()),
        ("digest_version", pa.uint32()),
        ("digest", pa.uint64()),
        ("model_version", pa.string()),
        ("superseded_responses", pa.uint32()),
        # event_id of the feedback that made the revision.
        ("caused_by", list_of(pa.binary())),
        ("schema_version", pa.uint32()),
        # The record: where it stood, and when the broker took it.
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("record_time", _TIME),
    ]
)


class Column(NamedTuple):
    """A column that some examples have and others may not."""

    #: label, weight, changed (targets whose label a revision changed), feature or context.
    kind: str
    #: The task's or the feature's.
    name: str
    #: uint8, uint32, int64 or float32. Not Arrow's type: that is slow to hash, and this is done for every value.
    number: str

    @property
    def type(self) -> Any:
        """Arrow's: a number, or a list with one for each target."""
        number = pa.from_numpy_dtype(self.number)
        return list_of(number) if self.kind in _LISTS else number

    def field(self, called: str) -> Any:
        """The Arrow field."""
        return pa.field(called, self.type, metadata={_KIND: self.kind.encode(), _NAME: self.name.encode()})


def label_column(task: str) -> Column:
    """uint8 [m], 0 or 1."""
    return Column("label", task, "uint8")


def weight_column(task: str) -> Column:
    """The task's weight in the loss; null: the example has no such task."""
    return Column("weight", task, "float32")


def changed_column(task: str) -> Column:
    """Indices of targets, at most m."""
    return Column("changed", task, "uint32")


def call(columns: Collection[Column]) -> dict[Column, str]:
    """What each is called: kind_name. A name that would stand twice (a feature that was once int64 and once float32, a
    task called "version") gets its type behind it: `feature_price:float32`."""
    taken = Counter(f"{column.kind}_{column.name}" for column in columns) + Counter(FIXED_SCHEMA.names)
    called = {}
    for column in sorted(columns):
        name = f"{column.kind}_{column.name}"
        called[column] = name if taken[name] == 1 else f"{name}:{column.number}"
    return called


def columns_of(schema: Any) -> dict[Column, str]:
    """A schema's columns beside the fixed ones, and what they are called there."""
    found = {}
    for field in schema:
        if field.metadata and _KIND in field.metadata:
            number = field.type.value_type if pa.types.is_list(field.type) else field.type
            kind, name = field.metadata[_KIND].decode(), field.metadata[_NAME].decode()
            found[Column(kind, name, np.dtype(number.to_pandas_dtype()).name)] = field.name
    return found


def union_schema(schemas: Iterable[Any]) -> Any:
    """The fixed columns and all others of the schemas, in order of their names."""
    columns = {column for schema in schemas for column in columns_of(schema)}
    return pa.schema([*FIXED_SCHEMA, *(column.field(called) for column, called in call(columns).items())])


def conform(batch: Any, schema: Any) -> Any:
    """A record batch with the columns of `schema` that it has, and nulls for the others."""
    held: dict[Any, str] = {name: name for name in batch.schema.names} | columns_of(batch.schema)
    wanted: dict[str, Any] = {name: name for name in schema.names} | {
        called: column for column, called in columns_of(schema).items()
    }
    arrays = [
        batch.column(held[wanted[field.name]]) if wanted[field.name] in held else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
