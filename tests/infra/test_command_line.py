"""Every command answers `--help` with the options that its function takes, and errors of ours end with one line."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from infra.cli import COMMANDS, EXPECTED_ERRORS, main


def commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, (module, _) in COMMANDS.items():
        command = import_module(f"infra.commands.{module}").command
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", each) for sub, each in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_takes_what_it_offers(name: str, command: click.Command) -> None:
    assert CliRunner().invoke(main, [*name.split(), "--help"]).exit_code == 0
    assert command.callback is not None
    offered = {parameter.name for parameter in command.params}
    wanted = set(inspect.signature(inspect.unwrap(command.callback)).parameters) - {"ctx"}
    assert offered == wanted


def test_errors_that_a_person_can_mend_end_with_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bundle", "promote", "v9", "--registry", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "no bundle v9" in result.output


def test_a_broker_that_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(main, ["dlq", "list", "--bootstrap", "127.0.0.1:1"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


@pytest.mark.parametrize("name", sorted(EXPECTED_ERRORS))
def test_the_listed_errors_exist(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(import_module(module), kind), Exception)
