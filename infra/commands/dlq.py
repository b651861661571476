"""`longrank dlq`: what was refused, and why."""

from __future__ import annotations

import json
import sys
from collections import Counter

import click
from rich.console import Console
from rich.table import Table

from infra.home import default_bootstrap
from schemas.topics import ALL_TOPICS, DEAD_LETTER_TOPICS
from schemas.v1.operations_pb2 import DeadLetter
from scorer.landing.bounded import read_bounded


@click.group("dlq")
def command() -> None:
    """List and show dead letters."""


@command.command("list")
@click.option("--bootstrap", default=default_bootstrap, help="Kafka's host:port.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def list_letters(bootstrap: str, as_json: bool) -> None:
    """Count the dead letters of every topic by reason."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for topic in DEAD_LETTER_TOPICS.values():
        for record in read_bounded(bootstrap, topic.name):
            letter = DeadLetter.FromString(record.value)
            counts[letter.source_topic, letter.stage, letter.reason] += 1
    if as_json:
        click.echo(json.dumps([{"topic": t, "stage": s, "reason": r, "count": n} for (t, s, r), n in counts.items()]))
        return
    table = Table("topic", "refused by", "reason", "count")
    for (source, stage, reason), count in sorted(counts.items()):
        table.add_row(source, stage, reason, f"{count:,}")
    Console().print(table)


@command.command("show")
@click.argument("topic", type=click.Choice([topic.name for topic in ALL_TOPICS if topic.name in DEAD_LETTER_TOPICS]))
@click.option("--reason", help="Only letters with this reason.")
@click.option("--limit", default=20, show_default=True, help="At most so many letters.")
@click.option("--bootstrap", default=default_bootstrap, help="Kafka's host:port.")
def show(topic: str, reason: str | None, limit: int, bootstrap: str) -> None:
    """Print the dead letters of TOPIC: coordinates, reason, detail, raw bytes in hex."""
    shown = 0
    for record in read_bounded(bootstrap, DEAD_LETTER_TOPICS[topic].name):
        letter = DeadLetter.FromString(record.value)
        if reason is not None and letter.reason != reason:
            continue
        if shown == limit:
            click.echo(f"... more; --limit {limit}", err=True)
            sys.exit(0)
        shown += 1
        click.echo(
            f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset} {letter.reason} ({letter.stage}): "
            f"{letter.detail}\n  key {letter.key!r}\n  value {letter.value.hex()}"
        )
