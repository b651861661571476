"""The reader and the whole command on a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from verify_world import CONTRACT, PARTITION, REVISION_MS, START_MS, WINDOW_MS, World, right_world

from infra.commands.verify import command
from infra.verify.findings import BEHIND_WATERMARK
from infra.verify.reader import PartitionReader, Range
from schemas.topics import EVENTS, HEARTBEAT_KEY, LIVE_TOPICS, PARTITIONS
from schemas.v1.operations_pb2 import Heartbeat
from scorer.landing.bounded import BoundedReadError, read_bounded

pytestmark = pytest.mark.cluster

EXAMPLE_JOB = f"""
label_window_ms: {WINDOW_MS}
revision_window_ms: {REVISION_MS}
labels:
  - task: touch
  - task: like
    when: {{actions: [3]}}
    window_ms: {WINDOW_MS // 2}
    weight: 0.25
"""
SEQUENCE_JOB = f"sequence: {{capacity: {CONTRACT.serving_length}, as_of_events: 4000}}"


def produce(bootstrap: str, count: int, *, commit: bool) -> None:
    """A transaction of `count` records, of which every third is in partition 2."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"test-{commit}", "linger.ms": 5})
    producer.init_transactions()
    producer.begin_transaction()
    for number in range(count):
        key, value = b"%d" % number, None if number % 7 == 0 else b"v%d" % number
        producer.produce(EVENTS.name, value, key, partition=2 * (number % 3 == 0), timestamp=START_MS + number)
    producer.flush()
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def test_a_partition_holds_what_a_bounded_read_finds(bootstrap: str) -> None:
    produce(bootstrap, 5_000, commit=True)
    produce(bootstrap, 100, commit=False)
    produce(bootstrap, 300, commit=True)
    produce(bootstrap, 10, commit=False)
    wanted = [record._replace(value=record.value or b"") for record in read_bounded(bootstrap, EVENTS.name)]
    assert len(wanted) == 5_300
    with PartitionReader(bootstrap) as reader:
        ranges = reader.ranges(EVENTS.name)
        assert sorted(ranges) == list(range(PARTITIONS))
        for partition, span in ranges.items():
            found = [one for batch in reader.read(EVENTS.name, partition, span) for one in batch]
            assert found == [tuple(record[2:]) for record in wanted if record.partition == partition]
        inner = Range(10, 20)
        assert [one[0] for batch in reader.read(EVENTS.name, 0, inner) for one in batch] == list(range(10, 20))


def test_what_is_not_there_is_said(bootstrap: str) -> None:
    produce(bootstrap, 30, commit=True)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(EVENTS.name, 0, 7)]).values():
        future.result()
    with PartitionReader(bootstrap) as reader:
        assert reader.ranges(EVENTS.name)[0].first == 7
        with pytest.raises(BoundedReadError, match="aged out"):
            list(reader.read(EVENTS.name, 0, Range(0, 20)))
        with pytest.raises(BoundedReadError, match="does not exist"):
            reader.ranges("no.such.topic")


def publish(bootstrap: str, world: World) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for topic in LIVE_TOPICS:
        for _, time_ms, key, value in world.records(topic):
            producer.produce(topic.name, value, key, partition=PARTITION, timestamp=time_ms)
    time_ms = START_MS + 10 * REVISION_MS
    heartbeat = Heartbeat(schema_version=1, time_ms=time_ms).SerializeToString()
    for partition in range(PARTITIONS):
        producer.produce(EVENTS.name, heartbeat, HEARTBEAT_KEY, partition=partition, timestamp=time_ms)
    producer.flush()


@pytest.fixture
def jobs(tmp_path: Path) -> list[str]:
    (tmp_path / "sequence.yaml").write_text(SEQUENCE_JOB)
    (tmp_path / "example.yaml").write_text(EXAMPLE_JOB)
    return ["--sequence-job", str(tmp_path / "sequence.yaml"), "--example-job", str(tmp_path / "example.yaml")]


def test_the_command_finds_a_right_world_right_and_a_wrong_one_wrong(bootstrap: str, jobs: list[str]) -> None:
    arguments = ["--bootstrap", bootstrap, *jobs]
    publish(bootstrap, right_world())
    for more in ([], ["--passes", "3"], ["--store"], ["--sample", "5"]):
        done = CliRunner().invoke(command, [*arguments, *more])
        assert done.exit_code == 0, done.output
        assert "verify: 1 responses, 2 examples, 11 updates, 1 snapshots, 0 mismatches" in done.output
    # Everything again, and one thing wrong.
    world = right_world()
    world.examples[1].labels[0].labels = b"\0\1\1\1"
    publish(bootstrap, world)
    done = CliRunner().invoke(command, [*arguments, "--json"])
    assert done.exit_code == 1
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["kinds"] == {"example_doubled": 2, "example_labels": 1}
    assert verdict["checked"]["examples"] == 4
    assert verdict["matched"]["examples"] == 2
    assert {name: verdict["repeated"][name] for name in BEHIND_WATERMARK} == dict.fromkeys(BEHIND_WATERMARK, 0)
    (mismatch,) = [one for one in verdict["first_mismatches"] if one["kind"] == "example_labels"]
    assert mismatch["where"].startswith(f"training.examples.v1/{PARTITION}/")


def test_a_broker_that_is_not_there_is_not_a_mismatch(jobs: list[str]) -> None:
    done = CliRunner().invoke(command, ["--bootstrap", "127.0.0.1:1", *jobs])
    assert done.exit_code == 2
