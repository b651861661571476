"""`longrank verify`: the proof that training sees what serving saw."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from infra.commands.replay import DEMO_SEQUENCE_JOB
from infra.errors import InfraError
from infra.home import require_bootstrap
from infra.verify.run import VerifySettings, verify
from infra.verify.selection import Selection
from schemas.topics import EXAMPLES, RESPONSES
from scorer.landing.bounded import BoundedReadError
from scorer.sequences.source import FollowError
from streaming.config import ConfigError, ExampleJobConfig, SequenceJobConfig, load_config

_CONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)
_RANGE: Final = re.compile(r"(?P<topic>[^/=]+)/(?P<partition>\d+)=(?P<first>\d+):(?P<end>\d+)")
_MISMATCH: Final = 1
_COULD_NOT_RUN: Final = 2


@click.command("verify")
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option("--sequence-job", type=_CONFIG, default=DEMO_SEQUENCE_JOB, help="What the sequence job runs with.")
@click.option(
    "--example-job",
    type=_CONFIG,
    default=DEMO_SEQUENCE_JOB.with_name("example_job.yaml"),
    help="What the example job runs with: the label rules.",
)
@click.option("--from-ms", type=int, help="Responses and examples of requests from this time on, ms UTC.")
@click.option("--until-ms", type=int, help="And of those before this one.")
@click.option(
    "--offsets", multiple=True, metavar="TOPIC/P=FIRST:END", help="Only these responses or examples; repeatable."
)
@click.option("--sample", type=click.IntRange(1), help="Only so many of the users who were answered.")
@click.option(
    "--users-share", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Only this share of all users."
)
@click.option(
    "--memory-mb", type=click.IntRange(64), default=2_048, show_default=True, help="Histories and requests of one pass."
)
@click.option("--passes", type=click.IntRange(1), default=1, help="Read each partition at least so often.")
@click.option("--store", is_flag=True, help="Resolve every stamp with a store filled as a trainer's, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--most", default=20, show_default=True, help="Mismatches to list.")
def command(
    bootstrap: str | None,
    sequence_job: Path,
    example_job: Path,
    from_ms: int | None,
    until_ms: int | None,
    offsets: Sequence[str],
    sample: int | None,
    users_share: float,
    memory_mb: int,
    passes: int,
    store: bool,
    as_json: bool,
    most: int,
) -> None:
    """Rebuild every history from the events, and compare deltas, snapshots, responses and examples with them.

    Exits with 0 when all is as it should be, with 1 when there are mismatches, with 2 when it could not run.
    """
    selection = Selection(
        from_ms=from_ms,
        until_ms=until_ms,
        offsets=dict(_offsets(one) for one in offsets),
        users_share=users_share,
    )
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with _scratch(store) as directory, Progress(*columns, console=console) as bars:
            settings = VerifySettings(
                selection=selection, sample=sample, memory_mb=memory_mb, passes=passes, store=directory
            )
            verdict = verify(
                require_bootstrap(bootstrap),
                load_config(SequenceJobConfig, sequence_job),
                load_config(ExampleJobConfig, example_job),
                settings,
                bars,
            )
    except (BoundedReadError, ConfigError, FollowError, InfraError) as error:
        click.echo(f"verify: could not run: {error}", err=True)
        sys.exit(_COULD_NOT_RUN)
    for table in verdict.tables(most):
        console.print(table)
    if as_json:
        click.echo(json.dumps(verdict.as_json(most)))
    else:
        click.echo(verdict.summary())
    sys.exit(_MISMATCH if verdict.total else 0)


def _offsets(text: str) -> tuple[tuple[str, int], tuple[int, int]]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not TOPIC/PARTITION=FIRST:END", param_hint="--offsets")
    if found["topic"] not in (RESPONSES.name, EXAMPLES.name):
        raise click.BadParameter(
            f"of {found['topic']} everything is needed; there can be a range of {RESPONSES.name} and {EXAMPLES.name}",
            param_hint="--offsets",
        )
    return (found["topic"], int(found["partition"])), (int(found["first"]), int(found["end"]))


@contextmanager
def _scratch(wanted: bool) -> Iterator[Path | None]:
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="longrank-verify-") as directory:
        yield Path(directory)
