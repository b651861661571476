"""`longrank replay LOG`: a recorded log as live traffic."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from infra.home import require_bootstrap
from infra.logs.open_log import open_log
from infra.replay.application import Application, ReplaySettings
from infra.replay.disturbance import DisturbancePlan, DisturbanceSettings
from infra.replay.driver import ReplayDriver, progress_bar
from streaming.config import SequenceJobConfig, load_config

_DAY_MS = 86_400_000
DEMO_SEQUENCE_JOB = Path(__file__).parents[1] / "demo" / "sequence_job.yaml"


@click.command("replay")
@click.argument("log", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option("--fraction", default=1.0, show_default=True, help="Only the log's first part, by requests.")
@click.option("--speed", type=float, help="Log seconds per second; default as fast as the answers come.")
@click.option(
    "--sequence-job",
    "job_config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=DEMO_SEQUENCE_JOB,
    help="What the sequence job runs with: its limits, and how far records may be out of order.",
)
@click.option("--duplicates", default=0.01, show_default=True, help="Share of events sent twice.")
@click.option("--late", default=0.01, show_default=True, help="Share of events held back.")
@click.option("--malformed", default=0.001, show_default=True, help="Malformed records per event.")
@click.option("--seed", default=7, show_default=True, help="Of the disturbances.")
@click.option("--run-id", help="Makes the event ids; give the same one to send the same events again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def command(
    log: Path,
    bootstrap: str | None,
    fraction: float,
    speed: float | None,
    job_config: Path,
    duplicates: float,
    late: float,
    malformed: float,
    seed: int,
    run_id: str | None,
    as_json: bool,
) -> None:
    """Send LOG, a directory in the bundled log's or in KuaiRand's format, as live traffic in arrival order.

    A request names the number that its user's history must have reached, and the scorer waits for it; impressions and
    feedback follow the responses. The sequence job and a scorer must be running. Ends with heartbeats beyond the last
    record.
    """
    behaviour = open_log(log)
    if fraction < 1:
        behaviour = behaviour.head(fraction)
    disturbances = DisturbanceSettings(duplicate_share=duplicates, late_share=late, malformed_share=malformed)
    plan = DisturbancePlan.draw(len(behaviour.arrival_ms), disturbances, np.random.default_rng(seed))
    config = load_config(SequenceJobConfig, job_config)
    window_ms = config.watermark.out_of_orderness_ms
    application = Application(
        behaviour,
        plan,
        ReplaySettings(window_ms=window_ms),
        config.record_limits(),
        run_id=run_id or uuid.uuid4().hex,
    )
    driver = ReplayDriver(application, require_bootstrap(bootstrap))
    try:
        with progress_bar() as progress:
            driver.run(speed=speed, progress=progress)
        # A day is beyond every label window.
        driver.heartbeat(application.low_time_ms + _DAY_MS, window_ms)
    finally:
        driver.close()
    figures = driver.timings.summary()
    figures["events_per_second"] = application.counts.deltas / figures["seconds"]
    if as_json:
        click.echo(json.dumps({"counts": asdict(application.counts), "figures": figures}))
        return
    console = Console()
    console.print({name: value for name, value in asdict(application.counts).items() if value})
    console.print({name: round(value, 1) for name, value in figures.items()})
