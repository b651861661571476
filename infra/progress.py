"""The bars that people watch: on standard error, so that standard output stays a command's own."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_bars() -> Progress:
    """Task, bar, how many of how many, time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        # The default of ten pictures a second is a tenth of a busy core.
        refresh_per_second=2,
    )
