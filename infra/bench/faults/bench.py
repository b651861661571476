"""N seeded kills under one traffic run, and its figures."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import Progress

from infra.bench.faults.judgement import Verdict
from infra.bench.faults.kills import draw_kills
from infra.bench.faults.run import PROBE_EVENTS, RunSettings, TrafficRun
from infra.bench.faults.traffic import TrafficSettings
from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.errors import InfraError
from infra.progress import progress_bars
from infra.topics import apply_topics

#: The probes of a kill must fit between the kill and the end of its share of the traffic.
MIN_EVENTS_PER_KILL = 4 * PROBE_EVENTS


@dataclass(frozen=True, kw_only=True)
class FaultsSettings:
    """What the bench does."""

    kills: int
    seed: int
    events: int
    events_per_second: float
    taskmanagers: int

    def __post_init__(self) -> None:
        if self.events < (self.kills + 1) * MIN_EVENTS_PER_KILL:
            raise InfraError(
                f"{self.events} events are too few to see {self.kills} recoveries by; "
                f"ask for {(self.kills + 1) * MIN_EVENTS_PER_KILL} or more"
            )


@dataclass(kw_only=True)
class FaultsReport:
    """What the bench found; seconds by what was killed."""

    settings: FaultsSettings
    verdict: Verdict
    recovery_seconds: dict[str, list[float]]
    #: From `flink run` on the idle cluster until the first updates are visible.
    start_seconds: float
    #: From the first event until the last update is visible, kills included.
    traffic_seconds: float

    def document(self) -> dict[str, Any]:
        """The JSON object of the last line."""
        verdict = self.verdict
        every = [seconds for several in self.recovery_seconds.values() for seconds in several]
        middle = median(every) if every else 0.0
        counted = ("accepted", "duplicates", "refused", "erased", "seeded", "users", "lost", "doubled", "gaps", "forks")
        return {
            "bench": "faults",
            "figures": {
                "kills": self.settings.kills,
                "seed": self.settings.seed,
                "events": self.settings.events,
                **{name: getattr(verdict, name) for name in counted},
                "repeated_updates": verdict.repeated,
                "mismatches": len(verdict.mismatches),
                "mismatch_kinds": dict(Counter(mismatch.kind for mismatch in verdict.mismatches)),
                "recovery_seconds": {
                    "p50": round(middle, 2),
                    "max": round(max(every, default=0.0), 2),
                    "by_victim": {
                        victim: {"kills": len(several), "p50": round(median(several), 2), "max": round(max(several), 2)}
                        for victim, several in sorted(self.recovery_seconds.items())
                    },
                },
            },
            "limits": {
                "start_seconds": round(self.start_seconds, 2),
                "traffic_seconds": round(self.traffic_seconds, 2),
                "offered_events_per_second": self.settings.events_per_second,
            },
            "ratios": {
                "recovery_to_start": round(middle / self.start_seconds, 3),
                "kept_rate": round(self.settings.events / self.traffic_seconds / self.settings.events_per_second, 3),
            },
        }


def run_faults(
    home: Path,
    settings: FaultsSettings,
    progress: Progress | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> FaultsReport:
    """Bring up a cluster below `home`, run, judge, take the cluster down.

    Raises:
        InfraError: the cluster did not come up, or the job did not come back; the logs below `home` say why.
    """
    kills = draw_kills(
        settings.kills, settings.events, settings.taskmanagers, np.random.default_rng((settings.seed, settings.kills))
    )
    run_settings = RunSettings(
        traffic=TrafficSettings(events=settings.events, seed=settings.seed),
        events_per_second=settings.events_per_second,
        job_settings=(
            # A job's restarts are counted anew only after `job.restart_calm_ms` without any, and a killed TaskManager
            # costs two: it is still listed when the job is first deployed again. Kills in quick succession must
            # neither use up the restarts nor make each pause longer than the last.
            f"job.restart_attempts={10 * (settings.kills + 1)}",
            "job.restart_max_delay_ms=2000",
        ),
    )
    bar = progress.add_task("start", total=settings.events) if progress else None

    def show(what: str, completed: int) -> None:
        if progress and bar is not None:
            progress.update(bar, description=what, completed=completed)

    cluster = LocalCluster(home)
    recovery: dict[str, list[float]] = defaultdict(list)
    try:
        info = cluster.up(UpOptions(taskmanagers=settings.taskmanagers, short_lived=True))
        apply_topics(info.bootstrap, replay=True)
        with TrafficRun(cluster, run_settings) as run:
            started = clock()
            run.flow(1)
            run.job.start(settings.taskmanagers)
            run.wait_visible(0, 1)
            flowing = clock()
            for number, kill in enumerate(kills, 1):
                show(f"kill {number} of {len(kills)}: {kill.victim.value}", kill.at_event)
                if number == 1:
                    # An operator resumes from a checkpoint: there must be one.
                    run.job.wait_checkpoint()
                recovery[kill.victim.value].append(run.kill(kill))
                show(f"kill {number} of {len(kills)}: {kill.victim.value}", kill.until_event)
            run.settle(settings.events)
            ended = clock()
            run.job.stop()
            show("judge", settings.events)
            verdict = run.judge()
    finally:
        cluster.down()
    return FaultsReport(
        settings=settings,
        verdict=verdict,
        recovery_seconds=dict(recovery),
        start_seconds=flowing - started,
        traffic_seconds=ended - flowing,
    )


def progress_bar() -> Progress:
    """The bar that the bench shows."""
    return progress_bars("events")
