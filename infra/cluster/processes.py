"""Processes that outlive the command that started them, and are ended by identity, never by a bare pid.

A pid alone names a different process tomorrow. A process is ours when pid and creation time agree with what was
recorded, or when its environment carries the home's marker, which only children of a process we started inherit.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

#: Environment variable that marks every process of a local cluster with the cluster's home.
MARKER: Final = "LONGRANK_CLUSTER_HOME"

#: Held only to be waited for: a server that dies before its starter would otherwise stay a zombie.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, kw_only=True)
class ProcessRef:
    """A started process. `create_time` in seconds since the epoch as the kernel has it; ports by purpose;
    `resource_id` is unique among all starts of a home (Flink lists TaskManagers by it)."""

    name: str
    pid: int
    create_time: float
    log: str
    ports: Mapping[str, int]
    resource_id: str

    def find(self) -> psutil.Process | None:
        """The running process, or None if it ended, or another process has its pid now."""
        try:
            process = psutil.Process(self.pid)
            # The kernel's clock ticks 100 times a second.
            same = abs(process.create_time() - self.create_time) < 0.02
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> bool:
        """Whether this very process runs."""
        return self.find() is not None


def spawn(
    name: str,
    argv: Sequence[str | Path],
    *,
    home: Path,
    env: Mapping[str, str],
    log: Path,
    ports: Mapping[str, int],
    resource_id: str,
) -> ProcessRef:
    """Start `argv` in its own session, its output appended to `log`.

    Its own session: a Ctrl-C in the terminal that ran `longrank up` does not reach it, and its children are found.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env={**env, MARKER: str(home)},
            start_new_session=True,
        )
    _children.append(child)
    # Until it is waited for, a dead child keeps its pid, so its creation time can always be read here.
    create_time = psutil.Process(child.pid).create_time()
    return ProcessRef(
        name=name, pid=child.pid, create_time=create_time, log=str(log), ports=dict(ports), resource_id=resource_id
    )


def reap() -> None:
    """Collect children that ended, so that they do not stay as zombies while their starter lives on."""
    _children[:] = [child for child in _children if child.poll() is None]


def marked(home: Path) -> list[psutil.Process]:
    """Every living process, other than this one, that carries the marker of `home`."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == str(home):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended meanwhile, or another user's, which is not ours
    return found


def end(processes: Iterable[psutil.Process], *, term_wait_s: float, kill_wait_s: float = 10.0) -> list[psutil.Process]:
    """TERM, wait, KILL what is left, wait; returns what would not die.

    psutil compares creation times before it signals, so a pid that was given away meanwhile is left alone.
    """
    remaining = list(processes)
    for number, wait_s in ((signal.SIGTERM, term_wait_s), (signal.SIGKILL, kill_wait_s)):
        for process in remaining:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, remaining = psutil.wait_procs(remaining, timeout=wait_s)
        if not remaining:
            break
    return remaining
