"""The real thing: started, broken in every way we could think of, and never leaving a process behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.cluster.processes import marked
from infra.cluster.state import BROKER, JOBMANAGER
from infra.errors import InfraError
from infra.flink_rest import FlinkRest
from schemas.topics import EVENTS

LONGRANK = Path(sys.executable).with_name("longrank")


def pids(cluster: LocalCluster) -> dict[str, int]:
    return {name: process.pid for name, process in cluster.info().processes.items()}


def longrank(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LONGRANK, *map(str, words)], capture_output=True, text=True, timeout=280)


def test_a_second_up_changes_nothing(clean_cluster: LocalCluster) -> None:
    before = pids(clean_cluster)
    clean_cluster.up(UpOptions(taskmanagers=2))
    assert pids(clean_cluster) == before
    assert set(clean_cluster.health().values()) == {None}


def test_another_port_for_what_runs_is_refused_and_nothing_ends(clean_cluster: LocalCluster) -> None:
    before = pids(clean_cluster)
    with pytest.raises(InfraError, match="`longrank down` first"):
        clean_cluster.up(UpOptions(taskmanagers=2, broker_port=1))
    assert pids(clean_cluster) == before
    assert set(clean_cluster.health().values()) == {None}


def test_a_dead_taskmanager_alone_is_replaced(clean_cluster: LocalCluster) -> None:
    before = pids(clean_cluster)
    clean_cluster.kill("taskmanager-1")
    assert clean_cluster.health()["taskmanager-1"] == "not running"
    info = clean_cluster.up(UpOptions(taskmanagers=2))
    after = pids(clean_cluster)
    assert {name for name in before if before[name] != after[name]} == {"taskmanager-1"}
    assert info.processes["taskmanager-1"].resource_id in FlinkRest(info.rest_url).taskmanager_ids()


def test_a_killed_broker_comes_back_under_its_address_with_its_records(clean_cluster: LocalCluster) -> None:
    bootstrap = clean_cluster.info().bootstrap
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    producer.send(EVENTS.name, key=b"1", value=b"kept", partition=3).get(timeout=30)
    producer.close()
    clean_cluster.kill(BROKER)
    with pytest.raises(InfraError, match=r"broker of .* is not running"):
        clean_cluster.info()
    assert clean_cluster.restart(BROKER).bootstrap == bootstrap
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=30_000)
    consumer.assign([partition := TopicPartition(EVENTS.name, 3)])
    consumer.seek_to_beginning(partition)
    assert next(iter(consumer)).value == b"kept"
    consumer.close()


@pytest.mark.cluster
def test_a_life_by_command(tmp_path: Path) -> None:
    """up; a crash that leaves a living TaskManager, a stale record and a half-formatted broker; up; down; nothing."""
    home = tmp_path / "a home with spaces"
    up = ("up", "--home", home, "--taskmanagers", "1")
    assert longrank("status", "--home", home).returncode == 3

    started = longrank(*up)
    assert started.returncode == 0, started.stderr
    first = json.loads(longrank("status", "--home", home, "--json").stdout)
    assert set(first["processes"]) == {BROKER, JOBMANAGER, "taskmanager-0"}
    assert all(process["up"] for process in first["processes"].values())

    cluster = LocalCluster(home)
    cluster.kill(BROKER)
    cluster.kill(JOBMANAGER)
    (home / "broker" / "formatted").unlink()
    assert longrank("status", "--home", home).returncode == 1
    (orphan,) = marked(home)
    again = longrank(*up)
    assert again.returncode == 0, again.stderr
    assert not orphan.is_running()
    assert cluster.info().bootstrap == first["bootstrap"]
    assert len(marked(home)) == 3

    assert longrank("down", "--home", home).stdout.startswith("ended ")
    assert marked(home) == []
    assert longrank("down", "--home", home).stdout.startswith("nothing runs")


@pytest.mark.cluster
def test_a_process_that_dies_while_starting_ends_the_rest_and_shows_its_log(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    (tmp_path / "broker" / "data").mkdir(parents=True)
    (tmp_path / "broker" / "formatted").write_text("it was not")
    with pytest.raises(InfraError, match=r"broker died while starting; .*broker\.log ends:\n"):
        cluster.up(UpOptions(taskmanagers=1))
    assert marked(tmp_path) == []
    info = cluster.peek()
    assert info is not None
    assert info.processes == {}
