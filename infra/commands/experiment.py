"""`longrank experiment`: rankers compared on a recorded log."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from infra.experiment.findings import findings
from infra.experiment.pipeline import STAGES, Experiment, prepare
from infra.experiment.report import print_findings, write_report
from infra.experiment.settings import load_experiment

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command("experiment")
@click.argument("config", type=click.Path(exists=True, path_type=Path))
@click.option("--log", type=_DIRECTORY, help="Another log of the bundled log's format [the configuration's].")
@click.option("--out", type=_DIRECTORY, help="What is made and kept [.longrank/experiments/CONFIG's name].")
@click.option("--stage", "stages", type=click.Choice(STAGES), multiple=True, help="Only this stage; repeatable.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True, help="Of training.")
@click.option("--only", multiple=True, metavar="NAME", help="Train only these neural scorers; repeatable.")
def command(
    config: Path, log: Path | None, out: Path | None, stages: tuple[str, ...], device: str, only: tuple[str, ...]
) -> None:
    """Compare the rankers of CONFIG, a YAML file, on a log: prepare, boosting, train, report.

    What is there already is not made again. The stage train runs elsewhere, too, with torch and numpy alone: take
    OUT/arrays and OUT/plan.json there, run `python -m scorer.experiment.run`, and bring the scores back to OUT/scores.

    For CONFIG a log's directory may stand: its arrays are then written to OUT and nothing else is done.
    """
    console = Console(stderr=True)
    if config.is_dir():
        if out is None or log is not None or stages:
            raise click.UsageError("a log's directory takes --out and nothing else")
        arrays = prepare(config, out)
        size = sum(file.stat().st_size for file in out.glob("*.npz")) / 1e6
        click.echo(f"{out}: {len(arrays.event_item):,} events, {len(arrays):,} requests, {size:.1f} MB")
        return
    settings = load_experiment(config)
    where = out or Path(".longrank") / "experiments" / config.stem
    experiment = Experiment(settings.plan, log or settings.log, where, console)
    wanted = stages or STAGES
    if "prepare" in wanted:
        experiment.prepare()
    if "boosting" in wanted:
        experiment.boosting()
    if "train" in wanted and (settings.plan.baselines or settings.plan.stca):
        experiment.train(device, only)
    if "report" in wanted:
        found = findings(settings.plan, *experiment.opened())
        print_findings(found, Console())
        paths = write_report(found, where / "report")
        click.echo(f"page: {paths[0]}")
