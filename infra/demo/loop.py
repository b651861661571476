"""The whole loop, step by step: each step uses the commands that a person would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.demo.kills import TASKMANAGERS, Kill, Killer, draw_kills
from infra.demo.scorer_process import ScorerProcess
from infra.errors import InfraError
from infra.flink_job import FlinkJob
from infra.flink_rest import FlinkRest
from infra.logs.behaviour_log import BehaviourLog
from infra.replay.application import Application, ReplaySettings
from infra.replay.disturbance import DisturbancePlan, DisturbanceSettings
from infra.replay.driver import ReplayDriver, progress_bar
from infra.topics import apply_topics
from schemas.topics import EXAMPLES, PARTITIONS
from scorer.landing.bounded import read_bounded
from scorer.registry.registry import Registry
from streaming.config import ExampleJobConfig, SequenceJobConfig, load_config

REPOSITORY: Final = Path(__file__).parents[2]
SEQUENCE_CONFIG: Final = Path(__file__).with_name("sequence_job.yaml")
EXAMPLE_CONFIG: Final = Path(__file__).with_name("example_job.yaml")
RETRAIN_CONFIG: Final = Path(__file__).with_name("retrain.yaml")
_EXAMPLES_PATIENCE_S: Final = 120.0
#: Without news for so long, a replay has failed; more where parts of the loop are killed.
_CALM_STALL_S: Final = 60.0
_STALL_S: Final = 240.0
_POLL_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo does."""

    home: Path
    #: Share of the log's requests before the retrain.
    retrain_after: float = 0.7
    seed: int = 7
    disturbances: DisturbanceSettings = field(default_factory=DisturbanceSettings)
    #: Processes of the loop that die while it replays.
    kills: int = 0


@dataclass
class Loop:
    """A running loop and what it measured so far."""

    settings: DemoSettings
    log: BehaviourLog
    cluster: LocalCluster
    rest: FlinkRest
    bootstrap: str
    jobs: dict[str, FlinkJob]
    scorer: ScorerProcess
    application: Application
    plan: DisturbancePlan
    driver: ReplayDriver
    sequence_config: SequenceJobConfig
    example_config: ExampleJobConfig
    untrained: str
    retrained: str
    retrain: dict[str, Any]
    verify: dict[str, Any]
    kills: list[Kill]
    #: Where in log time the replay paused for the retrain; requests from then on met the retrained model.
    pause_ms: int

    @property
    def registry(self) -> Path:
        """Of the demo's bundles."""
        return self.settings.home / "registry"

    @property
    def trainer_store(self) -> Path:
        """The retrain's own SequenceStore."""
        return self.settings.home / "retrain" / "store"


class Steps:
    """Names each step for the person who watches, and takes its time."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        self.console, self._clock = console, clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step."""
        self.console.rule(f"[bold]{name}", align="left")
        started = self._clock()
        yield
        self.seconds[name] = self._clock() - started


