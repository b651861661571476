"""What a person can put right: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import click


class InfraError(click.ClickException):
    """Ends a command with exit code 1 and one line; library callers catch it as any exception.

    The message names the coordinates (home, topic, port, process) and the remedy.
    """

    exit_code = 1

    def __str__(self) -> str:
        return self.message
