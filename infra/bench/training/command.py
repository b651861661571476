"""`longrank bench training`."""

from __future__ import annotations

import sys

import click

from infra.bench.training.__main__ import main


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Training steps against a large matrix product, many targets a request against one; see its own --help."""
    sys.exit(main(list(arguments)))
