"""`longrank erase USER`: forget a user, with a receipt; `longrank erase --check USER`: prove it by reading."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from infra.erase.order import confirm_scorers, erase
from infra.erase.remains import Check, check_erased
from infra.errors import InfraError
from infra.home import require_bootstrap
from schemas.topics import SNAPSHOTS, UPDATES


@click.command("erase")
@click.argument("user", type=click.IntRange(1))
@click.option("--check", is_flag=True, help="Order nothing: read what there is of USER; exits with 1 if not erased.")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option("--scorer", "scorers", multiple=True, help="http://host:port of a scorer's metrics; for each that runs.")
@click.option("--receipt", type=click.Path(dir_okay=False, path_type=Path), help="Write the receipt here, as JSON.")
@click.option("--timeout", "timeout_s", default=120.0, show_default=True, help="Seconds to wait for each.")
@click.option("--timestamp-ms", type=click.IntRange(0), help="The record's time [now]; for replays of an old log.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def command(
    user: int,
    check: bool,
    bootstrap: str | None,
    scorers: tuple[str, ...],
    receipt: Path | None,
    timeout_s: float,
    timestamp_ms: int | None,
    as_json: bool,
) -> None:
    """Forget USER: the sequence job drops the history, snapshots say so for ever, stores delete what they have.

    Waits until the job and the named scorers have done it. What other topics hold ages out with their retention; the
    receipt says by when. A trainer's store follows when it next reads the topics.
    """
    address, console = require_bootstrap(bootstrap), Console()
    written: dict[str, object] = {}
    if not check:
        now_ms = timestamp_ms if timestamp_ms is not None else time.time_ns() // 1_000_000
        carried = erase(address, user, uuid.uuid4().bytes, now_ms, timeout_s)
        confirmed = confirm_scorers(scorers, carried, timeout_s)
        written = asdict(carried) | {"scorers": confirmed, "ordered_ms": now_ms}
        console.print(
            f"user {user}: erased from epoch {carried.epoch} on; order at"
            f" behaviour.events.v1/{carried.partition}/{carried.event_offset}, done at"
            f" {SNAPSHOTS.name}/{carried.partition}/{carried.snapshot_offset}",
            highlight=False,
            soft_wrap=True,
        )
        for scorer, state in confirmed.items():
            console.print(f"{scorer}: {state}", highlight=False)
    found = check_erased(address, user)
    written |= asdict(found) | {"erased": found.erased}
    _show(console, found)
    if receipt is not None:
        receipt.write_text(json.dumps(written, indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(written))
    if check and not found.erased:
        raise InfraError(f"user {user} is not erased: the newest snapshot is of epoch {found.epoch}, no erasure's")


def _show(console: Console, found: Check) -> None:
    state = "erased" if found.erased else "not erased"
    console.print(
        f"user {found.user_id}: {state}; {found.events_since:,} events in epoch {found.epoch}", highlight=False
    )
    table = Table("topic", "records", "of older epochs", "gone by (UTC)")
    for remains in found.remains:
        when = "compacted" if remains.gone_by_ms is None else _date(remains.gone_by_ms)
        older = f"{remains.older_epochs:,}" if remains.topic in (SNAPSHOTS.name, UPDATES.name) else "·"
        table.add_row(remains.topic, f"{remains.records:,}", older, when)
    console.print(table)


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
