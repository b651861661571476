"""What dies while the demo replays, by a seed, and what an operator then does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from infra.bench.faults.kills import shuffled_bag
from infra.cluster.local import LocalCluster
from infra.cluster.state import BROKER, JOBMANAGER, taskmanager
from infra.demo.scorer_process import ScorerProcess
from infra.flink_job import FlinkJob, revive_jobmanager

TASKMANAGERS: Final = 2


class Victim(StrEnum):
    """What gets SIGKILL."""

    TASKMANAGER = "taskmanager"
    JOBMANAGER = "jobmanager"
    SCORER = "scorer"
    BROKER = "broker"


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill, when so many events have been sent."""

    victim: Victim
    taskmanager: int
    at_event: int


def draw_kills(kills: int, events: int, rng: np.random.Generator) -> list[Kill]:
    """`kills` kills, each somewhere in its equal share of the events; every kind comes before one comes again."""
    bag = shuffled_bag(list(Victim), rng)
    drawn = []
    for index in range(kills):
        victim = next(bag)
        at_event = int((index + rng.uniform(0.1, 0.9)) * events / kills)
        drawn.append(Kill(victim=victim, taskmanager=int(rng.integers(TASKMANAGERS)), at_event=at_event))
    return drawn


class Killer:
    """Carries a plan out; `strike` is called with the number of events sent, again and again.

    Raises:
        InfraError: what was killed did not come back.
    """

    def __init__(
        self,
        plan: list[Kill],
        cluster: LocalCluster,
        jobs: list[FlinkJob],
        scorer: ScorerProcess,
        tell: Callable[[str], object],
    ) -> None:
        self._plan = sorted(plan, key=lambda kill: kill.at_event, reverse=True)
        self._cluster, self._jobs, self._scorer, self._tell = cluster, jobs, scorer, tell
        self.done: list[Kill] = []

    def strike(self, events: int) -> None:
        """Kill what is due, and start it again as an operator would; the traffic stands still meanwhile, what is on
        its way does not."""
        while self._plan and self._plan[-1].at_event <= events:
            kill = self._plan.pop()
            self._tell(f"SIGKILL to {kill.victim} after {events:,} events")
            self._kill(kill)
            self.done.append(kill)

    def _kill(self, kill: Kill) -> None:
        match kill.victim:
            case Victim.SCORER:
                self._scorer.kill_and_restart()
                self._scorer.wait_ready()
            case Victim.JOBMANAGER:
                self._cluster.kill(JOBMANAGER)
                revive_jobmanager(self._cluster, self._jobs)
            case Victim.TASKMANAGER | Victim.BROKER:
                name = BROKER if kill.victim is Victim.BROKER else taskmanager(kill.taskmanager)
                self._cluster.kill(name)
                self._cluster.restart(name)
                for job in self._jobs:
                    job.wait_recovered()
