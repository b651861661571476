"""Landed requests for people and trainers: newest revision of each, as Arrow, pandas, polars or a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.history import History, decode_events
from schemas.v1.training_pb2 import TrainingExample
from scorer.landing.columns import columns_of, conform, union_schema
from scorer.landing.manifest import DataFile
from scorer.landing.objects import LakeError, Objects
from scorer.landing.parquet import STAMP_COLUMNS, batch_examples, batch_rows, file_ranges, row_stamp
from scorer.landing.resolve import build_dataset, store_resolver
from scorer.sequences.store import SequenceStore
from scorer.training.dataset import RankingDataset

#: What tells revisions of one request apart.
_KEYS: Final = ("request_id", "label_version", "partition", "offset")
_ROWS_PER_BATCH: Final = 4_096


@dataclass(frozen=True, kw_only=True)
class RequestHistories:
    """R requests and the E events that they saw; iterates over (request as a dict, its events)."""

    #: R rows, with one more column, `resolution`: "ok", or why the history cannot be had and is empty here.
    requests: Any
    #: `HISTORY_DTYPE` [E].
    events: History
    #: Events of request r: offsets[r] .. offsets[r + 1]; int64 [R + 1].
    offsets: NDArray[np.int64]

    @property
    def outcomes(self) -> Counter[str]:
        """How many requests have which resolution."""
        return Counter(self.requests.column("resolution").to_pylist())

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], History]]:
        for row, request in enumerate(self.requests.to_pylist()):
            yield request, self.events[self.offsets[row] : self.offsets[row + 1]]


class Requests:
    """The newest label version of every request in some days' files. Nothing is read before it is asked for."""

    def __init__(self, objects: Objects, files: Sequence[DataFile]) -> None:
        """
        Args:
            files: all of their days: revisions of a request have its `request_time_ms`, and so its day.
        """
        self._objects = objects
        self._files = sorted(files, key=lambda file: (file.day, file.path))

    @property
    def schema(self) -> Any:
        """Arrow's: `FIXED_SCHEMA`, and a column for each task, feature and context value that any of the files has.

        Raises:
            LakeError: a file is missing, or is not the one that was committed.
        """
        return union_schema(self._schema(file) for file in self._files)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Record batches, day by day, with one row per request.

        In memory are the ids of one day's requests and one file's row group.

        Args:
            columns: to read; all when not given.

        Raises:
            LakeError: a column that none of the files has; else see `schema`.
        """
        schema = self.schema
        if columns is not None:
            if unknown := sorted(set(columns) - set(schema.names)):
                raise LakeError(f"{self._objects.url}: no column {', '.join(unknown)}; there are {schema.names}")
            schema = pa.schema([schema.field(name) for name in columns])
        for _, of_day in groupby(self._files, key=lambda file: file.day):
            files = list(of_day)
            for file, newest in zip(files, self._newest(files), strict=True):
                yield from self._read(file, newest, schema)

    def to_arrow(self, columns: Sequence[str] | None = None) -> Any:
        """A `pyarrow.Table`. Arguments and errors as of `batches`."""
        batches = list(self.batches(columns))
        schema = batches[0].schema if batches else self.schema
        return pa.Table.from_batches(batches, schema=schema)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """A pandas DataFrame; lists are numpy arrays. Arguments and errors as of `batches`."""
        return self.to_arrow(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> Any:
        """A polars DataFrame. Arguments and errors as of `batches`.

        Raises:
            ImportError: polars is not installed.
        """
        try:
            from polars import from_arrow
        except ImportError as error:
            raise ImportError("to_polars needs polars, which longrank does not bring: pip install polars") from error
        return from_arrow(self.to_arrow(columns))

    def examples(self) -> Iterator[TrainingExample]:
        """The messages as the example job wrote them. Errors as of `batches`."""
        for batch in self.batches():
            yield from batch_examples(batch)

    def with_histories(
        self, store: SequenceStore, columns: Sequence[str] | None = None, *, rows: int = 1_000
    ) -> Iterator[RequestHistories]:
        """The requests in parts, with the very events that each was served with.

        Args:
            store: has followed the topics to where the stamps are; see `follow_to_end`.
            columns: of the requests, beside their user and stamp; all when not given.
            rows: requests in a part; a full history has 410 kB.

        Raises:
            StoreError: the store does not have a user's partition. Else as of `batches`.
        """
        resolve = store_resolver(store)
        if columns is not None:
            columns = list(dict.fromkeys([*columns, "user_id", *STAMP_COLUMNS]))
        for whole in self.batches(columns):
            for begin in range(0, len(whole), rows):
                part = whole.slice(begin, rows)
                stamps = batch_rows(part.select(["user_id", *STAMP_COLUMNS]))
                found = [resolve(row["user_id"], row_stamp(row)) for row in stamps]
                events = decode_events(b"".join(served for served in found if isinstance(served, bytes)))
                words = [served if isinstance(served, str) else "ok" for served in found]
                lengths = part.column("history_length").to_numpy() * np.array([word == "ok" for word in words])
                yield RequestHistories(
                    requests=pa.RecordBatch.from_arrays(
                        [*part.columns, pa.array(words, pa.string())],
                        schema=part.schema.append(pa.field("resolution", pa.string())),
                    ),
                    events=events,
                    offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
                )

    def dataset(
        self, store: SequenceStore, tasks: Sequence[str], *, max_unresolved: float = 0.0
    ) -> tuple[RankingDataset, Counter[str]]:
        """What the trainer takes, whole in memory, and the outcomes of the stamps.

        Arguments and errors as of `build_dataset` and `batches`.
        """
        return build_dataset(list(self.examples()), store_resolver(store), tasks, max_unresolved=max_unresolved)

    def _schema(self, file: DataFile) -> Any:
        with self._open(file) as opened:
            schema = pq.read_schema(opened)
        if file_ranges(schema) != file.ranges:
            raise LakeError(
                f"{self._objects.url}/{file.path}: its metadata do not name the offsets that the manifest names; "
                "it was replaced by another file"
            )
        return schema

    def _newest(self, files: Sequence[DataFile]) -> list[NDArray[np.bool_]]:
        """Of one day's files: which rows are their requests' newest, [rows] each; of equal ones the first landed."""
        tables = []
        for file in files:
            with self._open(file) as opened:
                tables.append(pq.read_table(opened, columns=list(_KEYS)).replace_schema_metadata())
        # A day's ids can exceed the 2 GB that plain strings address.
        keys = pa.concat_tables(tables)
        keys = keys.set_column(0, "request_id", keys["request_id"].cast(pa.large_string()))
        order = pc.sort_indices(
            keys,
            sort_keys=[
                ("request_id", "ascending"),
                ("label_version", "descending"),
                ("partition", "ascending"),
                ("offset", "ascending"),
            ],
        )
        ids = keys["request_id"].take(order)
        newest = np.ones(len(ids), dtype=bool)
        if len(ids):
            newest[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
        kept = np.zeros(len(ids), dtype=bool)
        kept[order.to_numpy()[newest]] = True
        return np.split(kept, np.cumsum([len(table) for table in tables])[:-1])

    def _read(self, file: DataFile, newest: NDArray[np.bool_], schema: Any) -> Iterator[Any]:
        with self._open(file) as opened:
            parquet = pq.ParquetFile(opened)
            at = 0
            for batch in parquet.iter_batches(_ROWS_PER_BATCH, columns=_held(parquet.schema_arrow, schema)):
                kept = batch.filter(pa.array(newest[at : at + len(batch)]))
                at += len(batch)
                if len(kept):
                    yield conform(kept, schema)

    def _open(self, file: DataFile) -> Any:
        try:
            return self._objects.open(file.path)
        except FileNotFoundError as error:
            raise LakeError(
                f"{self._objects.url}/{file.path} is not there; after a compaction ask the lake for the requests again"
            ) from error


def _held(file_schema: Any, schema: Any) -> list[str]:
    """Which of the file's columns to read for `schema`."""
    wanted = columns_of(schema)
    others = columns_of(file_schema)
    fixed = set(schema.names) - set(wanted.values())
    return [name for name in file_schema.names if name in fixed] + [
        name for column, name in others.items() if column in wanted
    ]
