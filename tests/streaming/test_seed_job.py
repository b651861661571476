"""Seeding the running job: seeded before, between and beside live events, the histories are those of feeding all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from job_runner import JobRunner

from infra.cli import main
from infra.demo.loop import SEQUENCE_CONFIG
from infra.seed.publish import EventPublisher, Span, wait_applied
from schemas.history import HISTORY_DTYPE, encode_event
from schemas.packing import unpack_history
from schemas.topics import SNAPSHOTS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from scorer.landing.bounded import read_bounded

pytestmark = pytest.mark.cluster

START_MS = 1_700_000_000_000
USERS, SEEDED, LIVE = 30, 400, 60


def event(number: int) -> BehaviourEvent:
    return BehaviourEvent(
        schema_version=1,
        user_id=number % USERS + 1,
        event_id=(number + 1).to_bytes(16, "big"),
        event_time_ms=START_MS + number,
        interaction=Interaction(item_id=number % 37 + 1, action=1, group_id=number % 5 + 1),
    )


def source(path: Path, events: list[BehaviourEvent]) -> Path:
    columns = {
        "user_id": [e.user_id for e in events],
        "item_id": [e.interaction.item_id for e in events],
        "action": [e.interaction.action for e in events],
        "group_id": [e.interaction.group_id for e in events],
        "event_time_ms": [e.event_time_ms for e in events],
        "event_id": [e.event_id for e in events],
    }
    pq.write_table(pa.table(columns), path)
    return path


def wanted(events: list[BehaviourEvent]) -> dict[int, list]:
    """user -> the rows of all their events."""
    rows: dict[int, bytes] = {}
    for one in events:
        rows[one.user_id] = rows.get(one.user_id, b"") + encode_event(one.event_time_ms, one.interaction)
    return {user: np.frombuffer(encoded, HISTORY_DTYPE).tolist() for user, encoded in rows.items()}


def rebuilt(bootstrap: str) -> dict[int, list]:
    """user -> the rows of the newest snapshot and the updates after it."""
    histories: dict[int, tuple[int, int, bytes]] = {}
    for record in read_bounded(bootstrap, SNAPSHOTS.name):
        snapshot = SequenceSnapshot.FromString(record.value)
        rows = unpack_history(snapshot.packed)
        assert len(rows) == snapshot.seq_no
        mine = (snapshot.epoch, snapshot.seq_no, rows.tobytes())
        histories[snapshot.user_id] = max(histories.get(snapshot.user_id, mine), mine)
    updates = [SequenceUpdate.FromString(record.value) for record in read_bounded(bootstrap, UPDATES.name)]
    for update in sorted(updates, key=lambda update: (update.user_id, update.epoch, update.seq_no)):
        epoch, seq_no, rows = histories[update.user_id]
        if (update.epoch, update.seq_no) == (epoch, seq_no + 1):
            row = encode_event(update.event_time_ms, update.interaction)
            histories[update.user_id] = (epoch, seq_no + 1, rows + row)
    return {user: np.frombuffer(rows, HISTORY_DTYPE).tolist() for user, (_, _, rows) in histories.items() if rows}


def test_a_seeded_job_goes_on_as_if_it_had_been_fed_every_event(jobs: JobRunner, tmp_path: Path) -> None:
    bootstrap = jobs.bootstrap
    events = [event(number) for number in range(SEEDED + LIVE)]
    early, live = events[:SEEDED], events[SEEDED:]
    job = jobs.submit("sequence_job", ["job.checkpoint_interval_ms=1000", "snapshot.max_age_ms=3600000"])

    def send(some: list[BehaviourEvent]) -> None:
        with EventPublisher(bootstrap) as publisher:
            publisher.publish([(one.user_id, one.SerializeToString()) for one in some], START_MS)

    # The live ones before the seed include some that the seed has, too.
    send(early[-10:] + live[: LIVE // 2])
    path = source(tmp_path / "history.parquet", early)
    command = ["seed", str(path), "--bootstrap", bootstrap, "--timestamp-ms", str(START_MS), "--processes", "1"]
    command += ["--shards", "3", "--sequence-job", str(SEQUENCE_CONFIG), "--json"]
    first = CliRunner().invoke(main, command, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    done = json.loads(first.stdout.splitlines()[-1])
    assert (done["users"], done["events"], done["cut"], done["refused"]) == (USERS, SEEDED, 0, [])
    assert done["shards_before"] == 0
    send(live[LIVE // 2 :])
    # A second run, as after an interruption: one shard's mark is lost.
    (tmp_path / "history.parquet.seed" / "00001.published").unlink()
    second = CliRunner().invoke(main, command, catch_exceptions=False)
    assert json.loads(second.stdout.splitlines()[-1])["shards_before"] == 2

    jobs.flink.stop_with_savepoint(job)
    assert rebuilt(bootstrap) == wanted(events)


def test_a_job_that_lost_its_state_gets_it_back_from_what_it_wrote(jobs: JobRunner) -> None:
    bootstrap = jobs.bootstrap
    events = [event(number) for number in range(900)]
    erased = BehaviourEvent(schema_version=1, user_id=5, event_id=b"e" * 16, event_time_ms=START_MS, erase=Erase())

    def send(some: list[BehaviourEvent]) -> dict[int, Span]:
        with EventPublisher(bootstrap) as publisher:
            return publisher.publish([(one.user_id, one.SerializeToString()) for one in some], START_MS)

    settings = ["job.checkpoint_interval_ms=2000", "snapshot.max_age_ms=3600000", "snapshot.every_events=7"]
    job = jobs.submit("sequence_job", settings)
    wait_applied(bootstrap, send([*events[:300], erased]), lambda _: None)
    # Written after the last checkpoint, or before the next: the job without its state takes these in again.
    send(events[300:600])
    jobs.read(UPDATES, until=lambda received: len({(r.partition, r.offset) for r in received}) >= 450)
    jobs.flink.cancel(job)

    done = CliRunner().invoke(
        main, ["rebuild", "--bootstrap", bootstrap, "--timestamp-ms", str(START_MS), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["stale"], figures["generation"]) == (0, 2)

    # Its numbers would be given a second time.
    with pytest.raises(AssertionError, match=r"sequence.generation: 1 is not above 1, which sequences in"):
        jobs.submit("sequence_job", settings)

    # With duplicates of what the lost state remembered.
    last = send(events[580:])
    job = jobs.submit("sequence_job", [*settings, "sequence.generation=2"])
    wait_applied(bootstrap, last, lambda _: None)
    jobs.flink.stop_with_savepoint(job)
    assert rebuilt(bootstrap) == wanted([one for at, one in enumerate(events) if one.user_id != 5 or at >= 300])
