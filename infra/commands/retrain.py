"""`longrank retrain`: train on what was served; gate, export, publish, promote."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from infra.errors import InfraError
from infra.home import home_dir, require_bootstrap
from infra.retrain.pipeline import Retrain
from infra.retrain.settings import load_settings
from scorer.export import ParityError
from scorer.landing.bounded import BoundedReadError
from scorer.landing.resolve import UnresolvedError
from scorer.registry.registry import BundleError, Registry


@click.command("retrain")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option(
    "--home", type=click.Path(file_okay=False), help="Registry and work below it [$LONGRANK_HOME, ./.longrank]."
)
@click.option("--registry", type=click.Path(file_okay=False, path_type=Path), help="Model bundles [HOME/registry].")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Kept between runs [HOME/retrain].")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Settings, YAML.")
@click.option("--cut-ms", type=int, help="Take requests before this time, ms UTC [now less settle_ms].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def command(
    bootstrap: str | None,
    home: str | None,
    registry: Path | None,
    work: Path | None,
    config: Path | None,
    cut_ms: int | None,
    as_json: bool,
) -> None:
    """Train on the requests since the last run, from the model in service on, and put the result in service.

    Exit codes: 0 published, 1 could not run, 3 ran and published nothing (the line says why).
    """
    where = home_dir(home)
    run = Retrain(
        require_bootstrap(bootstrap, home),
        Registry(registry or where / "registry"),
        work or where / "retrain",
        load_settings(config),
        Console(stderr=True),
        now_ms=time.time_ns() // 1_000_000,
        cut_ms=cut_ms,
    )
    try:
        report = run.run()
    except (BundleError, BoundedReadError, UnresolvedError, ParityError) as error:
        raise InfraError(f"retrain: {error}") from error
    click.echo(json.dumps(asdict(report)) if as_json else report.line())
    sys.exit(0 if report.published else 3)
