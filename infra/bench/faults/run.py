"""One traffic run on a local cluster: the job, what feeds it, what reads it, and what breaks under it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from infra.bench.faults.judgement import Verdict, Written, judge
from infra.bench.faults.kills import Kill, Victim
from infra.bench.faults.publisher import Publisher
from infra.bench.faults.traffic import Traffic, TrafficSettings
from infra.bench.faults.watcher import Watcher
from infra.cluster.local import LocalCluster
from infra.cluster.state import BROKER, JOBMANAGER, taskmanager
from infra.flink_job import SequenceJob, revive_jobmanager
from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, SNAPSHOTS, UPDATES, Topic
from scorer.landing.bounded import Landed, read_bounded
from streaming.config import SequenceJobConfig, load_config

#: So many events after a kill have to become visible before the job counts as recovered: all partitions are in them.
PROBE_EVENTS: Final = 200


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How the job runs and how fast the traffic flows."""

    traffic: TrafficSettings
    events_per_second: float = 1_000.0
    checkpoint_interval_ms: int = 2_000
    #: Beyond those of the harness, `section.key=value` for the job.
    job_settings: tuple[str, ...] = ()

    def overrides(self) -> list[str]:
        """For the job's --set."""
        return [
            f"job.checkpoint_interval_ms={self.checkpoint_interval_ms}",
            # Small enough that the busiest users are evicted from and snapshotted many times.
            "sequence.capacity=400",
            "sequence.as_of_events=100",
            "snapshot.every_events=150",
            "snapshot.max_age_ms=20000",
            *self.job_settings,
        ]


class TrafficRun:
    """Context manager: inside, the traffic can flow; the cluster is somebody else's and stays up.

    The topics must be empty, with first offsets committed, and made for replaying an old log.
    """

    def __init__(
        self, cluster: LocalCluster, settings: RunSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.cluster = cluster
        self._clock = clock
        self._rules = load_config(SequenceJobConfig, None, settings.overrides())
        self.traffic = Traffic(settings.traffic, self._rules.record_limits())
        self.job = SequenceJob(cluster, settings.overrides())
        bootstrap = cluster.info().bootstrap
        self._publisher = Publisher(bootstrap, self.traffic, events_per_second=settings.events_per_second)
        self._watcher = Watcher(bootstrap, self.traffic)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._watcher)
            stack.enter_context(self._publisher)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def sent(self) -> int:
        """Events sent so far."""
        return self._publisher.sent

    def flow(self, until_event: int) -> None:
        """Let the traffic flow up to this event, without waiting for it."""
        self._publisher.allow(until_event)

    def wait_sent(self, events: int) -> None:
        """Until so many events were sent.

        Raises:
            InfraError: a record could not be written, or time ran out.
        """
        self._publisher.wait_sent(events)

    def settle(self, until_event: int) -> None:
        """Let the traffic flow up to this event, and wait until all that it leads to is visible.

        Raises:
            InfraError: a record could not be written or read, the job ended, or time ran out.
        """
        self.flow(until_event)
        self.wait_sent(until_event)
        self._publisher.flush()
        self._watcher.wait_all_seen(until_event, self._check)

    def wait_visible(self, first: int, last: int) -> None:
        """Until the updates of the events first .. last - 1 are visible.

        Raises:
            InfraError: as `settle`.
        """
        self._watcher.wait_seen(first, last, self._check)

    def kill(self, kill: Kill) -> float:
        """Kill under traffic, restart what was killed, and wait until what came after the kill is visible.

        1. The traffic reaches the event of the kill, and the job the events shortly before it.
        2. SIGKILL, while the traffic flows on.
        3. What was killed is started again. With a JobManager its TaskManagers are, as `longrank up` does (they would
           cling to the dead one until its heartbeat times out), and its job is resumed from the last retained
           checkpoint.
        4. Events sent after the kill are visible, and every task runs.

        Returns:
            Seconds from the kill until the updates of events sent after it were visible.

        Raises:
            InfraError: as `settle`.
        """
        # 1
        self.flow(kill.until_event)
        self.wait_sent(kill.at_event)
        self.wait_visible(0, max(1, kill.at_event - PROBE_EVENTS))
        # 2
        names = self._names(kill)
        for name in names:
            self.cluster.kill(name)
        killed_at, first_after = self._clock(), self.sent
        # 3
        if kill.victim is Victim.JOBMANAGER:
            revive_jobmanager(self.cluster, [self.job])
        else:
            self.cluster.restart(*names)
        # 4
        self.wait_visible(first_after, min(first_after + PROBE_EVENTS, kill.until_event))
        seconds = self._clock() - killed_at
        self.job.wait_recovered()
        return seconds

    def judge(self) -> Verdict:
        """What became of all events so far. Nothing may be on its way: see `settle`.

        Raises:
            BoundedReadError: the broker stopped answering.
        """
        bootstrap = self.cluster.info().bootstrap

        def read(topic: Topic) -> Sequence[Landed]:
            return list(read_bounded(bootstrap, topic.name))

        return judge(
            Written(
                events=read(EVENTS),
                updates=read(UPDATES),
                snapshots=read(SNAPSHOTS),
                dead_letters=read(DEAD_LETTER_TOPICS[EVENTS.name]),
            ),
            self.traffic.malformed,
            generation=self._rules.sequence.generation,
            dedupe_window=self._rules.dedupe.window_events,
            kept_events=self._rules.settings().kept_events,
        )

    def _check(self) -> None:
        self._publisher.check()
        self.job.check()

    def _names(self, kill: Kill) -> list[str]:
        match kill.victim:
            case Victim.TASKMANAGER:
                return [taskmanager(kill.taskmanager)]
            case Victim.EVERY_TASKMANAGER:
                return self._taskmanagers()
            case Victim.JOBMANAGER:
                return [JOBMANAGER]
            case Victim.BROKER:
                return [BROKER]

    def _taskmanagers(self) -> list[str]:
        known = self.cluster.peek()
        assert known is not None, "the cluster was up when the run began"
        return known.taskmanagers
