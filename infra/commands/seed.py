"""`longrank seed PARQUET`: years of history in front of what the sequence job holds."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from infra.home import require_bootstrap
from infra.progress import progress_bars
from infra.seed.errors import SeedError
from infra.seed.parquet import SeedSource
from infra.seed.run import Seeding, seed
from infra.seed.work import Plan, WorkDirectory
from streaming.config import SequenceJobConfig, load_config

#: About 100 MB in memory. The source is read once for each shard.
_EVENTS_PER_SHARD: Final = 500_000


@click.command("seed")
@click.argument("parquet", type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="What is packed [PARQUET.seed].")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option(
    "--processes", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="For packing."
)
@click.option(
    "--shards", type=click.IntRange(1), help="Of users; a process holds one in memory [one for each 500,000 events]."
)
@click.option("--id-offset", default=0, show_default=True, help="Added to user, item and group ids; ours begin with 1.")
@click.option(
    "--sequence-job",
    "job_config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What the sequence job runs with: its limits and its dedupe window [the defaults].",
)
@click.option("--timestamp-ms", type=click.IntRange(0), help="The records' time [now]; for replays of an old log.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until the job has applied them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def command(
    parquet: Path,
    work: Path | None,
    bootstrap: str | None,
    processes: int,
    shards: int | None,
    id_offset: int,
    job_config: Path | None,
    timestamp_ms: int | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Pack the histories in PARQUET (columns: user_id, item_id, event_time_ms, ...) and publish them as SEED records.

    Each goes in front of what its user has, under a new epoch; the job goes on live meanwhile. Run it again after an
    interruption: it goes on where it was, and a history that was published twice is applied once.
    """
    config = load_config(SequenceJobConfig, job_config)
    events = SeedSource(parquet).check()
    plan = Plan.of(
        parquet,
        shards=shards or -(-events // _EVENTS_PER_SHARD) or 1,
        id_offset=id_offset,
        max_events=config.limits.max_seed_events,
        window_events=config.dedupe.window_events,
        now_ms=timestamp_ms if timestamp_ms is not None else time.time_ns() // 1_000_000,
    )
    directory = WorkDirectory(work or parquet.with_name(f"{parquet.name}.seed"), plan)
    with progress_bars() as progress:
        done = seed(
            Seeding(
                directory=directory,
                bootstrap=require_bootstrap(bootstrap, None),
                limits=config.record_limits(),
                processes=processes,
                wait=wait,
                group=config.kafka.group_id,
            ),
            events,
            progress,
        )
    Console().print(
        f"{done.events:,} events of {done.users:,} users in {done.records:,} records of {done.bytes / 1e6:,.1f} MB;"
        f" packed after {done.pack_seconds:.1f} s, published after {done.publish_seconds:.1f} s"
        + (f", applied after {done.apply_seconds:.1f} s" if wait else "")
        + (f"; {done.cut:,} older events left out" if done.cut else "")
    )
    if as_json:
        click.echo(json.dumps(done.as_dict()))
    if done.refused:
        raise SeedError(f"the job refused {len(done.refused)} records: " + "; ".join(done.refused[:5]))
