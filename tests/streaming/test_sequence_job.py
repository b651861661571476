"""The sequence job on the real cluster: what comes out equals the oracle, and survives a killed TaskManager."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection

import numpy as np
import pytest
from job_runner import JobRunner, Received, Record, user_record
from sequence_oracle import Oracle

from schemas.digest import make_epoch
from schemas.history import HISTORY_DTYPE
from schemas.packing import PACKING_VERSION, pack_history, unpack_history
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason
from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, HEARTBEAT_KEY, PARTITIONS, SNAPSHOTS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, Seed
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from streaming.config import SequenceJobConfig, load_config

pytestmark = pytest.mark.cluster

START_MS = 1_500_000_000_000  # An old log: nothing here may depend on the wall clock.
SETTINGS = [
    "job.checkpoint_interval_ms=1000",
    "sequence.capacity=20",
    "sequence.as_of_events=7",
    "sequence.generation=4",
    "state.chunk_events=8",
    "snapshot.every_events=15",
    "snapshot.max_age_ms=1500",
]
RULES = load_config(SequenceJobConfig, None, SETTINGS).settings()


def event(user_id: int, number: int, *, erase: bool = False, late_ms: int = 0) -> BehaviourEvent:
    message = BehaviourEvent(
        schema_version=1,
        user_id=user_id,
        event_id=(number + 1).to_bytes(16, "big"),
        event_time_ms=START_MS + number - late_ms,
    )
    if erase:
        message.erase.CopyFrom(Erase())
    else:
        message.interaction.CopyFrom(Interaction(item_id=number % 97 + 1, action=number % 5, group_id=number % 7 + 1))
    return message


def seed_parts(user_id: int, number: int) -> list[BehaviourEvent]:
    rows = np.zeros(17, dtype=HISTORY_DTYPE)
    rows["item_id"], rows["event_time_ms"] = number + 1 + np.arange(17), START_MS - 86_400_000
    parts = []
    for part, some in enumerate((rows[:9], rows[9:])):
        message = event(user_id, number)
        message.seed.CopyFrom(Seed(part=part, parts=2, packed=pack_history(some)))
        parts.append(message)
    return parts


def send_form(message: BehaviourEvent, timestamp_ms: int) -> Record:
    return user_record(EVENTS, message.user_id, message.SerializeToString(), timestamp_ms)


def mixed_events(seed: int, count: int, users: int) -> list[BehaviourEvent]:
    """New events, duplicates and late ones of a few users, some erases, some seeds in two parts."""
    rng = random.Random(seed)
    sent: list[BehaviourEvent] = []
    for number in range(count):
        draw = rng.random()
        if sent and draw < 0.05:
            sent.append(rng.choice(sent[-200:]))
        else:
            user_id = rng.randrange(users) + 1
            if 0.985 < draw <= 0.99:
                sent += seed_parts(user_id, number)
                continue
            sent.append(event(user_id, number, erase=draw > 0.995, late_ms=5_000 if draw > 0.9 else 0))
    return sent


def oracles(events: list[BehaviourEvent]) -> tuple[dict[int, Oracle], dict[tuple[int, int, int], bytes]]:
    """Each user's oracle in the end, and (user, epoch, seq_no) -> event_id of every update on the way."""
    users: dict[int, Oracle] = {}
    numbered: dict[tuple[int, int, int], bytes] = {}
    for message in events:
        oracle = users.setdefault(message.user_id, Oracle(message.user_id, RULES))
        if oracle.take(message) == "accepted":
            numbered[message.user_id, oracle.epoch, len(oracle.events)] = message.event_id
    return users, numbered


def distinct_updates(received: list[Received]) -> dict[tuple[int, int, int], SequenceUpdate]:
    """Updates by number; a repeated one must be the same to the byte."""
    values: dict[tuple[int, int, int], bytes] = {}
    for record in received:
        update = SequenceUpdate.FromString(record.value)
        assert record.key == user_key(update.user_id)
        assert record.partition == partition_of(record.key, PARTITIONS)
        number = (update.user_id, update.epoch, update.seq_no)
        assert values.setdefault(number, record.value) == record.value
    return {number: SequenceUpdate.FromString(value) for number, value in values.items()}


