"""Which reader a directory needs, by what lies in it."""

from __future__ import annotations

from pathlib import Path

from infra.errors import InfraError
from infra.logs.behaviour_log import BehaviourLog
from infra.logs.gitlog import read_gitlog
from infra.logs.kuairand import read_kuairand


def open_log(directory: Path) -> BehaviourLog:
    """The log in `directory`.

    Raises:
        InfraError: no known log there, or one that cannot be read, with the file at fault.
    """
    try:
        if (directory / "events.parquet").exists():
            return read_gitlog(directory)
        return read_kuairand(directory)
    except (FileNotFoundError, ValueError) as error:
        raise InfraError(str(error)) from error
