"""Histories out of a Parquet file or directory, a shard of the users at a time.

Columns: `user_id`, `item_id`, `event_time_ms`; optional `group_id`, `action`, `surface`, `watch_ms`, `duration_ms`,
`event_id` (16 bytes). Others are ignored. A null in an optional column is an absent field. A user's events are in the
order of `arrival_time_ms` where there is such a column, and in the file's order among equals and without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.seed.errors import SeedError
from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH, HISTORY_DTYPE, History
from streaming.sequence.state import EVENT_ID_BYTES

_REQUIRED: Final = ("user_id", "item_id", "event_time_ms")
_OPTIONAL: Final = {
    "group_id": HAS_GROUP,
    "surface": HAS_SURFACE,
    "watch_ms": HAS_WATCH,
    "duration_ms": HAS_DURATION,
}
_ACTION: Final = "action"
_ORDER: Final = "arrival_time_ms"
_EVENT_ID: Final = "event_id"


class UserHistory(NamedTuple):
    """One user's events [n], oldest first, and their ids, 16 bytes each; no ids when the source has none."""

    user_id: int
    rows: History
    event_ids: bytes


@dataclass(frozen=True)
class SeedSource:
    """A Parquet file or directory of files."""

    path: Path
    #: Added to user, item and group ids: 1 for a source that counts from 0, for ours begin with 1.
    id_offset: int = 0

    def check(self) -> int:
        """The number of its events.

        Raises:
            SeedError: it is not Parquet, or a column is missing or of a type that cannot be meant.
        """
        try:
            dataset = pq.ParquetDataset(self.path)
            schema, rows = dataset.schema, sum(int(fragment.metadata.num_rows) for fragment in dataset.fragments)
        except (OSError, pa.ArrowInvalid) as error:
            raise SeedError(f"{self.path}: not readable as Parquet: {error}") from error
        for name in _REQUIRED:
            if name not in schema.names:
                raise SeedError(f"{self.path}: no column {name}; it has {', '.join(schema.names)}")
        for name in (*_REQUIRED, _ACTION, *_OPTIONAL, _ORDER):
            if name in schema.names and not pa.types.is_integer(schema.field(name).type):
                raise SeedError(f"{self.path}: column {name} is {schema.field(name).type}, must be an integer")
        return rows

    def shard(self, shard: int, shards: int) -> Iterator[UserHistory]:
        """The users whose id leaves `shard` when divided by `shards`, in order of their ids.

        Raises:
            SeedError: a required value is null, an id has not 16 bytes.
        """
        names = pq.ParquetDataset(self.path).schema.names
        wanted = [name for name in (*_REQUIRED, _ACTION, *_OPTIONAL, _ORDER, _EVENT_ID) if name in names]
        table = pq.read_table(self.path, columns=wanted)
        if shards > 1:
            users = table.column("user_id").to_numpy()
            table = table.take(np.flatnonzero(users % shards == shard))
        for name in (*_REQUIRED, _ORDER):
            if name in names and table.column(name).null_count:
                raise SeedError(f"{self.path}: column {name} has nulls")
        users = table.column("user_id").to_numpy() + self.id_offset
        by = (table.column(_ORDER).to_numpy(), users) if _ORDER in names else (users,)
        order = np.lexsort(by)
        rows, users = self._rows(table)[order], users[order]
        ids = self._event_ids(table)[order] if _EVENT_ID in names else None
        _, starts = np.unique(users, return_index=True)
        for begin, end in pairwise([*starts.tolist(), len(users)]):
            named = ids[begin:end].tobytes() if ids is not None else b""
            yield UserHistory(int(users[begin]), rows[begin:end], named)

    def _rows(self, table: pa.Table) -> History:
        rows = np.zeros(table.num_rows, dtype=HISTORY_DTYPE)
        rows["item_id"] = _integers(table, "item_id") + self.id_offset
        rows["event_time_ms"] = _integers(table, "event_time_ms")
        if _ACTION in table.column_names:
            rows["action"] = _integers(table, _ACTION)
        for name, bit in _OPTIONAL.items():
            if name in table.column_names:
                present = pc.is_valid(table.column(name)).to_numpy(zero_copy_only=False)
                offset = self.id_offset if name == "group_id" else 0
                rows[name] = np.where(present, _integers(table, name) + offset, 0)
                rows["fields"] |= np.where(present, bit, 0).astype(np.uint8)
        return rows

    def _event_ids(self, table: pa.Table) -> NDArray[Any]:
        column = table.column(_EVENT_ID)
        lengths = pc.binary_length(column).fill_null(0).to_numpy()
        if (lengths != EVENT_ID_BYTES).any():
            raise SeedError(
                f"{self.path}: an event_id has {int(lengths[lengths != EVENT_ID_BYTES][0])} bytes, not {EVENT_ID_BYTES}"
            )
        return np.frombuffer(b"".join(column.to_pylist()), dtype=f"V{EVENT_ID_BYTES}")


def _integers(table: pa.Table, name: str) -> NDArray[Any]:
    values: NDArray[Any] = table.column(name).fill_null(0).to_numpy().astype(np.int64)
    return values
