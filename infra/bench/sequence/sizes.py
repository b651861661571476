"""Bytes of a user in RocksDB, in snapshots and deltas; of a checkpoint against the events since the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from statistics import mean
from typing import Any, Final

from infra.bench.sequence.produce import prepare
from infra.bench.sequence.session import NO_CHECKPOINTS, SEQUENCE_JOB, Session, Watch
from infra.bench.sequence.workload import Record
from schemas.topics import EVENTS, SNAPSHOTS, UPDATES
from schemas.v1.sequence_pb2 import SequenceSnapshot
from scorer.landing.bounded import Landed, read_bounded

#: Events between one checkpoint and the next.
STEPS: Final = (1_000, 10_000, 100_000)


def measure(
    running: Session,
    settings: Sequence[str],
    records: Iterator[Record],
    base_events: int,
    users: int,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """The figures, of a job that has seen `base_events` of `records`, which belong to at most `users`.

    The records' users have equal shares in every part, so that a checkpoint after n events has n events' changes.
    """
    figures: dict[str, Any] = {"checkpoints": []}
    before = running.ends(UPDATES), running.ends(SNAPSHOTS)
    job_id = running.start(SEQUENCE_JOB, [*settings, NO_CHECKPOINTS], begin=running.ends(EVENTS))
    try:
        for events in (base_events, *STEPS):
            with Watch(running, UPDATES) as watch:
                written = prepare(running.bootstrap, EVENTS.name, islice(records, events), lambda _: None)
                watch.until(sum(written), lambda: running.flink.why(job_id))
            checkpoint = running.flink.checkpoint(job_id)
            tell(f"  checkpoint after {events:,} events: {checkpoint.new_bytes:,} bytes, {checkpoint.seconds:.2f} s")
            if events == base_events:
                figures["rocksdb_bytes_per_user"] = checkpoint.state_bytes / users
                figures["rocksdb_bytes_per_event"] = checkpoint.state_bytes / events
            figures["checkpoints"].append(
                {"events": events, "new_bytes": checkpoint.new_bytes, "seconds": checkpoint.seconds}
            )
    finally:
        running.flink.cancel(job_id)
    return figures | _records(running, *before)


def _records(running: Session, updates: Mapping[int, int], snapshots: Mapping[int, int]) -> dict[str, float]:
    deltas = [_size(record) for record in read_bounded(running.bootstrap, UPDATES.name, updates)]
    newest: dict[int, tuple[int, int]] = {}
    for record in read_bounded(running.bootstrap, SNAPSHOTS.name, snapshots):
        snapshot = SequenceSnapshot.FromString(record.value)
        held = snapshot.seq_no - snapshot.first_seq_no + 1
        newest[snapshot.user_id] = _size(record), held
    long = [(size, held) for size, held in newest.values() if held >= 1_000]
    figures = {
        "delta_bytes": mean(deltas),
        "snapshot_bytes_per_user": mean(size for size, _ in newest.values()),
    }
    if long:
        figures["snapshot_bytes_per_event_of_long_users"] = sum(s for s, _ in long) / sum(h for _, h in long)
    return figures


def _size(record: Landed) -> int:
    return len(record.key or b"") + len(record.value)
