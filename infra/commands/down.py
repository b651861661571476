"""`longrank down`: end the local cluster."""

from __future__ import annotations

import click

from infra.cluster.local import LocalCluster


@click.command()
@click.option("--home", type=click.Path(file_okay=False), help="The cluster's directory [$LONGRANK_HOME, ./.longrank].")
def command(home: str | None) -> None:
    """End exactly what `up` started in this home. Topics, checkpoints and logs stay."""
    cluster = LocalCluster(home)
    ended = cluster.down()
    click.echo(f"ended {', '.join(ended)}" if ended else f"nothing runs in {cluster.home}")
