"""`longrank land` from a real broker: transactions, a second run, a topic made anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer
from lakes import DAY_MS, FIRST_MS, simple

from infra.cli import main
from infra.topics import recreate_topics
from schemas.partitioner import partition_of, user_key
from schemas.topics import EXAMPLES, PARTITIONS
from schemas.v1.training_pb2 import TrainingExample
from scorer.landing import Lake


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


def test_a_broker_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["land", str(tmp_path / "lake"), "--bootstrap", "127.0.0.1:1"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


def test_a_place_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")
    (tmp_path / "s4").mkdir()
    for place in (f"s4://{tmp_path}", str(tmp_path / "lake")):
        result = CliRunner().invoke(main, ["land", place, "--bootstrap", "127.0.0.1:1"])
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert result.output.count("\n") == 1


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
