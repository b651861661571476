"""`longrank rebuild`: the sequence job's state is lost; its histories go back to it as SEED records."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from infra.home import require_bootstrap
from infra.progress import progress_bars
from infra.seed.rebuild import RebuildSettings, rebuild
from schemas.topics import PARTITIONS
from scorer.sequences.follower import follow_to_end
from scorer.sequences.partition import StoreSettings
from scorer.sequences.store import SequenceStore
from streaming.config import SequenceJobConfig, load_config


@click.command("rebuild")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="A store that nobody else has open, followed to the end first [one of this command's own].",
)
@click.option(
    "--sequence-job",
    "job_config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What the sequence job runs with [the defaults].",
)
@click.option("--timestamp-ms", type=click.IntRange(0), help="The records' time [now]; for replays of an old log.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def command(
    bootstrap: str | None, store: Path | None, job_config: Path | None, timestamp_ms: int | None, as_json: bool
) -> None:
    """Publish every user's history, as the updates and snapshots topics have it, as SEED records.

    Then start the job without a savepoint and with the generation that this prints, from its committed offsets as
    always. Nothing is asked of producers. A user who was erased stays erased.
    """
    config = load_config(SequenceJobConfig, job_config)
    address = require_bootstrap(bootstrap)
    sizes = StoreSettings(capacity=config.sequence.capacity, as_of_events=config.sequence.as_of_events)
    with (
        tempfile.TemporaryDirectory(prefix="longrank-rebuild-") as scratch,
        SequenceStore(store or Path(scratch), sizes) as histories,
        progress_bars() as progress,
    ):
        reading = progress.add_task("read updates and snapshots, records", total=None)
        follow_to_end(
            address,
            histories,
            range(PARTITIONS),
            on_progress=lambda done, total: progress.update(reading, completed=done, total=total),
        )
        publishing = progress.add_task("publish, events", total=None)
        settings = RebuildSettings(
            bootstrap=address,
            limits=config.record_limits(),
            window_events=config.dedupe.window_events,
            now_ms=timestamp_ms if timestamp_ms is not None else time.time_ns() // 1_000_000,
        )
        done = rebuild(histories, settings, lambda events: progress.advance(publishing, events))
    generation = max(done.generation, config.sequence.generation) + 1
    Console().print(
        f"{done.events:,} events of {done.users:,} users in {done.records:,} records; start the job with"
        f" sequence.generation={generation}" + (f"; {done.stale:,} users were stale" if done.stale else "")
    )
    if as_json:
        figures = {"users": done.users, "events": done.events, "records": done.records, "stale": done.stale}
        click.echo(json.dumps(figures | {"empty": done.empty, "generation": generation}))
