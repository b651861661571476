"""A job as an operator handles it: `flink run`, the last retained checkpoint, stop with a savepoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from infra.cluster.local import LocalCluster
from infra.cluster.state import JOBMANAGER
from infra.errors import InfraError
from infra.flink_rest import TERMINAL_STATES, FlinkRest
from infra.waiting import wait_until


class FlinkJob:
    """One job on a local cluster, through restarts of all that carries it.

    The local JobManager has no high availability: killed, it forgets its jobs. What an operator does then can be done
    here, too: start Flink again, `flink run -s` from the job's last retained checkpoint.
    """

    def __init__(self, cluster: LocalCluster, name: str, arguments: Sequence[str] = ()) -> None:
        """`name`: of the module in `streaming`; `arguments`: of the job's command line, besides --bootstrap."""
        self._cluster = cluster
        self._file = _job_file(name)
        self._arguments = list(arguments)
        self.job_id = ""
        self.parallelism = 0
        #: The checkpoint or savepoint that the running job started from.
        self.started_from: str | None = None

    @property
    def arguments(self) -> list[str]:
        """Of the next start."""
        return self._arguments

    @property
    def rest(self) -> FlinkRest:
        """The JobManager; asked for anew each time, for it may have been started anew."""
        return FlinkRest(self._cluster.info().rest_url)

    def start(self, parallelism: int, restore_from: str | None = None) -> None:
        """`flink run`, and wait until all tasks run.

        Raises:
            InfraError: the cluster has too few slots, or the job was refused or ended.
        """
        wait_until(lambda: self.rest.overview()["slots-available"] >= parallelism, f"{parallelism} free slots")
        argv = [str(Path(sys.executable).with_name("flink")), "run", "-d", "-p", str(parallelism)]
        argv += ["-s", restore_from] if restore_from else []
        argv += [str(self._file), "--bootstrap", self._cluster.info().bootstrap, *self.arguments]
        environment = os.environ | {"LONGRANK_HOME": str(self._cluster.home)}
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        found = re.search(r"JobID ([0-9a-f]{32})", done.stdout)
        if done.returncode != 0 or found is None:
            raise InfraError(f"{' '.join(argv)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
        self.job_id, self.parallelism, self.started_from = found[1], parallelism, restore_from
        self.rest.wait_running(self.job_id)

    def stop(self) -> str:
        """Stop with a savepoint; returns its path."""
        return self.rest.stop_with_savepoint(self.job_id)

    def last_retained(self) -> str:
        """The newest complete checkpoint of the job, or what it started from when it has made none since.

        Raises:
            InfraError: there is neither.
        """
        # A checkpoint is complete when its metadata is there; Flink renames the file into place.
        known = self._cluster.peek()
        assert known is not None, "a job ran here"
        complete = known.checkpoints.joinpath(self.job_id).glob("chk-*/_metadata")
        newest = max(complete, key=lambda path: int(path.parent.name.removeprefix("chk-")), default=None)
        if newest is not None:
            return newest.parent.as_uri()
        if self.started_from is None:
            raise InfraError(f"job {self.job_id} has made no checkpoint to resume from")
        return self.started_from

    def wait_checkpoint(self, more: int = 1) -> None:
        """Until the job has completed `more` checkpoints than now.

        Raises:
            InfraError: the job ended, or time ran out.
        """
        wanted = self.rest.checkpoints(self.job_id).completed + more

        wait_until(
            lambda: self.rest.checkpoints(self.job_id).completed >= wanted,
            f"checkpoint {wanted} of job {self.job_id}",
            alarm=self.check,
        )

    def wait_recovered(self) -> None:
        """Until all tasks run (again).

        Raises:
            InfraError: the job ended, with the reason, or time ran out.
        """
        self.rest.wait_running(self.job_id)

    def check(self) -> None:
        """Say so if the job has ended.

        Raises:
            InfraError: with the reason.
        """
        state = self.rest.job_state(self.job_id)
        if state in TERMINAL_STATES:
            raise InfraError(f"job {self.job_id} is {state}: {self.rest.why(self.job_id)}")


class SequenceJob(FlinkJob):
    """The sequence job, configured by single keys."""

    def __init__(self, cluster: LocalCluster, settings: Sequence[str]) -> None:
        """`settings`: see the attribute."""
        super().__init__(cluster, "sequence_job")
        #: `section.key=value`, each for the job's --set; of the next start, when changed.
        self.settings = list(settings)

    @property
    def arguments(self) -> list[str]:
        """Of the next start."""
        return [word for setting in self.settings for word in ("--set", setting)]


def revive_jobmanager(cluster: LocalCluster, jobs: Sequence[FlinkJob]) -> None:
    """After the JobManager's death: another one, and its TaskManagers anew, which would cling to the dead one until its
    heartbeat times out; the jobs go on from their last retained checkpoints.

    Raises:
        InfraError: one of them did not come back, or a job has no checkpoint.
    """
    known = cluster.peek()
    assert known is not None, "a job ran here"
    resume_from = [job.last_retained() for job in jobs]
    for name in known.taskmanagers:
        cluster.kill(name)
    cluster.restart(JOBMANAGER, *known.taskmanagers)
    for job, checkpoint in zip(jobs, resume_from, strict=True):
        job.start(job.parallelism, checkpoint)


def _job_file(name: str) -> Path:
    spec = find_spec(f"streaming.{name}")
    assert spec is not None, "the job is a module of this checkout"
    assert spec.origin is not None
    return Path(spec.origin)
