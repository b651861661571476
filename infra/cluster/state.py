"""`cluster.json`: what runs in a home, so that another command finds it and ends exactly that."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from infra.cluster.ports import LOOPBACK
from infra.cluster.processes import ProcessRef
from infra.errors import InfraError

VERSION: Final = 2
BROKER: Final = "broker"
JOBMANAGER: Final = "jobmanager"


def taskmanager(index: int) -> str:
    """The process name of TaskManager `index`, from 0."""
    return f"taskmanager-{index}"


@dataclass(frozen=True, kw_only=True)
class ClusterInfo:
    """What `up` started: ports by purpose, processes by name (broker, jobmanager, taskmanager-0, ...)."""

    home: Path
    ports: Mapping[str, int]
    prometheus: bool = False
    #: See `UpOptions`.
    short_lived: bool = False
    processes: Mapping[str, ProcessRef] = field(default_factory=dict)
    #: How many processes were ever started here; part of a TaskManager's id, which no two may share.
    started: int = 0

    @property
    def bootstrap(self) -> str:
        """`host:port` of the broker."""
        return f"{LOOPBACK}:{self.ports['broker']}"

    @property
    def rest_url(self) -> str:
        """`http://host:port` of the JobManager."""
        return f"http://{LOOPBACK}:{self.ports['rest']}"

    @property
    def taskmanagers(self) -> list[str]:
        """Names of the TaskManagers."""
        return sorted((name for name in self.processes if name.startswith("taskmanager-")), key=_index)

    @property
    def savepoints(self) -> Path:
        """Where savepoints go when no directory is named."""
        return self.home / "flink" / "savepoints"

    @property
    def checkpoints(self) -> Path:
        """The root of the jobs' checkpoints."""
        return self.home / "flink" / "checkpoints"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.home / "logs"

    def pid(self, name: str) -> int:
        """The pid of one process.

        Raises:
            InfraError: there is none of that name.
        """
        if name not in self.processes:
            raise InfraError(f"{self.home} has no process {name!r}; it has {', '.join(self.processes) or 'none'}")
        return self.processes[name].pid

    def with_process(self, process: ProcessRef) -> ClusterInfo:
        """A copy that knows one more start."""
        return replace(self, processes={**self.processes, process.name: process}, started=self.started + 1)


def _index(name: str) -> int:
    return int(name.rpartition("-")[2])


class StateFile:
    """Reads and atomically writes `cluster.json`; holds the home's lock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "cluster.json"

    def read(self) -> ClusterInfo | None:
        """The last state, or None if there is none.

        A file that is not ours to read (another version, cut by a full disk) counts as none: the processes are found
        by their marker all the same.
        """
        try:
            document = json.loads(self.path.read_text())
            if document["version"] != VERSION:
                return None
            processes = {name: ProcessRef(**entry) for name, entry in document["processes"].items()}
            return ClusterInfo(
                home=self.home,
                ports=document["ports"],
                prometheus=document["prometheus"],
                short_lived=document["short_lived"],
                processes=processes,
                started=document["started"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, info: ClusterInfo) -> None:
        """Replace the state."""
        document = {
            "version": VERSION,
            "ports": dict(info.ports),
            "prometheus": info.prometheus,
            "short_lived": info.short_lived,
            "processes": {name: asdict(process) for name, process in info.processes.items()},
            "started": info.started,
        }
        draft = self.path.with_suffix(".json.new")
        with draft.open("w") as file:
            json.dump(document, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    @contextmanager
    def lock(self, *, wait_s: float = 120.0, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Only one `up`, `down` or `restart` at a time works in a home.

        Raises:
            InfraError: another one did not finish in `wait_s`.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "cluster.lock").open("w") as file:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise InfraError(f"another longrank command works in {self.home}; wait for its end") from None
                    sleep(0.1)
            yield
