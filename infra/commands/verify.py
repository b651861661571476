"""`longrank verify`: the proof that training sees what serving saw."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.commands.replay import DEMO_SEQUENCE_JOB
from infra.home import require_bootstrap
from infra.verify.run import verify
from streaming.config import ExampleJobConfig, SequenceJobConfig, load_config

_CONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("verify")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option("--sequence-job", type=_CONFIG, default=DEMO_SEQUENCE_JOB, help="What the sequence job runs with.")
@click.option(
    "--example-job",
    type=_CONFIG,
    default=DEMO_SEQUENCE_JOB.with_name("example_job.yaml"),
    help="What the example job runs with: the label rules.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--most", default=20, show_default=True, help="Mismatches to list.")
def command(bootstrap: str | None, sequence_job: Path, example_job: Path, as_json: bool, most: int) -> None:
    """Rebuild every history from the events, and compare deltas, snapshots, responses and examples with them.

    Exits with 1 and lists the mismatches if there are any.
    """
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}: {task.completed:,.0f} records"), TimeElapsedColumn()
    with tempfile.TemporaryDirectory(prefix="longrank-verify-") as scratch, Progress(*columns, console=console) as bars:
        verdict = verify(
            require_bootstrap(bootstrap),
            load_config(SequenceJobConfig, sequence_job),
            load_config(ExampleJobConfig, example_job),
            Path(scratch),
            bars,
        )
    if verdict.mismatches:
        table = Table("kind", "where", "user", "what", title="Mismatches")
        for mismatch in verdict.mismatches[:most]:
            table.add_row(mismatch.kind, mismatch.where, str(mismatch.user_id), mismatch.detail)
        console.print(table)
    checked = verdict.checked
    if as_json:
        click.echo(json.dumps(verdict.as_json(most)))
    else:
        click.echo(
            f"verify: {checked.get('responses', 0):,} responses, {checked.get('examples', 0):,} examples, "
            f"{checked.get('updates', 0):,} updates, {checked.get('snapshots', 0):,} snapshots, "
            f"{len(verdict.mismatches):,} mismatches"
        )
    sys.exit(1 if verdict.mismatches else 0)