@contextmanager
def run_loop(log: BehaviourLog, settings: DemoSettings, steps: Steps) -> Iterator[Loop]:
    """Run everything up to `verify`; the loop still runs inside the context, and nothing of it afterwards.

    Raises:
        InfraError: a part did not come up or ended; with the place of its log.
        ReplayStalledError: the system stopped answering.
    """
    home = settings.home
    sequence_config = load_config(SequenceJobConfig, SEQUENCE_CONFIG)
    example_config = load_config(ExampleJobConfig, EXAMPLE_CONFIG)
    window_ms = sequence_config.watermark.out_of_orderness_ms
    if log.task not in {label.task for label in example_config.labels}:
        raise InfraError(f"log {log.name} has task {log.task}, for which {EXAMPLE_CONFIG.name} has no label rule")
    with ExitStack() as stack:
        with steps.step("start"):
            cluster = LocalCluster(home)
            stack.callback(cluster.down)
            for left in ("registry", "store", "retrain"):
                shutil.rmtree(home / left, ignore_errors=True)
            # Each of these waits for a process of its own most of the time.
            with ThreadPoolExecutor() as pool:
                initialised = pool.submit(
                    _longrank, home, "bundle", "init", "--preset", "tiny", "--registry", str(home / "registry")
                )
                info = cluster.up(UpOptions(taskmanagers=TASKMANAGERS, short_lived=True), fresh=True)
                apply_topics(info.bootstrap, replay=True)
                jobs = {
                    name: FlinkJob(cluster, f"{name}_job", ["--config", str(config)])
                    for name, config in (("sequence", SEQUENCE_CONFIG), ("example", EXAMPLE_CONFIG))
                }
                submitted = [pool.submit(job.start, 1) for job in jobs.values()]
                initialised.result()
                scorer = stack.enter_context(
                    ScorerProcess(
                        info.bootstrap, home / "registry", home / "store", home / "logs" / "scorer.log", home=home
                    )
                )
                for started in submitted:
                    started.result()
            scorer.wait_ready()
        untrained = _current(home)

        plan = DisturbancePlan.draw(len(log.arrival_ms), settings.disturbances, np.random.default_rng(settings.seed))
        application = Application(
            log,
            plan,
            ReplaySettings(window_ms=window_ms),
            sequence_config.record_limits(),
            run_id=f"demo-{settings.seed}",
        )
        killer = Killer(
            draw_kills(settings.kills, len(log.arrival_ms), np.random.default_rng([settings.seed, 1])),
            cluster,
            list(jobs.values()),
            scorer,
            steps.console.print,
        )
        driver = ReplayDriver(
            application,
            info.bootstrap,
            stall_seconds=_STALL_S if settings.kills else _CALM_STALL_S,
            on_turn=lambda: killer.strike(application.counts.events),
        )
        stack.callback(driver.close)
        pause_ms = int(log.request_time_ms[int(len(log.request_time_ms) * settings.retrain_after)])
        label_window_ms = example_config.label_window_ms
        with steps.step("replay"), progress_bar() as progress:
            driver.run(until_ms=pause_ms - 1, progress=progress)
            driver.heartbeat(pause_ms, window_ms)
        with steps.step("examples"):
            # Requests whose label window has closed by now.
            cut_ms = pause_ms - label_window_ms
            _wait_examples(info.bootstrap, int(np.searchsorted(log.request_time_ms, cut_ms)))
        with steps.step("retrain"):
            command = ["retrain", "--home", str(home), "--bootstrap", info.bootstrap, "--cut-ms", str(cut_ms), "--json"]
            command += ["--config", str(RETRAIN_CONFIG)]
            retrain = json.loads(_longrank(home, *command).splitlines()[-1])
            scorer.wait_model(retrain["version"])
        with steps.step("replay the rest"), progress_bar() as progress:
            driver.run(progress=progress)
            driver.heartbeat(application.low_time_ms + label_window_ms + 1, window_ms)
        with steps.step("verify"):
            _wait_examples(info.bootstrap, application.counts.impressions)
            verdict = _longrank(home, "verify", "--bootstrap", info.bootstrap, "--store", "--json", accept=(0, 1))
        yield Loop(
            settings=settings,
            log=log,
            cluster=cluster,
            rest=FlinkRest(info.rest_url),
            bootstrap=info.bootstrap,
            jobs=jobs,
            scorer=scorer,
            application=application,
            plan=plan,
            driver=driver,
            sequence_config=sequence_config,
            example_config=example_config,
            untrained=untrained,
            retrained=retrain["version"],
            retrain=retrain,
            verify=json.loads(verdict.splitlines()[-1]),
            kills=killer.done,
            pause_ms=pause_ms,
        )


def _script(name: str) -> str:
    """A console script of the environment that this runs in."""
    return str(Path(sys.executable).with_name(name))


def _longrank(home: Path, *arguments: str, accept: tuple[int, ...] = (0,)) -> str:
    return _run(home, [_script("longrank"), *arguments], accept)


def _run(home: Path, argv: list[str], accept: tuple[int, ...]) -> str:
    """Run a command of ours in the repository, its progress on this terminal; returns its standard output."""
    done = subprocess.run(
        argv,
        cwd=REPOSITORY,
        env={**os.environ, "LONGRANK_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in accept:
        raise InfraError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def _current(home: Path) -> str:
    version = Registry(home / "registry").current()
    assert version is not None, "bundle init promotes what it makes"
    return version


def _wait_examples(bootstrap: str, shown: int) -> None:
    """Until every shown request has its example: they become visible with the example job's next checkpoint."""
    deadline = time.monotonic() + _EXAMPLES_PATIENCE_S
    found, begin = 0, dict.fromkeys(range(PARTITIONS), 0)
    while True:
        for record in read_bounded(bootstrap, EXAMPLES.name, begin):
            begin[record.partition] = record.offset + 1
            found += 1
        if found >= shown:
            return
        if time.monotonic() > deadline:
            raise InfraError(
                f"{found} examples of {shown} shown requests after {_EXAMPLES_PATIENCE_S} s; does the example job run?"
            )
        time.sleep(_POLL_S)
