"""What breaks in the life of a cluster, under traffic: afterwards every user's history is the one the events make.

One job and one traffic go through all of it, in the order of this file, so that the cluster starts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.bench.faults.kills import Kill, Victim
from infra.bench.faults.run import RunSettings, TrafficRun
from infra.bench.faults.traffic import TrafficSettings
from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.flink_rest import TERMINAL_STATES, FlinkRest
from infra.topics import recreate_topics
from infra.waiting import wait_until

pytestmark = pytest.mark.cluster

#: Events of one scenario, before, during and after its fault.
SHARE = 2_500
SCENARIOS = 7
SETTINGS = RunSettings(
    traffic=TrafficSettings(events=SHARE * SCENARIOS, seed=11),
    checkpoint_interval_ms=1_000,
    job_settings=("job.restart_attempts=50", "job.restart_max_delay_ms=2000"),
)


@pytest.fixture(scope="module")
def run(cluster: LocalCluster) -> Iterator[TrafficRun]:
    """The job at parallelism 2 with some history, past its first checkpoint."""
    info = cluster.up(UpOptions(taskmanagers=2, short_lived=True))
    end_jobs(FlinkRest(info.rest_url))
    recreate_topics(info.bootstrap, replay=True)
    with TrafficRun(cluster, SETTINGS) as run:
        run.flow(SHARE // 2)
        run.job.start(2)
        run.settle(SHARE // 2)
        run.job.wait_checkpoint()
        yield run
    end_jobs(run.job.rest)


def end_jobs(rest: FlinkRest) -> None:
    for job in rest.jobs():
        if job.state not in TERMINAL_STATES:
            rest.cancel(job.job_id)


def assert_histories_equal_the_oracle(run: TrafficRun) -> None:
    verdict = run.judge()
    assert verdict.mismatches == []
    assert (verdict.lost, verdict.doubled, verdict.gaps, verdict.forks) == (0, 0, 0, 0)
    assert verdict.accepted > 0.9 * run.sent
    assert min(verdict.users, verdict.duplicates, verdict.refused) > 0


def kill_within_the_next_share(run: TrafficRun, victim: Victim, taskmanager: int = 0) -> None:
    until = run.sent + SHARE
    run.kill(Kill(victim=victim, taskmanager=taskmanager, at_event=run.sent + SHARE // 3, until_event=until))
    run.settle(until)


def test_a_taskmanager_killed_mid_stream(run: TrafficRun) -> None:
    kill_within_the_next_share(run, Victim.TASKMANAGER, taskmanager=1)
    run.job.rest.wait_restarted(run.job.job_id)
    assert_histories_equal_the_oracle(run)


def test_the_broker_killed_and_started_again(run: TrafficRun) -> None:
    kill_within_the_next_share(run, Victim.BROKER)
    assert_histories_equal_the_oracle(run)


@contextmanager
def unusable(directory: Path) -> Iterator[None]:
    """As when a disk is unmounted: the files are away, and nothing can be written in their place."""
    away = directory.with_name(f"{directory.name}-away")
    directory.rename(away)
    directory.touch()
    yield
    directory.unlink()
    away.rename(directory)


def test_checkpoints_that_fail_until_their_storage_is_back(run: TrafficRun) -> None:
    until = run.sent + SHARE
    rest, job_id = run.job.rest, run.job.job_id
    failed, restarts = rest.checkpoints(job_id).failed, rest.restarts(job_id)
    run.flow(until)
    run.wait_sent(until - SHARE // 2)
    with unusable(run.cluster.info().checkpoints):
        wait_until(lambda: rest.checkpoints(job_id).failed > failed, "a failed checkpoint")
        # Not only could no checkpoint be made: what the job was to go back to could not be read.
        wait_until(lambda: rest.restarts(job_id) > restarts, "a restart without its checkpoint")
    run.job.wait_checkpoint()
    run.settle(until)
    assert_histories_equal_the_oracle(run)


def test_the_jobmanager_killed_and_its_job_resumed_from_the_last_retained_checkpoint(run: TrafficRun) -> None:
    killed = run.job.job_id
    kill_within_the_next_share(run, Victim.JOBMANAGER)
    assert run.job.job_id != killed
    assert run.job.started_from is not None
    assert f"/{killed}/chk-" in run.job.started_from
    assert_histories_equal_the_oracle(run)


def test_all_stopped_and_started_from_a_savepoint_with_five_subtasks_and_then_with_three(run: TrafficRun) -> None:
    first, second = run.sent + SHARE, run.sent + 2 * SHARE
    for parallelism, taskmanagers, until in ((5, 5, first), (3, 5, second)):
        run.flow(until)
        # Stopped mid-stream: what the sources have not read yet is the next start's.
        run.wait_sent(until - SHARE // 2)
        savepoint = run.job.stop()
        if parallelism == 5:
            run.cluster.down()
            run.cluster.up(UpOptions(taskmanagers=taskmanagers, short_lived=True))
        run.job.start(parallelism, savepoint)
        run.settle(until)
        assert_histories_equal_the_oracle(run)
