"""What was typed becomes what Flink's client understands; and a real job, sent, listed, refreshed, cancelled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cluster.local import LocalCluster
from infra.errors import InfraError
from infra.flink_launcher import SHIPPED, pack_modules, package_root, parse_run, prepare, rewrite
from infra.flink_rest import FlinkRest, FlinkRestError

REPOSITORY = Path(__file__).parents[2]
FLINK = Path(sys.executable).with_name("flink")
CONNECTOR = Path("/jars/connector.jar")


def rewritten(*words: str, connector: Path | None = None) -> list[str]:
    return rewrite(words, pack=lambda job: Path(f"/packed/{job.stem}.zip"), python="/venv/python", connector=connector)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.touch()
    return path


# ---- pure


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("list", "-a"),
        ("stop", "--savepointPath", "x", "abc"),
        ("run", "-py", "job.py"),
        ("run", "-pym", "module", "-pyfs", "x.zip"),
        ("run", "-c", "Main", "job.jar", "argument.py"),
        ("run", "job.jar", "--input", "a.py"),
        ("run",),
        ("run", "-d"),
    ],
)
def test_what_is_not_ours_passes_through(words: tuple[str, ...]) -> None:
    assert rewritten(*words) == list(words)


def test_a_job_file_is_sent_with_its_modules(job: Path) -> None:
    assert rewritten("run", "-d", "-p", "2", str(job), "--config", "x.yaml", "-p", "9") == [
        *("run", "-d", "-p", "2", "-pyfs", "/packed/job.zip", "-pyclientexec", "/venv/python"),
        *("-py", str(job), "--", "--config", "x.yaml", "-p", "9"),
    ]


def test_anothers_cluster_gets_the_connector_too(job: Path) -> None:
    words = rewritten("run", "-m", "host:8081", str(job), connector=CONNECTOR)
    assert words[words.index("-j") + 1] == str(CONNECTOR)


def test_the_users_own_choices_stay(job: Path) -> None:
    words = rewritten("run", "-pyfs", "a.zip,b.py", "--pyFiles=c.py", "-pyclientexec", "/my/python", str(job))
    assert words.count("-pyfs") == 1
    assert words[words.index("-pyfs") + 1] == "/packed/job.zip,a.zip,b.py,c.py"
    assert [word for word in words if "python" in word] == ["/my/python"]


def test_a_job_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"nowhere\.py does not exist"):
        rewritten("run", "-d", str(tmp_path / "nowhere.py"))


_OPTIONS = (
    "-d|-n|--detached|-p 4|-s /a/savepoint|-Dkey=value.py|-D key=x.py|--parallelism=4|-m host:1|"
    "--fromSavepoint a.py|-cm claim|-pyexec python.py"
)
_option = st.sampled_from([option.split() for option in _OPTIONS.split("|")])
_argument = st.sampled_from(["--config", "a.yaml", "-p", "-py", "b.py", "--", "-D", ""])


@given(st.lists(_option), st.lists(_argument))
def test_the_program_is_found_among_any_options(options: list[list[str]], arguments: list[str]) -> None:
    flat = [word for option in options for word in option]
    command = parse_run([*flat, "the_job.py", *arguments])
    assert (list(command.options), command.program, list(command.arguments)) == (flat, "the_job.py", arguments)


def test_the_same_sources_are_the_same_archive(tmp_path: Path) -> None:
    first = pack_modules(REPOSITORY, tmp_path / "a")
    assert pack_modules(REPOSITORY, tmp_path / "a") == first
    second = pack_modules(REPOSITORY, tmp_path / "b")
    assert second.name == first.name
    assert second.read_bytes() == first.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert "schemas/topics.py" in names
    assert {name.split("/")[0] for name in names} == set(SHIPPED)
    assert not any("__pycache__" in name for name in names)


def checkout(directory: Path, mark: str) -> Path:
    """The shipped packages, and a mark in one of their modules; returns the root."""
    for name in SHIPPED:
        shutil.copytree(REPOSITORY / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (directory / "schemas" / "topics.py").open("a") as file:
        file.write(f"\nMARK = {mark!r}\n")
    return directory


def test_changed_sources_are_another_archive_and_come_from_the_jobs_checkout(tmp_path: Path) -> None:
    other = checkout(tmp_path / "other", "x")
    assert package_root(other / "streaming" / "any_job.py") == other
    assert package_root(tmp_path / "lonely_job.py") == REPOSITORY
    assert pack_modules(other, tmp_path).name != pack_modules(REPOSITORY, tmp_path).name


def test_without_a_cluster_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGRANK_HOME", str(tmp_path))
    with pytest.raises(InfraError, match=r"no cluster runs in .*`longrank up .*or name another with -m"):
        prepare(["list"], {})
    argv, _ = prepare(["list", "-m", "host:8081"], {})
    assert argv[-3:] == ["list", "-m", "host:8081"]


# ---- on the cluster

TINY_JOB = """
import sys
import time
from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.number_seq import NumberSequenceSource
from pyflink.datastream.functions import KeyedProcessFunction

