"""`longrank land LAKE`: examples from Kafka to Parquet, for notebooks and offline training."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from infra.errors import InfraError
from infra.home import require_bootstrap
from infra.progress import progress_bars
from schemas.topics import EXAMPLES
from scorer.landing.bounded import read_bounded, read_bounds
from scorer.landing.compact import compact, drop_days, forget_users
from scorer.landing.lake import Lake
from scorer.landing.land import LandReport, land

#: A day's small files beyond which a run merges them by itself.
_SMALL_FILES: Final = 16


@click.command("land")
@click.argument("lake")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option("--compact", "compact_all", is_flag=True, help=f"Merge all small files [a day's above {_SMALL_FILES}].")
@click.option("--keep-days", type=click.IntRange(1), help="Delete what is older than so many UTC days [keep all].")
@click.option("--accept-hole", is_flag=True, help="Go on behind examples that Kafka deleted before they were landed.")
@click.option("--forget", type=click.IntRange(1), multiple=True, help="Delete a user's examples; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def command(
    lake: str,
    bootstrap: str | None,
    compact_all: bool,
    keep_days: int | None,
    accept_hole: bool,
    forget: tuple[int, ...],
    as_json: bool,
) -> None:
    """Add what is new in the examples topic to LAKE: a directory, or what fsspec takes, such as s3://bucket/examples.

    Killed anywhere, run it again: it goes on where the last commit ended, and nothing is doubled or lost. Exits with 0
    also when nothing was new.
    """
    upkeep: dict[str, Any] = {}
    try:
        opened = Lake(lake)
        landed = _land(opened, require_bootstrap(bootstrap), accept_hole)
        if keep_days is not None:
            before = datetime.now(UTC) - timedelta(days=keep_days)
            upkeep["dropped_days"] = drop_days(opened, before.strftime("%Y-%m-%d"))
        if forget:
            upkeep["forgotten"] = forget_users(opened, forget)
        compacted = compact(opened, above=1 if compact_all else _SMALL_FILES)
    except OSError as error:
        raise InfraError(f"{lake}: {error}") from error
    if as_json:
        click.echo(json.dumps({"landed": asdict(landed), "compacted": asdict(compacted), **upkeep}))
        return
    for partition, (first, end) in landed.offsets.items():
        click.echo(f"{EXAMPLES.name}/{partition}: offsets {first:,} to {end:,}")
    for day, records in sorted(landed.days.items()):
        click.echo(f"day={day}: {records:,} records")
    if "dropped_days" in upkeep:
        click.echo(f"deleted {len(upkeep['dropped_days']):,} days")
    if "forgotten" in upkeep:
        click.echo(f"deleted {upkeep['forgotten']:,} records of {len(forget):,} users")
    if compacted.replaced:
        click.echo(
            f"compacted {compacted.replaced:,} files to {compacted.by:,}, without {compacted.superseded:,} superseded "
            "revisions"
        )
    click.echo(
        f"land: {landed.records:,} records of {len(landed.days):,} days, {landed.bytes:,} bytes in {lake}"
        if landed.records
        else f"land: nothing new for {lake}"
    )


def _land(lake: Lake, bootstrap: str, accept_hole: bool) -> LandReport:
    manifest = lake.manifest()
    topic = read_bounds(bootstrap, EXAMPLES.name)
    manifest.check_topic(EXAMPLES.name, topic.topic_id)
    bounds = {
        partition: (max(manifest.next.get(partition, oldest), oldest if accept_hole else 0), end)
        for partition, (oldest, end) in topic.offsets.items()
    }
    begins, ends = ({partition: span[at] for partition, span in bounds.items()} for at in (0, 1))
    with progress_bars("records") as progress:
        bar = progress.add_task("land", total=sum(max(0, end - first) for first, end in bounds.values()))
        landed = land(
            lake,
            read_bounded(bootstrap, EXAMPLES.name, begins, ends),
            bounds,
            topic=EXAMPLES.name,
            topic_id=topic.topic_id,
            on_record=lambda: progress.advance(bar),
        )
        # The marks of transactions have offsets and are no records.
        progress.update(bar, total=landed.records)
    return landed