def check_against_oracle(
    jobs: JobRunner, events: list[BehaviourEvent], written: Collection[int] = (PACKING_VERSION,)
) -> None:
    """`written`: layouts of the snapshots' packed histories."""
    packings: set[int] = set()
    users, numbered = oracles(events)
    updates = distinct_updates(jobs.read(UPDATES))
    assert {number: update.event_id for number, update in updates.items()} == numbered
    newest: dict[int, SequenceSnapshot] = {}
    for record in jobs.read(SNAPSHOTS):
        snapshot = SequenceSnapshot.FromString(record.value)
        rows = unpack_history(snapshot.packed)
        assert len(rows) == snapshot.seq_no - snapshot.first_seq_no + 1
        assert len(rows) <= RULES.kept_events
        assert snapshot.erased == (snapshot.seq_no == 0)
        packings.add(snapshot.packed[0])
        update = updates.get((snapshot.user_id, snapshot.epoch, snapshot.seq_no))
        if update is not None:
            assert snapshot.digest == update.digest
        known = newest.setdefault(snapshot.user_id, snapshot)
        if (snapshot.epoch, snapshot.seq_no) > (known.epoch, known.seq_no):
            newest[snapshot.user_id] = snapshot
    assert packings == set(written)
    for user_id, oracle in users.items():
        # Age makes every user's last event covered at last.
        snapshot = newest[user_id]
        first = oracle.first_seq_no()
        assert (snapshot.epoch, snapshot.seq_no) == (oracle.epoch, len(oracle.events))
        assert snapshot.first_seq_no == first
        assert snapshot.base_digest == oracle.digest(first - 1)
        assert snapshot.digest == oracle.digest(snapshot.seq_no)
        assert unpack_history(snapshot.packed).tobytes() == b"".join(oracle.events[first - 1 :])


def wait_until_covered(jobs: JobRunner, events: list[BehaviourEvent]) -> None:
    users, numbered = oracles(events)
    jobs.read(UPDATES, until=lambda records: distinct_updates(records).keys() == numbered.keys())

    def covered(records: list[Received]) -> bool:
        heads: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for record in records:
            snapshot = SequenceSnapshot.FromString(record.value)
            heads[snapshot.user_id] = max(heads[snapshot.user_id], (snapshot.epoch, snapshot.seq_no))
        return all(heads[user_id] == (oracle.epoch, len(oracle.events)) for user_id, oracle in users.items())

    jobs.read(SNAPSHOTS, until=covered)


def malformed(timestamp_ms: int) -> list[tuple[Record, Reason]]:
    good = event(1, 1_000_000)
    key, value = user_key(1), good.SerializeToString()
    home = partition_of(key, PARTITIONS)
    return [
        (Record(EVENTS, None, value, timestamp_ms, 2), Reason.MALFORMED_KEY),
        (Record(EVENTS, b"", value, timestamp_ms, 2), Reason.MALFORMED_KEY),
        (Record(EVENTS, b"user:1", value, timestamp_ms, 0), Reason.MALFORMED_KEY),
        (Record(EVENTS, b" 1", value, timestamp_ms, 0), Reason.MALFORMED_KEY),
        (Record(EVENTS, b"\xff\xfe\x00", value, timestamp_ms, 7), Reason.MALFORMED_KEY),
        (Record(EVENTS, b"9" * 30, value, timestamp_ms, 7), Reason.MALFORMED_KEY),
        (Record(EVENTS, key, value, timestamp_ms, (home + 1) % PARTITIONS), Reason.WRONG_PARTITION),
        (Record(EVENTS, key, value[:-3], timestamp_ms), Reason.MALFORMED_VALUE),
        (Record(EVENTS, key, None, timestamp_ms), Reason.MALFORMED_VALUE),
        (Record(EVENTS, key, b"", timestamp_ms), Reason.UNKNOWN_SCHEMA_VERSION),
        (Record(EVENTS, key, bytes(70_000), timestamp_ms), Reason.OVERSIZED),
        (Record(EVENTS, key, value, timestamp_ms + 40 * 86_400_000), Reason.SKEW),
    ]


