"""`longrank inspect USER`: one history as a table, rebuilt from Kafka."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from infra.errors import InfraError
from infra.home import require_bootstrap
from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH
from schemas.partitioner import partition_of, user_key
from schemas.topics import PARTITIONS
from scorer.sequences.follower import follow_to_end
from scorer.sequences.reads import NotKeptError
from scorer.sequences.store import SequenceStore

#: Column -> presence bit; an absent field is printed as a dot.
_OPTIONAL = {"group_id": HAS_GROUP, "surface": HAS_SURFACE, "watch_ms": HAS_WATCH, "duration_ms": HAS_DURATION}


@click.command("inspect")
@click.argument("user", type=click.IntRange(1))
@click.option("--as-of", "as_of", type=click.IntRange(0), help="As it was served when this seq_no was the newest.")
@click.option("--limit", default=50, show_default=True, help="Newest events to print; 0 for all.")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
def command(user: int, as_of: int | None, limit: int, bootstrap: str | None) -> None:
    """Print USER's history, newest last.

    It is read from the updates and snapshots topics into a store of this command's own, so that it works beside running
    scorers and shows what a scorer that starts now would serve.
    """
    key = user_key(user)
    partition = partition_of(key, PARTITIONS)
    with tempfile.TemporaryDirectory(prefix="longrank-inspect-") as scratch, SequenceStore(Path(scratch)) as store:
        follow_to_end(require_bootstrap(bootstrap), store, [partition], only_key=key)
        try:
            history = store.history(user, store.settings.capacity) if as_of is None else store.as_of(user, as_of)
        except NotKeptError as error:
            raise InfraError(str(error)) from error
        rows = history.rows
    console = Console()
    console.print(
        f"user {user}  partition {partition}  epoch {history.epoch}  events {history.first_seq_no}..{history.seq_no} "
        f"({len(rows):,})  digest {history.digest:016x}{'  STALE' if history.stale else ''}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("seq_no", "event time (UTC)", "item", "action", *_OPTIONAL)
    skipped = max(0, len(rows) - limit) if limit else 0
    for number, row in enumerate(rows[skipped:], history.first_seq_no + skipped):
        when = datetime.fromtimestamp(int(row["event_time_ms"]) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        optional = [str(row[name]) if row["fields"] & bit else "·" for name, bit in _OPTIONAL.items()]
        table.add_row(f"{number:,}", when, str(row["item_id"]), str(row["action"]), *optional)
    if skipped:
        console.print(f"... {skipped:,} older events; --limit 0 prints all")
    console.print(table)
