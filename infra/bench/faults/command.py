"""`longrank bench faults`: seeded kills under traffic; nothing may be lost or doubled."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from infra.bench.faults.bench import FaultsReport, FaultsSettings, progress_bar, run_faults
from infra.unwind import unwind_when_told_to_end

#: At the default rate 20 s, which is longer than most recoveries: there is traffic throughout.
_EVENTS_PER_KILL = 10_000


@click.command("faults")
@click.option("--kills", type=click.IntRange(0), default=5, show_default=True, help="SIGKILLs, drawn by the seed.")
@click.option("--seed", default=1, show_default=True, help="Of the traffic and of the kills.")
@click.option("--events", type=click.IntRange(1), help="In all [10,000 per kill, and as many after the last].")
@click.option("--rate", type=click.FloatRange(1), default=500.0, show_default=True, help="Events per second.")
@click.option("--taskmanagers", type=click.IntRange(1), default=2, show_default=True, help="One slot each.")
@click.option("--json", "as_json", is_flag=True, help="Nothing but the JSON object.")
def command(kills: int, seed: int, events: int | None, rate: float, taskmanagers: int, as_json: bool) -> None:
    """Kill TaskManagers, the JobManager and the broker of a cluster of its own while events flow, then rebuild every
    user's history from what the sequence job wrote and compare it with what the events make.

    A killed process is started again as it was, and the job recovers by itself. The local JobManager alone has no
    high availability: Flink is then started again whole, as `longrank up` does, and the job is resumed with `flink
    run -s` from its last retained checkpoint, as an operator would. Broker and topics are never repaired.

    Exits with 1 if an event was lost or doubled, a number is missing or has two digests, or anything else differs;
    logs and topics are then kept.
    """
    unwind_when_told_to_end()
    settings = FaultsSettings(
        kills=kills,
        seed=seed,
        events=events or (kills + 1) * _EVENTS_PER_KILL,
        events_per_second=rate,
        taskmanagers=taskmanagers,
    )
    home = Path(tempfile.mkdtemp(prefix="longrank-faults-"))
    faultless = False
    try:
        with progress_bar() as progress:
            report = run_faults(home, settings, progress)
        faultless = report.verdict.faultless
    finally:
        if faultless:
            shutil.rmtree(home)
        else:
            click.echo(f"kept for a look: {home}", err=True)
    if not as_json:
        _print(report)
    click.echo(json.dumps(report.document()))
    sys.exit(0 if faultless else 1)


def _print(report: FaultsReport) -> None:
    console = Console()
    table = Table("killed", "times", "recovery p50", "max", title="Recovery: from the kill to newer events visible")
    for victim, seconds in report.document()["figures"]["recovery_seconds"]["by_victim"].items():
        table.add_row(victim, str(seconds["kills"]), f"{seconds['p50']:.1f} s", f"{seconds['max']:.1f} s")
    console.print(table)
    verdict = report.verdict
    console.print(
        f"{verdict.accepted:,} accepted events of {verdict.users:,} users: {verdict.lost} lost, {verdict.doubled} "
        f"doubled, {verdict.gaps} gaps, {verdict.forks} forks; {verdict.repeated:,} updates written again, unchanged"
    )
    if verdict.mismatches:
        wrong = Table("kind", "where", "user", "what", title=f"{len(verdict.mismatches):,} mismatches, the first 20")
        for mismatch in verdict.mismatches[:20]:
            wrong.add_row(mismatch.kind, mismatch.where, str(mismatch.user_id), mismatch.detail)
        console.print(wrong)
