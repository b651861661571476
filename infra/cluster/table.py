"""What is where, as a table for people and as a document for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from infra.cluster.state import BROKER, JOBMANAGER, ClusterInfo


def _address(info: ClusterInfo, name: str) -> str:
    if name == BROKER:
        return info.bootstrap
    return info.rest_url if name == JOBMANAGER else ""


def cluster_table(info: ClusterInfo, problems: Mapping[str, str | None]) -> Table:
    """One line per process. `problems`: name -> None if well, else what is wrong."""
    table = Table(title=f"cluster in {info.home}", title_justify="left")
    for heading in ("process", "state", "address", "pid", "log"):
        table.add_column(heading, overflow="fold")
    for name, process in info.processes.items():
        problem = problems.get(name)
        table.add_row(name, problem or "up", _address(info, name), str(process.pid), process.log)
    return table


def cluster_document(info: ClusterInfo, problems: Mapping[str, str | None]) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "home": str(info.home),
        "bootstrap": info.bootstrap,
        "rest_url": info.rest_url,
        "checkpoints": str(info.checkpoints),
        "savepoints": str(info.savepoints),
        "processes": {
            name: {
                "pid": process.pid,
                "up": problems.get(name) is None,
                "problem": problems.get(name),
                "log": process.log,
                "ports": dict(process.ports),
            }
            for name, process in info.processes.items()
        },
    }
