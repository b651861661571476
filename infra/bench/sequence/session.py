"""The bench's own cluster and the jobs on it: one broker, one JobManager, one TaskManager of one slot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psutil
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

import streaming
from infra.bench.sequence.rest import BenchRest
from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.cluster.state import taskmanager
from infra.errors import InfraError
from infra.topics import apply_topics
from schemas.topics import EVENTS, Topic

PASSTHROUGH_JOB: Final = Path(__file__).with_name("passthrough_job.py")
BATCHED_PASSTHROUGH_JOB: Final = Path(__file__).with_name("batched_passthrough_job.py")
SEQUENCE_JOB: Final = Path(streaming.__file__).with_name("sequence_job.py")
#: A setting: checkpoints come when they are asked for.
NO_CHECKPOINTS: Final = "job.checkpoint_interval_ms=86400000"
_SUBMIT_TIMEOUT_S: Final = 180
_LOOK_S: Final = 0.25
_PATIENCE_S: Final = 60.0


@dataclass
class Session:
    """A running cluster, and what is needed to put jobs on it and watch them."""

    local: LocalCluster
    flink: BenchRest
    bootstrap: str
    groups: int = 0

    @property
    def taskmanager(self) -> psutil.Process:
        """The one TaskManager's process, as of now."""
        return psutil.Process(self.local.info().pid(taskmanager(0)))

    def start(
        self,
        job: Path,
        settings: Sequence[str] = (),
        *,
        begin: Mapping[int, int] | None = None,
        topics: Sequence[Topic] = (EVENTS,),
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Submits a job under a consumer group of its own and waits until it runs; its id.

        Args:
            begin: the offset of each partition of every topic; else from the first record.
            topics: what the job reads.
            environment: what the client finds in its own, besides this process's.

        Raises:
            InfraError: the job was refused or failed, with the client's last words.
        """
        self.groups += 1
        group = f"bench-{self.groups}"
        self._commit_start(group, topics, begin or {})
        command = [str(Path(sys.executable).with_name("flink")), "run", "-d", "-p", "1", str(job)]
        command += ["--bootstrap", self.bootstrap, "--set", f"kafka.group_id={group}"]
        if topics == (EVENTS,):
            # Each starts without state.
            command += ["--set", f"sequence.generation={self.groups}"]
        command += [word for setting in settings for word in ("--set", setting)]
        inherited = os.environ | {"LONGRANK_HOME": str(self.local.home)} | dict(environment or {})
        done = subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=_SUBMIT_TIMEOUT_S)
        found = re.search(r"JobID ([0-9a-f]{32})", done.stdout)
        if done.returncode or not found:
            raise InfraError(f"{job.name} was not started:\n{(done.stdout + done.stderr).strip()[-1500:]}")
        self.flink.wait_running(found[1])
        return found[1]

    def _commit_start(self, group: str, topics: Sequence[Topic], begin: Mapping[int, int]) -> None:
        partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
        offsets = {one: OffsetAndMetadata(begin.get(one.partition, 0), "", -1) for one in partitions}
        admin: Any = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.alter_group_offsets(group, offsets)
        finally:
            admin.close()

    def ends(self, topic: Topic) -> dict[int, int]:
        """End offset of every partition of a topic."""
        consumer: Any = KafkaConsumer(bootstrap_servers=self.bootstrap)
        try:
            partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
            return {one.partition: int(end) for one, end in consumer.end_offsets(partitions).items()}
        finally:
            consumer.close()


@contextmanager
def session(*, prometheus: bool = False) -> Iterator[Session]:
    """A cluster in a temporary home, with our topics; ended and removed at the end, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="longrank-bench-", ignore_cleanup_errors=True) as home:
        local = LocalCluster(home)
        try:
            info = local.up(UpOptions(taskmanagers=1, prometheus=prometheus))
            apply_topics(info.bootstrap, replay=True)
            yield Session(local, BenchRest(info.rest_url), info.bootstrap)
        finally:
            local.down()


class Sample(NamedTuple):
    """What was there at a moment: s of a monotonic clock, records in the topic, CPU seconds of the TaskManager."""

    time_s: float
    records: int
    cpu_s: float


class Watch:
    """Looks at a topic's end and at the TaskManager's CPU time four times a second, in a thread of its own."""

    def __init__(self, running: Session, topic: Topic) -> None:
        self._partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        self._running = running
        self._changed = threading.Condition()
        self._samples: list[Sample] = []
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        # What is written from now on counts: not only what comes after a first look that was slow to come.
        with self._changed:
            self._changed.wait_for(lambda: self._samples or self._error is not None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def until(self, records: int, why: Callable[[], str]) -> list[Sample]:
        """All samples, from the first look to the one that sees `records` more than the first.

        Args:
            why: asked for the reason when nothing moves.

        Raises:
            InfraError: the topic has not grown for a minute.
        """
        seen, since = -1, time.monotonic()
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if self._samples:
                    newest = self._samples[-1]
                    if newest.records >= self._samples[0].records + records:
                        return list(self._samples)
                    if newest.records > seen:
                        seen, since = newest.records, newest.time_s
                if time.monotonic() - since > _PATIENCE_S:
                    raise InfraError(f"the job stands still at {seen} records of {records}: {why()}")
                self._changed.wait(_LOOK_S)

    def _look(self) -> None:
        consumer: Any = KafkaConsumer(bootstrap_servers=self._running.bootstrap)
        try:
            while not self._ended.is_set():
                # Asked each time: a TaskManager that has run other code is started afresh before a job.
                cpu = self._running.taskmanager.cpu_times()
                ends = consumer.end_offsets(self._partitions)
                with self._changed:
                    self._samples.append(Sample(time.monotonic(), sum(ends.values()), cpu.user + cpu.system))
                    self._changed.notify_all()
                self._ended.wait(_LOOK_S)
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            consumer.close()
