"""One partition's histories in RocksDB: data and the offsets they came from in one atomic write.

Column families: default (the position), heads, chunks. One process at a time writes a partition; others look with
`PartitionStore.open_beside`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
)

from schemas.reasons import Rejected
from schemas.topics import SNAPSHOTS, UPDATES
from schemas.v1.ranking_pb2 import Stamp
from scorer.sequences.layout import user_of_key
from scorer.sequences.pending import PendingRows, StoredRows, Write
from scorer.sequences.reads import Resolved, ServedHistory, read_as_of, read_history, read_tail, resolve_stamp
from scorer.sequences.records import StoreRecord, parse_snapshot, parse_update
from scorer.sequences.transition import ChunkDigests, Transition, Verdict

_HEADS: Final = "heads"
_CHUNKS: Final = "chunks"
_META_KEY: Final = b"position"


class StoreError(Exception):
    """The store cannot be used as asked; the message says where and what to do."""


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What is kept, and with which memory. Sizes in bytes, of one partition."""

    #: Newest events that serve.
    capacity: int = 10_000
    #: Events kept beyond them, so that yesterday's stamp still resolves.
    as_of_events: int = 4_000
    block_cache_bytes: int = 32 << 20
    write_buffer_bytes: int = 16 << 20


@dataclass(frozen=True)
class Position:
    """What a partition's data came from: topic -> next offset to read, and the identity of each topic."""

    offsets: Mapping[str, int]
    #: topic -> Kafka's topic id; a recreated topic has another.
    topic_ids: Mapping[str, str]


@dataclass(frozen=True)
class Refused:
    """A record that was not applied because it is not what the job writes."""

    record: StoreRecord
    rejected: Rejected


