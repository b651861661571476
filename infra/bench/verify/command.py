"""`longrank bench verify`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median
from typing import Any, Final

import click
from rich.console import Console

from infra.bench.sequence.produce import prepare_topics
from infra.bench.sequence.session import session
from infra.bench.verify.child import WORK
from infra.bench.verify.world import world
from infra.errors import InfraError
from infra.unwind import unwind_when_told_to_end
from streaming.config import SequenceJobConfig, load_config

_TIMEOUT_S: Final = 3_600


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(10_000), help="Prepared events.")
@click.option("--users", default=10_000, show_default=True, type=click.IntRange(1), help="Whose they are.")
@click.option("--requests", default=10_000, show_default=True, type=click.IntRange(0), help="Answered and shown.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Of everything, taking turns.")
@click.option("--core", default=0, show_default=True, type=click.IntRange(0), help="Where it runs.")
@click.option("--seed", default=1, show_default=True, help="Of the events.")
def command(events: int, users: int, requests: int, rounds: int, core: int, seed: int) -> None:
    """`longrank verify` on one core, against only reading the same records there.

    Events with their updates and snapshots, and requests of 100 candidates with responses, impressions of 8 items and
    examples. `events_per_second` is that of all checks together; `histories_` is that of events and updates alone.
    """
    unwind_when_told_to_end()
    if core not in os.sched_getaffinity(0):
        raise click.BadParameter(f"there are {sorted(os.sched_getaffinity(0))}", param_hint="--core")
    console, rules = Console(stderr=True), load_config(SequenceJobConfig, None).settings()
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in WORK}
    with console.status("starting a cluster"), session() as running:
        console.print(f"preparing {events:,} events of {users:,} users, {requests:,} requests")
        prepare_topics(running.bootstrap, world(events, users, requests, rules, seed), lambda _: None)
        for turn in range(rounds):
            for what, results in found.items():
                results.append(_run(what, running.bootstrap, core))
                console.print(f"round {turn + 1} of {rounds}, {what}: {results[-1]}")
    if mismatches := sum(one["mismatches"] for what in ("verify", "histories") for one in found[what]):
        raise InfraError(f"{mismatches} mismatches in a world that is right")
    read = median(one["records"] / one["seconds"] for one in found["read"])
    seconds = median(one["seconds"] for one in found["verify"])
    histories = median(one["events"] / one["seconds"] for one in found["histories"])
    figures = {
        "cores": 1,
        "events": events,
        "events_per_second": events / seconds,
        "events_per_cpu_second": median(one["events"] / one["cpu_seconds"] for one in found["verify"]),
        "records_per_second": found["read"][0]["records"] / seconds,
        "histories_events_per_second": histories,
        "peak_rss_mb": max(one["peak_rss_mb"] for one in found["verify"]),
        "peak_rss_mb_of_reading": max(one["peak_rss_mb"] for one in found["read"]),
        "checked": found["verify"][0]["checked"],
    }
    limits = {"read_records_per_second": read}
    ratios = {"verify_to_read": figures["records_per_second"] / read}
    click.echo(json.dumps({"bench": "verify", "figures": figures, "limits": limits, "ratios": ratios}))


def _run(what: str, bootstrap: str, core: int) -> dict[str, Any]:
    """One of `WORK`, in a process of its own."""
    argv = [sys.executable, "-m", "infra.bench.verify.child", what, bootstrap, str(core)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        raise InfraError(f"{what} ended with {done.returncode}: {done.stderr.strip()[-1_500:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
