"""`longrank config show`: a job's configuration as it takes effect."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from streaming.config import ExampleJobConfig, JobConfig, SequenceJobConfig, effective_yaml, load_config

_JOBS: Final[dict[str, type[JobConfig]]] = {"sequence": SequenceJobConfig, "example": ExampleJobConfig}


@click.group()
def command() -> None:
    """Show the jobs' configuration."""


@command.command()
@click.argument("job", type=click.Choice(list(_JOBS)), default="sequence")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="YAML file [the shipped one].")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Replaces one key; repeatable.")
def show(job: str, config: Path | None, overrides: tuple[str, ...]) -> None:
    """Print every key of JOB's configuration with the value in effect, as YAML that --config accepts again."""
    click.echo(effective_yaml(load_config(_JOBS[job], config, overrides)), nl=False)
