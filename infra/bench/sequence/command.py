"""`longrank bench sequence`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from rich.console import Console

from infra.bench.sequence import flatness, latency, sizes, throughput
from infra.bench.sequence.produce import prepare
from infra.bench.sequence.session import (
    BATCHED_PASSTHROUGH_JOB,
    PASSTHROUGH_JOB,
    SEQUENCE_JOB,
    Session,
    session,
)
from infra.bench.sequence.workload import Record, of_log, short_video, zipf_users
from infra.logs.open_log import open_log
from infra.unwind import unwind_when_told_to_end
from schemas.topics import EVENTS
from streaming.config import SequenceJobConfig, load_config

_JOBS: Final = throughput.Compared(
    job=SEQUENCE_JOB, passthrough=PASSTHROUGH_JOB, batched_passthrough=BATCHED_PASSTHROUGH_JOB
)
PARTS: Final = ("throughput", "latency", "flatness", "sizes")
#: Popularity of users: rank r has a weight of r ** -0.8.
_EXPONENT: Final = 0.8
#: Of the peak rate.
_SHARES: Final = (0.1, 0.8)
#: Records of a run that are not measured: the compilers are at work, users open their epochs.
_SKIPPED_SHARE: Final = 0.3
_MEASURED_SHARE: Final = 0.5
_WARM_S: Final = 5.0
_LATENCY_S: Final = 20.0
_SIZE_USERS: Final = 200
#: A recorded log's own times may be years from those of its records.
LOG_SETTINGS: Final = ("limits.max_lateness_ms=315360000000", "limits.max_earliness_ms=31536000000")


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(10_000), help="Prepared events.")
@click.option("--users", default=10_000, show_default=True, type=click.IntRange(1), help="Whose events they are.")
@click.option(
    "--log", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Throughput on a recorded log, too."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Of every job, taking turns.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; repeatable.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Of every job's configuration.")
@click.option("--seed", default=1, show_default=True, help="Of the events.")
def command(
    events: int,
    users: int,
    log: Path | None,
    rounds: int,
    parts: tuple[str, ...],
    settings: tuple[str, ...],
    seed: int,
) -> None:
    """The sequence job against two that only pass records on, on a cluster of its own: one slot, RocksDB.

    Rates with one TaskManager of one slot, and per CPU second of it; latency from publication to the delta at a
    consumer; what a user's n-th event costs; bytes in state, snapshots, deltas and checkpoints.
    """
    unwind_when_told_to_end()
    config = load_config(SequenceJobConfig, None, settings)
    console = Console(stderr=True)
    bench = _Bench(console, settings, config, seed, parts or PARTS)
    with console.status("starting a cluster"), session() as running:
        rng = np.random.default_rng(seed)
        console.print(f"preparing {events:,} events of {users:,} users")
        prepare(running.bootstrap, EVENTS.name, short_video(zipf_users(events, users, _EXPONENT, rng), seed), _quiet)
        bench.measure(running, events, users, rounds)
    if log is not None:
        recorded = open_log(log)
        with console.status("starting a cluster"), session() as running:
            console.print(f"preparing {len(recorded.arrival_ms):,} events of {recorded.name}")
            prepare(running.bootstrap, EVENTS.name, of_log(recorded, seed), _quiet)
            bench.throughput(running, len(recorded.arrival_ms), rounds, of=f"_{recorded.name}", more=LOG_SETTINGS)
    click.echo(
        json.dumps({"bench": "sequence", "figures": bench.figures, "limits": bench.limits, "ratios": bench.ratios})
    )


def _quiet(_: int) -> None:
    """No progress for what takes seconds."""


class _Bench:
    """Runs the parts and collects what they find."""

    def __init__(
        self,
        console: Console,
        settings: tuple[str, ...],
        config: SequenceJobConfig,
        seed: int,
        parts: tuple[str, ...],
    ) -> None:
        self._console, self._settings, self._config = console, settings, config
        self._seed, self._parts = seed, parts
        self.figures: dict[str, Any] = {"cores": os.cpu_count()}
        self.limits: dict[str, float] = {}
        self.ratios: dict[str, float] = {}

    def measure(self, running: Session, events: int, users: int, rounds: int) -> None:
        """All parts that were asked for, on prepared events."""
        if "throughput" in self._parts:
            self.throughput(running, events, rounds)
        if "latency" in self._parts:
            self._latency(running, events, users)
        if "flatness" in self._parts:
            self._flatness(running, users)
        if "sizes" in self._parts:
            self._sizes(running, users, events)

    def throughput(self, running: Session, events: int, rounds: int, of: str = "", more: Sequence[str] = ()) -> None:
        """Rates of the three jobs; `of` ends the names of the figures, `more` are settings."""

        def run(job: Path) -> throughput.Rate:
            skip, count = int(events * _SKIPPED_SHARE), int(events * _MEASURED_SHARE)
            return throughput.run_once(running, job, [*more, *self._settings], skip=skip, count=count)

        rates = throughput.alternate(_JOBS, run, rounds=rounds, tell=self._console.print)
        figures, limits, ratios = throughput.compare(_JOBS, rates, "events", of)
        self.figures |= figures
        self.limits |= limits
        self.ratios |= ratios

    def _latency(self, running: Session, events: int, users: int) -> None:
        peak = self.figures.get("events_per_second")
        if peak is None:
            self._console.print("latency: one run for the peak rate")
            peak = throughput.run_once(
                running,
                SEQUENCE_JOB,
                self._settings,
                skip=int(events * _SKIPPED_SHARE),
                count=int(events * _MEASURED_SHARE),
            ).per_second
            self.figures["events_per_second"] = peak
        job_id = running.start(SEQUENCE_JOB, self._settings, begin=running.ends(EVENTS))
        try:
            for number, share in enumerate(_SHARES):
                found = latency.measure(
                    running,
                    self._records(users, int(peak * share * (_WARM_S + _LATENCY_S)) + 1, number + 1),
                    per_second=peak * share,
                    warm_s=_WARM_S,
                    for_s=_LATENCY_S,
                )
                self._console.print(f"latency: {asdict(found)}")
                self.figures[f"event_to_delta_at_{share:.0%}"] = asdict(found)
        finally:
            running.flink.cancel(job_id)

    def _flatness(self, running: Session, users: int) -> None:
        first, seed = 10 * users, self._seed
        for name, measured in (
            ("in_job", flatness.in_job(running, self._settings, first, seed)),
            ("pure", flatness.pure(self._config, first, seed)),
        ):
            found = flatness.costs(measured, first, self._config.state.chunk_events)
            self._console.print(f"cost of the n-th event, {name}: {found}")
            self.figures[f"nth_event_{name}"] = found
            event_us = {place: found[str(place)]["event_us"] for place in flatness.PLACES}
            last = event_us[flatness.PLACES[-1]]
            self.ratios[f"last_to_first_event_{name}"] = last / event_us[flatness.PLACES[0]]
            self.ratios[f"last_to_thousandth_event_{name}"] = last / event_us[flatness.PLACES[1]]

    def _sizes(self, running: Session, users: int, events: int) -> None:
        base = events // 4
        total = base + sum(sizes.STEPS)
        turns = np.tile(np.arange(20 * users, 20 * users + _SIZE_USERS), total // _SIZE_USERS + 1)[:total]
        self._console.print(f"sizes: {_SIZE_USERS} users with {base // _SIZE_USERS:,} events each")
        records = short_video(turns, self._seed + 9)
        self.figures |= sizes.measure(running, self._settings, records, base, _SIZE_USERS, self._console.print)

    def _records(self, users: int, count: int, number: int) -> Iterator[Record]:
        rng = np.random.default_rng([self._seed, number])
        return short_video(zipf_users(count, users, _EXPONENT, rng), self._seed + number)
