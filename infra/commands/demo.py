"""`longrank demo`: the whole loop on the bundled log."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from infra.demo.loop import REPOSITORY, DemoSettings, Steps, run_loop
from infra.demo.summary import summarise
from infra.home import home_dir
from infra.logs.open_log import open_log
from infra.report.page import write_page
from infra.report.terminal import print_report
from infra.unwind import unwind_when_told_to_end

_BUNDLED = REPOSITORY / "tests" / "data" / "gitlog_small"


@click.command("demo")
@click.option("--log", type=click.Path(exists=True, file_okay=False, path_type=Path), default=_BUNDLED, help="The log.")
@click.option("--fraction", default=1.0, show_default=True, help="Only the log's first part, by requests.")
@click.option("--home", type=click.Path(file_okay=False), help="Everything lies below it [./.longrank/demo].")
@click.option("--seed", default=7, show_default=True, help="Of the disturbances and kills.")
@click.option("--kills", default=0, show_default=True, help="Processes to kill under way, of Flink, Kafka and scorer.")
def command(log: Path, fraction: float, home: str | None, seed: int, kills: int) -> None:
    """Bring up Kafka, Flink and a scorer, replay a log, retrain, reload, replay the rest, verify, report, take down.

    Exits with 1 if `verify` finds a mismatch or a disturbance is not accounted for.
    """
    unwind_when_told_to_end()
    console = Console()
    steps = Steps(console)
    where = home_dir(home) if home else home_dir(None) / "demo"
    behaviour = open_log(log)
    settings = DemoSettings(home=where, seed=seed, kills=kills)
    with run_loop(behaviour.head(fraction), settings, steps) as loop, steps.step("report"):
        report = summarise(loop, steps.seconds)
    print_report(report, console)
    page = where / "report.html"
    write_page(report, page)
    (where / "report.json").write_text(report.model_dump_json(indent=2) + "\n")
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    unbalanced = [account.what for account in report.accounts if not account.balances]
    if unbalanced:
        console.print(f"not accounted for: {', '.join(unbalanced)}", style="bold red")
    sys.exit(1 if report.verify["mismatches"] or unbalanced else 0)
