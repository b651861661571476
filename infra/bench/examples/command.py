"""`longrank bench examples`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import mean
from typing import Any, Final

import click
from rich.console import Console

import streaming
from infra.bench.examples import level
from infra.bench.examples.workload import RECORDS_OF_REQUEST, SHOWN, Traffic, traffic
from infra.bench.sequence.produce import prepare_topics
from infra.bench.sequence.session import Session, session
from infra.bench.sequence.throughput import Compared, Rate, alternate, compare, run_once
from infra.unwind import unwind_when_told_to_end
from schemas.topics import EVENTS, EXAMPLES, IMPRESSIONS, RESPONSES, Topic
from schemas.v1.training_pb2 import TrainingExample
from scorer.landing.bounded import read_bounded
from streaming.config import ExampleJobConfig, load_config

PARTS: Final = ("throughput", "level")
INPUTS: Final[tuple[Topic, ...]] = (EVENTS, RESPONSES, IMPRESSIONS)
EXAMPLE_JOB: Final = Path(streaming.__file__).with_name("example_job.py")
_JOBS: Final = Compared(
    job=EXAMPLE_JOB,
    passthrough=Path(__file__).with_name("passthrough_job.py"),
    batched_passthrough=Path(__file__).with_name("batched_passthrough_job.py"),
)
#: Of the examples that come: the compilers are at work, and the first windows fill.
_SKIPPED_SHARE: Final = 0.25
_MEASURED_SHARE: Final = 0.6
#: Of the shipped configuration's windows: they must end well within the traffic.
_REVISION_WINDOW_MS: Final = 1_800_000


@click.command()
@click.option("--requests", default=60_000, show_default=True, type=click.IntRange(5_000), help="Prepared requests.")
@click.option("--users", default=5_000, show_default=True, type=click.IntRange(1), help="Whose they are.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Of every job, taking turns.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; repeatable.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Of every job's configuration.")
@click.option("--seed", default=1, show_default=True, help="Of the traffic.")
def command(
    requests: int, users: int, rounds: int, parts: tuple[str, ...], settings: tuple[str, ...], seed: int
) -> None:
    """The example job against two that only pass records on, on a cluster of its own: one slot, RocksDB.

    A request is a response of 40 candidates, an impression of 20 and ten events; the tasks are the shipped ones.
    Measured are records of all three topics per second with one slot and per CPU second of its TaskManager; bytes of an
    example; and the size of the state over a long replay.
    """
    unwind_when_told_to_end()
    settings = (f"revision_window_ms={_REVISION_WINDOW_MS}", *settings)
    load_config(ExampleJobConfig, None, settings)
    console = Console(stderr=True)
    bench = _Bench(console, settings, requests)
    with console.status("starting a cluster"), session() as running:
        console.print(f"preparing {requests * RECORDS_OF_REQUEST:,} records of {requests:,} requests")
        prepare_topics(running.bootstrap, traffic(Traffic(requests=requests, users=users, seed=seed)), lambda _: None)
        if "throughput" in (parts or PARTS):
            bench.throughput(running, rounds)
        if "level" in (parts or PARTS):
            bench.level(running)
    click.echo(
        json.dumps({"bench": "examples", "figures": bench.figures, "limits": bench.limits, "ratios": bench.ratios})
    )


class _Bench:
    def __init__(self, console: Console, settings: tuple[str, ...], requests: int) -> None:
        self._console, self._settings, self._requests = console, settings, requests
        self.figures: dict[str, Any] = {"cores": os.cpu_count()}
        self.limits: dict[str, float] = {}
        self.ratios: dict[str, float] = {}

    def throughput(self, running: Session, rounds: int) -> None:
        """Rates of the three jobs, taking turns; a first round warms up unseen."""
        rates = alternate(_JOBS, lambda job: self._rate(running, job), rounds=rounds, tell=self._console.print)
        figures, limits, ratios = compare(_JOBS, rates, "records")
        self.figures |= figures
        self.limits |= limits
        self.ratios |= ratios

    def _rate(self, running: Session, job: Path) -> Rate:
        # The job writes one record where the others write all that a request has. The sources keep step by event time,
        # so what is written says how much of every topic is read.
        records = RECORDS_OF_REQUEST if job == EXAMPLE_JOB else 1
        written = self._requests * RECORDS_OF_REQUEST // records
        begin = running.ends(EXAMPLES)
        rate = run_once(
            running,
            job,
            # Every run's transactions are its own.
            [*self._settings, f"sink.transactional_id_prefix=bench-{running.groups}"],
            skip=int(written * _SKIPPED_SHARE),
            count=int(written * _MEASURED_SHARE),
            inputs=INPUTS,
            output=EXAMPLES,
        )
        if job == EXAMPLE_JOB:
            self._sizes(running, begin)
        return Rate(per_second=rate.per_second * records, per_cpu_second=rate.per_cpu_second * records)

    def _sizes(self, running: Session, begin: dict[int, int]) -> None:
        sizes = []
        for record in read_bounded(running.bootstrap, EXAMPLES.name, begin):
            example = TrainingExample.FromString(record.value)
            if len(example.position) // 2 == SHOWN:
                sizes.append(len(record.value))
        if sizes:
            self.figures["example_bytes"] = {"mean": mean(sizes), "max": max(sizes), "targets": SHOWN, "tasks": 3}

    def level(self, running: Session) -> None:
        """The state over the whole traffic."""
        self._console.print("level: the state's size at every checkpoint")
        prefix = f"sink.transactional_id_prefix=bench-{running.groups}"
        examples = int(self._requests * (_SKIPPED_SHARE + _MEASURED_SHARE))
        found = level.measure(running, EXAMPLE_JOB, [*self._settings, prefix], INPUTS, examples)
        self._console.print(f"  {found['curve']}  up to {max(found['state_bytes']):,} bytes")
        self.figures["state"] = found
        self.ratios["last_to_third_quarter_of_state"] = found["last_to_third_quarter"]
