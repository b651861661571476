"""`longrank topics apply | check`."""

from __future__ import annotations

import sys
from typing import cast

import click

from infra.home import require_bootstrap
from infra.topics import StartAt, apply_topics, check_topics


@click.group()
def command() -> None:
    """Create or check the topics and the first offsets."""


@command.command()
@click.option("--bootstrap", help="host:port of a broker [$LONGRANK_BOOTSTRAP, the local cluster].")
@click.option("--home", type=click.Path(file_okay=False), help="The local cluster's directory.")
@click.option("--replay", is_flag=True, help="An old log will be replayed: topics in event time keep everything.")
@click.option("--start-at", type=click.Choice(["earliest", "latest"]), help="For groups without offsets on old topics.")
def apply(bootstrap: str | None, home: str | None, replay: bool, start_at: str | None) -> None:
    """Create what is missing, write the groups' first offsets; refuse a topic that differs (exit code 1)."""
    applied = apply_topics(require_bootstrap(bootstrap, home), replay=replay, start_at=cast(StartAt | None, start_at))
    click.echo(f"{len(applied.created)} topics created, {len(applied.unchanged)} as declared already")
    for group, count in applied.offsets.items():
        click.echo(f"{group}: first offsets written in {count} partitions")


@command.command()
@click.option("--bootstrap", help="host:port of a broker [$LONGRANK_BOOTSTRAP, the local cluster].")
@click.option("--home", type=click.Path(file_okay=False), help="The local cluster's directory.")
@click.option("--replay", is_flag=True, help="Check against the settings for replaying an old log.")
def check(bootstrap: str | None, home: str | None, replay: bool) -> None:
    """Change nothing; name what is missing or differs (exit code 1)."""
    problems = check_topics(require_bootstrap(bootstrap, home), replay=replay)
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(1)
    click.echo("all topics and groups as declared")