def test_updates_snapshots_and_dead_letters(jobs: JobRunner) -> None:
    events = mixed_events(seed=1, count=1_500, users=25)
    bad = malformed(START_MS)
    records = [send_form(message, START_MS + number) for number, message in enumerate(events)]
    for place, (record, _) in enumerate(bad):
        records.insert(place * 100, record)
    records += [Record(EVENTS, HEARTBEAT_KEY, b"", START_MS, partition) for partition in range(PARTITIONS)]

    # Batches of a few records, and one that is larger than a batch may be.
    job = jobs.submit("sequence_job", [*SETTINGS, "batch.max_bytes=1024"])
    places = jobs.produce(records)
    wait_until_covered(jobs, events)
    jobs.flink.stop_with_savepoint(job)
    check_against_oracle(jobs, events)

    letters = [DeadLetter.FromString(record.value) for record in jobs.read(DEAD_LETTER_TOPICS[EVENTS.name])]
    got = {(letter.source_partition, letter.source_offset): letter for letter in letters}
    expected = {places[place * 100]: pair for place, pair in enumerate(bad)}
    assert got.keys() == expected.keys()
    assert len(letters) == len(bad)
    for place, (record, reason) in expected.items():
        letter = got[place]
        assert (letter.reason, letter.source_topic, letter.stage) == (reason.value, EVENTS.name, "sequence_job")
        assert (letter.key, letter.value) == (record.key or b"", record.value or b"")
        assert letter.source_timestamp_ms == record.timestamp_ms
        assert letter.detail


def test_a_killed_taskmanager_loses_and_doubles_nothing(jobs: JobRunner) -> None:
    events = mixed_events(seed=2, count=6_000, users=40)
    records = [send_form(message, START_MS + number) for number, message in enumerate(events)]
    job = jobs.submit("sequence_job", SETTINGS)
    jobs.produce(records[:3_000])
    # Some way into the stream, and past a checkpoint that is not its end.
    jobs.read(UPDATES, until=lambda received: len(received) >= 1_000)
    jobs.local.kill("taskmanager-0")
    jobs.produce(records[3_000:])
    jobs.local.restart("taskmanager-0")
    jobs.flink.wait_running(job)
    wait_until_covered(jobs, events)
    jobs.flink.wait_restarted(job)
    jobs.flink.stop_with_savepoint(job)
    check_against_oracle(jobs, events)


def test_a_savepoint_carries_everything_to_another_parallelism(jobs: JobRunner) -> None:
    # Full batches of more users than are written between them, and no snapshot that writes a header on the way: what
    # the savepoint has of them was written for it.
    settings = [*SETTINGS, "job.checkpoint_interval_ms=600000", "snapshot.max_age_ms=3600000", "batch.max_delay_ms=200"]
    events = mixed_events(seed=3, count=2_400, users=200)
    known = {message.user_id for message in events[:900]}
    events = [message for message in events if message.user_id in known]
    records = [send_form(message, START_MS + number) for number, message in enumerate(events)]
    jobs.produce(records[:900])
    first = jobs.submit("sequence_job", settings, parallelism=1)
    half = oracles(events[:900])[1].keys()
    jobs.read(UPDATES, until=lambda received: distinct_updates(received).keys() == half)
    savepoint = jobs.flink.stop_with_savepoint(first)
    jobs.produce(records[900:])
    # A raised generation concerns users without state only.
    settings = [*settings, "sequence.generation=5"]
    newcomer = event(1_000, 5_000_000)
    second = jobs.submit("sequence_job", settings, parallelism=2, savepoint=savepoint)
    jobs.produce([send_form(newcomer, START_MS)])
    jobs.read(UPDATES, until=lambda received: (1_000, make_epoch(5, 0), 1) in distinct_updates(received))
    users, _ = oracles(events)
    assert 1_000 not in users
    wait_for_all = set(oracles(events)[1]) | {(1_000, make_epoch(5, 0), 1)}
    jobs.read(UPDATES, until=lambda received: distinct_updates(received).keys() == wait_for_all)
    jobs.flink.stop_with_savepoint(second)


def test_an_upgrade_of_the_layouts_and_the_way_back(jobs: JobRunner) -> None:
    # One release writes what the one before could read; the next writes the new layout; then it is taken back.
    events = mixed_events(seed=4, count=1_200, users=10)[:1_200]
    records = [send_form(message, START_MS + number) for number, message in enumerate(events)]
    savepoint = None
    for at, version in ((0, 1), (400, 2), (800, 1)):
        settings = [*SETTINGS, f"state.write_version={version}", f"snapshot.write_version={version}"]
        job = jobs.submit("sequence_job", settings, savepoint=savepoint)
        jobs.produce(records[at : at + 400])
        wait_until_covered(jobs, events[: at + 400])
        savepoint = jobs.flink.stop_with_savepoint(job)
    check_against_oracle(jobs, events, written=(1, 2))
