"""The bars that people watch."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_bars(unit: str = "", console: Console | None = None) -> Progress:
    """Task, bar, how many of how many, time.

    Args:
        unit: what is counted, where the tasks' names do not say it.
        console: standard error when not given, so that standard output stays a command's own.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *((TextColumn(unit),) if unit else ()),
        TimeElapsedColumn(),
        console=console or Console(stderr=True),
        # The default of ten pictures a second is a tenth of a busy core.
        refresh_per_second=2,
    )
