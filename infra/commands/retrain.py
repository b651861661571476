"""`longrank retrain`: train on what was served; gate, export, publish, promote."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console

from infra.home import home_dir, require_bootstrap
from infra.retrain.outcome import EXIT_CODES, LockedError, Outcome, RetrainReport
from infra.retrain.pipeline import Retrain
from infra.retrain.settings import load_settings
from infra.retrain.source import KafkaSource
from scorer.registry.registry import Registry


@click.command("retrain")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option(
    "--home", type=click.Path(file_okay=False), help="Registry and work below it [$LONGRANK_HOME, ./.longrank]."
)
@click.option("--registry", type=click.Path(file_okay=False, path_type=Path), help="Model bundles [HOME/registry].")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Kept between runs [HOME/retrain].")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Settings, YAML.")
@click.option("--cut-ms", type=int, help="Take requests before this time, ms UTC [now less settle_ms].")
@click.option("--cold", is_flag=True, help="From fresh weights, on all examples that Kafka has.")
@click.option("--accept-hole", is_flag=True, help="Go on behind examples that Kafka deleted before a run took them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def command(
    bootstrap: str | None,
    home: str | None,
    registry: Path | None,
    work: Path | None,
    config: Path | None,
    cut_ms: int | None,
    cold: bool,
    accept_hole: bool,
    as_json: bool,
) -> None:
    """Train on the requests since the last run, from the model in service on, and put the result in service.

    Killed anywhere, run it again: it goes on where it was, and makes the same bundle. The last line on standard output
    begins with `retrain: outcome=`, whatever happened.

    Exit codes: 0 promoted; 1 an error, run it again; 3 too few new requests to train on; 4 trained and refused (labels,
    gate, parity, shadow), the model in service stays; 5 another run holds the lock.
    """

    def tell(report: RetrainReport) -> None:
        click.echo(report.as_json() if as_json else report.line())

    try:
        where = home_dir(home)
        work = work or where / "retrain"
        retrain = Retrain(
            KafkaSource(require_bootstrap(bootstrap, home), work / "store"),
            Registry(registry or where / "registry"),
            work,
            load_settings(config),
            Console(stderr=True),
        )
        report = retrain.run(now_ms=time.time_ns() // 1_000_000, cut_ms=cut_ms, cold=cold, accept_hole=accept_hole)
    except Exception as error:
        # Alerting reads this line; what happened is raised as ever.
        outcome = Outcome.LOCKED if isinstance(error, LockedError) else Outcome.ERROR
        tell(RetrainReport(outcome=outcome, reasons=[f"{type(error).__name__}: {error}"]))
        raise
    tell(report)
    sys.exit(EXIT_CODES[report.outcome])
