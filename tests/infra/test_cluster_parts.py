"""The cluster's parts without Java: what stays on an `up`, ports, the record, and whom an ending may touch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cluster.broker import server_properties
from infra.cluster.flink import flink_config
from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions, plan_up
from infra.cluster.ports import choose_ports, is_free
from infra.cluster.processes import MARKER, ProcessRef, end, marked, reap, spawn
from infra.cluster.state import BROKER, JOBMANAGER, ClusterInfo, StateFile, taskmanager
from infra.errors import InfraError
from infra.java import parse_java_version
from schemas.topics import ALL_TOPICS

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PORTS = {"broker": 9, "controller": 8, "rest": 7, "jobmanager-rpc": 6}


def recorded(home: Path, *names: str) -> ClusterInfo:
    processes = {
        name: ProcessRef(name=name, pid=10 + i, create_time=1.5, log="log", ports={}, resource_id=f"{name}-{i}")
        for i, name in enumerate(names)
    }
    return ClusterInfo(home=home, ports=PORTS, processes=processes, started=len(names))


# ---- what stays


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sets(st.sampled_from([BROKER, JOBMANAGER, *(taskmanager(i) for i in range(4))])),
)
def test_an_up_keeps_only_what_can_be_worked_with(before: int, wanted: int, alive: set[str]) -> None:
    options = UpOptions(taskmanagers=wanted)
    names = UpOptions(taskmanagers=before).names()
    plan = plan_up(recorded(Path("/h"), *names), frozenset(alive & set(names)), options)
    assert plan.keep <= alive & set(options.names())
    assert [*plan.missing(options)] == [name for name in options.names() if name not in plan.keep]
    # TaskManagers never outlive their JobManager.
    assert JOBMANAGER in plan.keep or not plan.keep - {BROKER}
    # Every purpose has one port, from one side or the other.
    assert {*plan.kept_ports, *plan.ask} == {*options.ports()}
    assert not {*plan.kept_ports} & {*plan.ask}


def test_a_running_port_is_not_changed_under_its_clients() -> None:
    old = recorded(Path("/h"), *UpOptions().names())
    with pytest.raises(InfraError, match="rest on port 7, not 5; `longrank down` first"):
        plan_up(old, frozenset(old.processes), UpOptions(rest_port=5))
    assert plan_up(old, frozenset(), UpOptions(rest_port=5)).ask["rest"] == 5


def test_no_taskmanager_is_refused() -> None:
    with pytest.raises(InfraError, match="ask for 1 or more"):
        plan_up(None, frozenset(), UpOptions(taskmanagers=0))


# ---- ports


def test_ports_are_distinct_free_and_remembered() -> None:
    first = choose_ports(dict.fromkeys("abcd", 0), {})
    assert len(set(first.values())) == 4
    assert all(is_free(port) for port in first.values())
    assert choose_ports(dict.fromkeys("abcd", 0), first) == first


def test_a_taken_port_is_refused_when_asked_for_and_replaced_when_remembered() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(InfraError, match=f"port {port} for rest is taken"):
            choose_ports({"rest": port}, {})
        assert choose_ports({"rest": 0}, {"rest": port})["rest"] != port


# ---- the record


def test_the_record_reads_back(tmp_path: Path) -> None:
    state = StateFile(tmp_path)
    assert state.read() is None
    info = replace(recorded(tmp_path, *UpOptions(taskmanagers=11).names()), prometheus=True, short_lived=True)
    state.write(info)
    assert state.read() == info
    assert info.taskmanagers == [taskmanager(i) for i in range(11)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 99}',
        '{"version": 1, "processes": 3}',
        '{"version": 2}',
        '{"version": 2, "processes": 3}',
    ],
)
def test_a_record_that_is_none_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    assert StateFile(tmp_path).read() is None


def test_only_one_command_works_in_a_home(tmp_path: Path) -> None:
    with (
        StateFile(tmp_path).lock(),
        pytest.raises(InfraError, match="another longrank command"),
        StateFile(tmp_path).lock(wait_s=0.0),
    ):
        pass
    with StateFile(tmp_path).lock(wait_s=0.0):
        pass


# ---- whom an ending touches


@pytest.fixture
def stranger() -> Iterator[psutil.Process]:
    child = subprocess.Popen(SLEEP)
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()


def start(home: Path, name: str, argv: list[str]) -> ProcessRef:
    ref = spawn(name, argv, home=home, env=os.environ, log=home / "log", ports={}, resource_id=name)
    # For an instant of its exec the kernel shows a process without any environment.
    while (process := ref.find()) and not process.environ():
        pass
    return ref


def test_down_ends_a_process_with_its_children_and_says_so(tmp_path: Path) -> None:
    code = f"import subprocess, sys; print(subprocess.Popen({SLEEP!r}).pid, flush=True); sys.stdin.read(); "
    parent = start(tmp_path, BROKER, [sys.executable, "-c", code + "import time; time.sleep(600)"])
    StateFile(tmp_path).write(replace(recorded(tmp_path), processes={BROKER: parent}))
    while not (text := (tmp_path / "log").read_text()).endswith("\n"):
        assert parent.alive()
    child = psutil.Process(int(text))
    assert LocalCluster(tmp_path).down() == [BROKER]
    assert not parent.alive()
    assert not child.is_running()
    assert LocalCluster(tmp_path).down() == []


def test_a_recycled_pid_is_never_touched(tmp_path: Path, stranger: psutil.Process) -> None:
    ref = ProcessRef(
        name=BROKER, pid=stranger.pid, create_time=stranger.create_time() - 60, log="", ports={}, resource_id=""
    )
    assert not ref.alive()
    StateFile(tmp_path).write(replace(recorded(tmp_path), processes={BROKER: ref}))
    assert LocalCluster(tmp_path).down() == []
    assert stranger.is_running()


def test_what_a_crash_left_unrecorded_is_found_by_its_mark(tmp_path: Path, stranger: psutil.Process) -> None:
    ours = start(tmp_path, BROKER, SLEEP)
    neighbour_home = tmp_path / "neighbour"
    neighbour_home.mkdir()
    neighbour = start(neighbour_home, BROKER, SLEEP)
    assert [process.pid for process in marked(tmp_path)] == [ours.pid]
    LocalCluster(tmp_path).down()
    assert not ours.alive()
    assert neighbour.alive()
    assert stranger.is_running()
    LocalCluster(neighbour_home).down()
    assert not neighbour.alive()


def test_a_process_that_ignores_term_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    deaf = start(tmp_path, BROKER, [sys.executable, "-c", code])
    while not (tmp_path / "log").read_text():
        assert deaf.alive()
    assert end(marked(tmp_path), term_wait_s=0.1) == []
    reap()
    assert not deaf.alive()


def test_a_dead_child_that_nobody_waited_for_counts_as_dead(tmp_path: Path) -> None:
    ref = start(tmp_path, BROKER, [sys.executable, "-c", ""])
    os.waitid(os.P_PID, ref.pid, os.WEXITED | os.WNOWAIT)
    assert not ref.alive()
    reap()


def test_the_mark_is_in_the_environment_of_what_is_started_only(tmp_path: Path) -> None:
    assert MARKER not in os.environ
    ref = start(tmp_path, BROKER, SLEEP)
    assert psutil.Process(ref.pid).environ()[MARKER] == str(tmp_path)
    LocalCluster(tmp_path).down()


def test_nothing_runs_in_an_empty_home(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "none")
    with pytest.raises(InfraError, match=r"no cluster runs in .*none; start one with `longrank up"):
        cluster.info()
    assert cluster.down() == []
    assert cluster.health() == {}
    with pytest.raises(InfraError, match="no process 'broker'"):
        cluster.kill(BROKER)


# ---- settings


def test_everything_listens_on_loopback_alone(tmp_path: Path) -> None:
    broker = server_properties(tmp_path, 9092, 9093)
    assert all("127.0.0.1" in listener for listener in broker["listeners"].split(","))
    flink = flink_config(tmp_path, PORTS, "python", prometheus=False)
    binds = {key: value for key, value in flink.items() if key.endswith(("bind-host", "bind-address"))}
    assert len(binds) == 3
    assert set(binds.values()) == {"127.0.0.1"}
    assert not any("prom" in key for key in flink)


def test_the_broker_takes_the_longest_record_of_any_topic(tmp_path: Path) -> None:
    broker = server_properties(tmp_path, 9092, 9093)
    longest = max(topic.max_message_bytes for topic in ALL_TOPICS)
    assert int(broker["message.max.bytes"]) > longest
    assert int(broker["replica.fetch.max.bytes"]) > longest
    assert int(broker["transaction.max.timeout.ms"]) >= 3_600_000


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.9" 2023-10-17', 17),
        ('java version "1.8.0_312"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("command not found", None),
    ],
)
def test_java_versions(text: str, version: int | None) -> None:
    assert parse_java_version(text) == version
