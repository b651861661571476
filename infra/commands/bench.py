"""`longrank bench`: one measurement per subcommand, imported only when it is called.

Each prints one JSON object on its last line: `{"bench", "figures", "limits", "ratios"}`, the limits measured in the
same run.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

#: subcommand -> (module that has its `command`, what `longrank bench --help` says of it)
BENCHES: Final[dict[str, tuple[str, str]]] = {
    "sequence": ("infra.bench.sequence.command", "The sequence job against a job that does nothing."),
    "examples": ("infra.bench.examples.command", "The example job against a job that does nothing."),
    "verify": ("infra.bench.verify.command", "verify on one core against only reading the same records."),
    "training": ("infra.bench.training.command", "Training on the GPU against its largest matrix products."),
    "fuzz": ("infra.bench.fuzz.command", "Every kind of wrong record; all are accounted for, no restart."),
    "faults": ("infra.bench.faults.command", "Kill everything under traffic; nothing may be lost or doubled."),
}


class _LazyBenches(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in BENCHES:
            return None
        command = import_module(BENCHES[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in BENCHES.items()])


@click.group("bench", cls=_LazyBenches)
def command() -> None:
    """Measure the system on this machine; the last line of every measurement is one JSON object."""