class Mark(KeyedProcessFunction):
    def __init__(self, path):
        self.path = path
    def process_element(self, value, ctx):
        import schemas.topics
        with open(self.path, "w") as file:
            file.write(f"{schemas.topics.MARK} {schemas.topics.__file__}")
        if value == 3 and self.path.endswith("fails"):
            raise ValueError("told to fail")
        yield value

configuration = Configuration()
configuration.set_string("python.execution-mode", "thread")
environment = StreamExecutionEnvironment.get_execution_environment(configuration)
environment.set_parallelism(1)
source = NumberSequenceSource(0, int(sys.argv[2]))
numbers = environment.from_source(source, WatermarkStrategy.no_watermarks(), "numbers")
# Gently, and before any buffer: what lies in buffers would have to be worked off before a savepoint.
gentle = numbers.map(lambda value: (time.sleep(0.02), value)[1], Types.LONG())
gentle.key_by(lambda value: value % 7, key_type=Types.LONG()).process(Mark(sys.argv[1]), Types.LONG()).print()
environment.execute("tiny")
"""


def flink_command(cluster: LocalCluster, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LONGRANK_HOME": str(cluster.home)}
    return subprocess.run([FLINK, *map(str, words)], env=environment, capture_output=True, text=True, timeout=200)


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_job_runs_with_the_modules_it_was_sent_with_also_the_second_time(
    clean_cluster: LocalCluster, flink: FlinkRest, tmp_path: Path
) -> None:
    """Sent detached, stopped with a savepoint; then changed modules, which old interpreters must not hide."""
    seen = tmp_path / "seen"
    endless = str(10**12)
    for mark in ("first", "second"):
        job = checkout(tmp_path / mark, mark) / "streaming" / "tiny_job.py"
        job.write_text(TINY_JOB)
        sent = flink_command(clean_cluster, "run", "-d", job, seen, endless)
        assert sent.returncode == 0, sent.stderr + sent.stdout
        found = flink.find_job("tiny")
        assert found is not None
        flink.wait_running(found.job_id)
        until(seen.exists)
        savepoint = flink.stop_with_savepoint(found.job_id)
        assert savepoint.removeprefix("file:").startswith(str(clean_cluster.info().savepoints))
        assert flink.job_state(found.job_id) == "FINISHED"
        text = seen.read_text()
        assert text.startswith(f"{mark} ")
        assert str(REPOSITORY) not in text
        seen.unlink()


def test_a_failed_job_says_why_and_cancel_is_for_the_living(
    clean_cluster: LocalCluster, flink: FlinkRest, tmp_path: Path
) -> None:
    job = checkout(tmp_path / "checkout", "x") / "streaming" / "tiny_job.py"
    job.write_text(TINY_JOB)
    never = ("-Drestart-strategy.type=none",)
    sent = flink_command(clean_cluster, "run", "-d", *never, job, tmp_path / "fails", "10")
    assert sent.returncode == 0, sent.stderr + sent.stdout
    job_id = next(found.job_id for found in flink.jobs() if found.name == "tiny")
    assert flink.wait_state(job_id, ["FAILED"]) == "FAILED"
    assert "told to fail" in (flink.latest_exception(job_id) or "")
    with pytest.raises(FlinkRestError, match="is FAILED"):
        flink.wait_running(job_id)
    flink.cancel(job_id)
    assert flink.job_state(job_id) == "FAILED"


def test_flinks_own_exit_code_and_words_come_through(clean_cluster: LocalCluster) -> None:
    assert "jobs" in flink_command(clean_cluster, "list").stdout
    answer = flink_command(clean_cluster, "cancel", "0" * 32)
    assert answer.returncode != 0
    assert "0" * 32 in answer.stdout + answer.stderr
