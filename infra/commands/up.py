"""`longrank up`: start the local cluster."""

from __future__ import annotations

import click
from rich.console import Console

from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.cluster.table import cluster_table

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--home", type=click.Path(file_okay=False), help="All state and logs [$LONGRANK_HOME, ./.longrank].")
@click.option("--taskmanagers", type=click.IntRange(1), default=2, show_default=True, help="One slot each.")
@click.option("--broker-port", type=_PORT, default=0, help="Kafka [a free port].")
@click.option("--controller-port", type=_PORT, default=0, help="Kafka's controller [a free port].")
@click.option("--rest-port", type=_PORT, default=0, help="Flink's web interface [a free port].")
@click.option("--jobmanager-port", type=_PORT, default=0, help="Flink's internal calls [a free port].")
@click.option("--prometheus", is_flag=True, help="Export Flink's metrics; these ports listen on every interface.")
@click.option("--fresh", is_flag=True, help="Wipe topics, checkpoints, savepoints and logs of this home first.")
@click.option("--timeout", "timeout_s", type=float, default=180.0, show_default=True, help="Seconds to wait.")
def command(
    home: str | None,
    taskmanagers: int,
    broker_port: int,
    controller_port: int,
    rest_port: int,
    jobmanager_port: int,
    prometheus: bool,
    fresh: bool,
    timeout_s: float,
) -> None:
    """Start one Kafka broker and one Flink cluster on loopback, wait until they are well, say what is where.

    Does nothing when they run already; after a crash it clears away what is left and goes on.
    """
    cluster = LocalCluster(home)
    options = UpOptions(
        taskmanagers=taskmanagers,
        broker_port=broker_port,
        controller_port=controller_port,
        rest_port=rest_port,
        jobmanager_rpc_port=jobmanager_port,
        prometheus=prometheus,
        timeout_s=timeout_s,
    )
    console = Console()
    with Console(stderr=True).status(f"starting the cluster in {cluster.home}"):
        info = cluster.up(options, fresh=fresh)
    console.print(cluster_table(info, dict.fromkeys(info.processes)))