@dataclass
class Applied:
    """What a batch did."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)


def _options(settings: StoreSettings, *, for_chunks: bool) -> Options:
    """Of one column family; RocksDB falls back to an 8 MB cache and no filter where they are not passed at an open."""
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(Cache(settings.block_cache_bytes))
    # A block of several chunks: rows of 41 bytes compress against each other.
    table.set_block_size(64 << 10 if for_chunks else 8 << 10)
    table.set_cache_index_and_filter_blocks(True)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(settings.write_buffer_bytes if for_chunks else settings.write_buffer_bytes // 4)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_bottommost_compression_type(DBCompressionType.zstd())
    return options


def _database_options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_keep_log_file_num(2)
    options.set_max_background_jobs(2)
    # Data of both families and the position share one log, and the log is the truth until a flush: a killed process
    # reopens at its last whole batch.
    options.set_max_total_wal_size(64 << 20)
    return options


class PartitionStore:
    """One partition's database."""

    def __init__(self, database: Any, path: Path, partition: int, settings: StoreSettings) -> None:
        """Use `open` or `open_beside`."""
        self.path, self.partition = path, partition
        self._settings, self._database = settings, database
        self._heads, self._chunks = database.get_column_family(_HEADS), database.get_column_family(_CHUNKS)
        self._heads_handle: Any = database.get_column_family_handle(_HEADS)
        self._chunks_handle: Any = database.get_column_family_handle(_CHUNKS)
        self._rows = StoredRows(self._read(self._heads), self._read(self._chunks))
        self._transition = Transition(settings.capacity + settings.as_of_events, ChunkDigests())

    @classmethod
    def open(cls, path: Path, partition: int, settings: StoreSettings) -> Self:
        """Open for writing, made if it is not there.

        Raises:
            StoreError: another process has it, or it is damaged.
        """
        return cls._open(path, partition, settings, AccessType.read_write())

    @classmethod
    def open_beside(cls, path: Path, partition: int, settings: StoreSettings, scratch: Path) -> Self:
        """Open for reading while another process writes: what that process had written at this moment.

        Args:
            scratch: an empty directory of this reader's own.

        Raises:
            StoreError: there is no store, or it is damaged.
        """
        if not path.is_dir():
            raise StoreError(f"{path}: no store there")
        return cls._open(path, partition, settings, AccessType.secondary(str(scratch)))

    @classmethod
    def _open(cls, path: Path, partition: int, settings: StoreSettings, access: AccessType) -> Self:
        path.parent.mkdir(parents=True, exist_ok=True)
        families = {_HEADS: _options(settings, for_chunks=False), _CHUNKS: _options(settings, for_chunks=True)}
        try:
            database = Rdict(str(path), _database_options(), families, access)
        except Exception as error:  # rocksdict raises bare Exception with RocksDB's message
            raise StoreError(
                f"{path}: {error}. If another process serves from it, give this one a --store of its own; if it is"
                " damaged, delete it: it rebuilds from Kafka"
            ) from error
        return cls(database, path, partition, settings)

    def close(self) -> None:
        """Flush and release the lock, which lives as long as any handle does."""
        self._heads.close()
        self._chunks.close()
        self._heads_handle = self._chunks_handle = None
        self._database.close()

    def position(self) -> Position | None:
        """Where to read on; None in a new store."""
        packed = self._database.get(_META_KEY)
        if packed is None:
            return None
        stored = json.loads(packed)
        return Position(offsets=stored["offsets"], topic_ids=stored["topic_ids"])

    def apply(
        self,
        records: Iterable[StoreRecord],
        position: Position,
        on_refused: Callable[[Sequence[Refused]], None],
    ) -> Applied:
        """Takes a batch of records of both topics and the position after it, all in one atomic write.

        Args:
            on_refused: called before the write when records were refused; when it raises nothing is written, so a
                refused record is either reported or read again.

        Raises:
            LayoutError: the store is damaged.
        """
        rows, applied = PendingRows(self._rows), Applied()
        for record in records:
            try:
                applied.verdicts[self._take(rows, record)] += 1
            except Rejected as rejected:
                applied.refused.append(Refused(record, rejected))
        if applied.refused:
            on_refused(applied.refused)
        batch = WriteBatch(raw_mode=True)
        self._stage(batch, rows.header_writes(), self._heads_handle)
        self._stage(batch, rows.chunk_writes(), self._chunks_handle)
        packed = json.dumps({"offsets": dict(position.offsets), "topic_ids": dict(position.topic_ids)})
        batch.put(_META_KEY, packed.encode())
        self._database.write(batch)
        return applied

    def history(self, user_id: int, max_events: int) -> ServedHistory:
        """The newest events that serve, at most `max_events` and at most the capacity."""
        return read_history(self._rows, user_id, min(max_events, self._settings.capacity))

    def tail(self, user_id: int, after_seq_no: int) -> ServedHistory:
        """See `reads.read_tail`."""
        return read_tail(self._rows, user_id, after_seq_no)

    def as_of(self, user_id: int, seq_no: int) -> ServedHistory:
        """See `reads.read_as_of`, with the capacity as the most events."""
        return read_as_of(self._rows, user_id, seq_no, self._settings.capacity)

    def resolve(self, user_id: int, stamp: Stamp) -> Resolved:
        """See `reads.resolve_stamp`."""
        return resolve_stamp(self._rows, user_id, stamp)

    def users(self) -> Iterator[int]:
        """Every user that was ever heard of here, erased ones included, in order of their ids."""
        for key in self._heads.keys():  # noqa: SIM118 - a column family is no mapping
            yield user_of_key(key)

    def epoch(self, user_id: int) -> int:
        """The user's newest epoch, 0 for a user never heard of."""
        header = self._rows.header(user_id)
        return 0 if header is None else header.epoch

    def head_seq_no(self, user_id: int) -> int:
        """seq_no of the newest event, 0 without history."""
        header = self._rows.header(user_id)
        return 0 if header is None else header.seq_no

    def _take(self, rows: PendingRows, record: StoreRecord) -> Verdict:
        if record.topic == UPDATES.name:
            return self._transition.on_update(rows, parse_update(record))
        assert record.topic == SNAPSHOTS.name, f"{record.topic} is no topic of this store"
        return self._transition.on_snapshot(rows, parse_snapshot(record))

    @staticmethod
    def _stage(batch: WriteBatch, writes: Iterable[Write], family: Any) -> None:
        for key, value in writes:
            if value is None:
                batch.delete(key, family)
            else:
                batch.put(key, value, family)

    @staticmethod
    def _read(family: Any) -> Callable[[Sequence[bytes]], Sequence[bytes | None]]:
        def read(keys: Sequence[bytes]) -> Sequence[bytes | None]:
            # A single get costs half of a multi-get of one.
            return [family.get(keys[0])] if len(keys) == 1 else family.get(list(keys))

        return read
