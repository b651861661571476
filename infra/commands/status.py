"""`longrank status`: what runs where."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console

from infra.cluster.local import LocalCluster
from infra.cluster.table import cluster_document, cluster_table


@click.command()
@click.option("--home", type=click.Path(file_okay=False), help="The cluster's directory [$LONGRANK_HOME, ./.longrank].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
def command(home: str | None, as_json: bool) -> None:
    """Say what runs where. Exit code 0: all is well; 1: something is not; 3: nothing runs here."""
    cluster = LocalCluster(home)
    info = cluster.peek()
    if info is None or not info.processes:
        if as_json:
            click.echo(json.dumps({"home": str(cluster.home), "processes": {}}))
        else:
            click.echo(f"no cluster in {cluster.home}")
        sys.exit(3)
    problems = cluster.health()
    if as_json:
        click.echo(json.dumps(cluster_document(info, problems)))
    else:
        Console().print(cluster_table(info, problems))
    sys.exit(1 if any(problems.values()) else 0)
