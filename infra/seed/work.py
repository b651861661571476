"""Packing in parallel processes into a directory of shard files, so that an interrupted run goes on where it was.

A shard file is a sequence of `<Q user_id><I bytes><SEED record>`; it appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Self

from infra.seed.errors import SeedError
from infra.seed.pack import seed_records
from infra.seed.parquet import SeedSource
from infra.seed.publish import Span
from schemas.limits import Limits
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Rejected
from schemas.topics import PARTITIONS
from streaming.sequence.accept import accept_event
from streaming.sequence.state import EVENT_ID_BYTES

_FRAME: Final = struct.Struct("<QI")
_MANIFEST: Final = "seed.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is packed, and how; a directory belongs to one plan."""

    source: str
    #: Size and time of change of the source, so that another file under the same name is noticed.
    fingerprint: str
    shards: int
    #: See `SeedSource`.
    id_offset: int
    #: Newest events of a user that are sent.
    max_events: int
    #: Ids of a user's newest events that are sent.
    window_events: int
    #: The records' event time and timestamp, ms UTC.
    now_ms: int

    @classmethod
    def of(cls, source: Path, *, shards: int, id_offset: int, max_events: int, window_events: int, now_ms: int) -> Self:
        """The plan for a source as it is now."""
        files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return cls(
            source=str(source.resolve()),
            fingerprint=json.dumps(stats),
            shards=shards,
            id_offset=id_offset,
            max_events=max_events,
            window_events=window_events,
            now_ms=now_ms,
        )


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What a shard holds."""

    shard: int
    users: int = 0
    events: int = 0
    #: Older events that were left out.
    cut: int = 0
    records: int = 0
    bytes: int = 0


class WorkDirectory:
    """The shard files of one plan.

    Raises:
        SeedError: the directory belongs to another plan.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        manifest = path / _MANIFEST
        if manifest.exists():
            known = Plan(**json.loads(manifest.read_text()))
            # A run that goes on keeps the time of its beginning: its records stay the same to the byte.
            wanted = Plan(**(asdict(plan) | {"now_ms": known.now_ms}))
            if known != wanted:
                raise SeedError(f"{path} was begun for {known}; give another --work for {wanted}, or delete it")
            plan = known
        else:
            _write_whole(manifest, json.dumps(asdict(plan)).encode())
        self.plan = plan

    def pack(self, limits: Limits, processes: int, on_shard: Callable[[Packed], None]) -> list[Packed]:
        """Pack every shard that is not there yet.

        Raises:
            SeedError: a history is not acceptable; what was packed before stays.
        """
        done: list[Packed] = []
        context = get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            futures = {
                pool.submit(pack_shard, self.path, self.plan, shard, limits)
                for shard in range(self.plan.shards)
                if self._summary(shard) is None
            }
            for shard in range(self.plan.shards):
                if (known := self._summary(shard)) is not None:
                    done.append(known)
                    on_shard(known)
            try:
                for future in as_completed(futures):
                    done.append(future.result())
                    on_shard(done[-1])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return done

    def records(self, shard: int) -> Iterator[tuple[int, bytes]]:
        """(user_id, SEED record) of a packed shard, parts in order."""
        with shard_file(self.path, shard).open("rb") as file:
            while head := file.read(_FRAME.size):
                user_id, length = _FRAME.unpack(head)
                yield user_id, file.read(length)

    def mark_published(self, shard: int, places: Mapping[int, Span]) -> None:
        """Every record of the shard is acknowledged; `places`: partition -> where they are."""
        _write_whole(self.path / f"{shard:05d}.published", json.dumps(places).encode())

    def published(self, shard: int) -> dict[int, Span] | None:
        """partition -> where the shard's records are; None: it is not published."""
        path = self.path / f"{shard:05d}.published"
        return {int(p): Span(*span) for p, span in json.loads(path.read_text()).items()} if path.exists() else None

    def _summary(self, shard: int) -> Packed | None:
        path = self.path / f"{shard:05d}.json"
        return Packed(**json.loads(path.read_text())) if path.exists() else None


def shard_file(directory: Path, shard: int) -> Path:
    """Where a shard's records are."""
    return directory / f"{shard:05d}.seeds"


def pack_shard(directory: Path, plan: Plan, shard: int, limits: Limits) -> Packed:
    """Pack one shard into its file. Raises SeedError, see `WorkDirectory.pack`."""
    users = events = cut = records = written = 0
    path = shard_file(directory, shard)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        for user_id, rows, ids in SeedSource(Path(plan.source), plan.id_offset).shard(shard, plan.shards):
            kept, named = rows[-plan.max_events :], ids[-plan.window_events * EVENT_ID_BYTES :]
            for record in _checked(user_id, kept, named, plan, limits):
                file.write(_FRAME.pack(user_id, len(record)) + record)
                records, written = records + 1, written + len(record)
            users, events, cut = users + 1, events + len(kept), cut + len(rows) - len(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    packed = Packed(shard=shard, users=users, events=events, cut=cut, records=records, bytes=written)
    _write_whole(directory / f"{shard:05d}.json", json.dumps(asdict(packed)).encode())
    return packed


def _checked(user_id: int, rows: Any, ids: bytes, plan: Plan, limits: Limits) -> list[bytes]:
    """The user's records, each of which the job will accept."""
    if user_id < 1:
        raise SeedError(f"{plan.source}: user_id {user_id} is below 1")
    key = user_key(user_id)
    try:
        records = seed_records(user_id, rows, ids, plan.now_ms, limits)
        for record in records:
            accept_event(key, record, partition_of(key, PARTITIONS), plan.now_ms, limits)
    except (Rejected, ValueError) as error:
        raise SeedError(f"{plan.source}: user {user_id}: {error}") from error
    return records


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_bytes(content)
    temporary.replace(path)
