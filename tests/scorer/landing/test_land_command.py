"""`longrank land`: what it says, and all of it from a real broker: transactions, a second run, a topic made anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer
from lakes import DAY_MS, FIRST_MS, Topic, simple

import infra.commands.land as land_command
from infra.cli import main
from infra.topics import recreate_topics
from schemas.partitioner import partition_of, user_key
from schemas.topics import EXAMPLES, PARTITIONS
from schemas.v1.training_pb2 import TrainingExample
from scorer.landing import Lake
from scorer.landing.bounded import Landed, TopicBounds
from scorer.landing.manifest import Hole


def produce(bootstrap: str, name: str, *examples: TrainingExample, commit: bool = True) -> None:
    """In one transaction, as the example job does."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for example in examples:
            key = user_key(example.user_id)
            partition = partition_of(key, PARTITIONS)
            producer.send(EXAMPLES.name, key=key, value=example.SerializeToString(), partition=partition)
        producer.flush()
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    finally:
        producer.close()


def land(bootstrap: str, lake: Path, *options: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["land", str(lake), "--bootstrap", bootstrap, "--json", *options])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    """What the command reads, in the place of a broker."""
    topic = Topic()

    def read(bootstrap: str, name: str, begin: dict[int, int], end: dict[int, int]) -> list[Landed]:
        assert (bootstrap, name) == ("broker:1", EXAMPLES.name)
        return [record for record in topic.all() if begin[record.partition] <= record.offset < end[record.partition]]

    def bounds(*_: str) -> TopicBounds:
        return TopicBounds(topic.id, {number: (10 * number, end) for number, end in topic.ends.items()})

    monkeypatch.setattr(land_command, "read_bounded", read)
    monkeypatch.setattr(land_command, "read_bounds", bounds)
    return topic


def test_a_person_reads_what_was_landed(topic: Topic, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    for number in range(20):
        topic.add(
            simple("a", version=number + 1), simple(f"b{number}", FIRST_MS + number * DAY_MS), partition=number % 2
        )
        result = CliRunner().invoke(main, ["land", lake, "--bootstrap", "broker:1"])
        assert result.exit_code == 0, result.output
        assert "land: 2 records of" in result.stdout
        # The first day's 17th file is one too many.
        assert ("compacted 17 files to 1, without 16 superseded revisions" in result.stdout) == (number == 16)
    assert "training.examples.v1/1: offsets" in result.stdout
    assert "day=2026-12-14: 1 records" in result.stdout
    result = CliRunner().invoke(main, ["land", lake, "--bootstrap", "broker:1", "--forget", "7"])
    assert "deleted 24 records of 1 users" in result.stdout
    assert result.stdout.endswith(f"land: nothing new for {lake}\n")


def test_what_a_person_can_mend_is_one_line(topic: Topic, tmp_path: Path) -> None:
    topic.add(simple("a"))
    (tmp_path / "lake").write_text("a file")
    for place in ("s4://bucket/lake", str(tmp_path / "lake")):
        result = CliRunner().invoke(main, ["land", place, "--bootstrap", "broker:1"])
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("Error: ")
        assert place in result.stderr
        assert "Traceback" not in result.output


def test_an_accepted_hole_is_recorded(topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(str(tmp_path))
    topic.add(simple("a"))
    topic.land(lake)
    monkeypatch.setattr(land_command, "read_bounds", lambda *_: TopicBounds(topic.id, {0: (50, 60)}))
    topic.ends[0] = 50
    topic.add(simple("b"))
    result = CliRunner().invoke(main, ["land", str(tmp_path), "--bootstrap", "broker:1", "--accept-hole"])
    assert result.exit_code == 0, result.output
    assert lake.manifest().holes == (Hole(partition=0, first=2, end=50),)
    assert lake.manifest().next == {0: 60}


@pytest.mark.cluster
def test_examples_land_once_from_a_real_broker(bootstrap: str, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    users = range(1, 41)
    produce(bootstrap, "first", *(simple(f"r{user}", FIRST_MS + user, user_id=user) for user in users))
    produce(bootstrap, "lost", simple("aborted", user_id=1), commit=False)
    first = land(bootstrap, lake)["landed"]
    assert (first["records"], first["days"]) == (40, {"2026-11-25": 40})
    again = land(bootstrap, lake)["landed"]
    assert (again["records"], again["offsets"]) == (0, {})
    produce(
        bootstrap,
        "second",
        *(simple(f"r{user}", FIRST_MS + user, user_id=user, version=2) for user in users[:10]),
        simple("next day", FIRST_MS + DAY_MS, user_id=1),
    )
    second = land(bootstrap, lake, "--compact", "--forget", "40")
    assert second["landed"]["days"] == {"2026-11-25": 10, "2026-11-26": 1}
    assert second["forgotten"] == 1
    assert second["compacted"]["superseded"] == 10
    frame = Lake(str(lake)).requests("2026-11-25", "2026-11-26").to_pandas()
    versions = dict(zip(frame["request_id"], frame["label_version"], strict=True))
    assert versions == {f"r{user}": 1 + (user <= 10) for user in users[:39]} | {"next day": 1}
    text = CliRunner().invoke(main, ["land", str(lake), "--bootstrap", bootstrap, "--keep-days", "1"])
    assert "land: nothing new for" in text.output

    recreate_topics(bootstrap, replay=True)
    produce(bootstrap, "third", simple("anew"))
    result = CliRunner().invoke(main, ["land", str(lake), "--bootstrap", bootstrap])
    assert result.exit_code == 1
    assert "LakeError: the lake holds topic training.examples.v1 with id" in result.output
