"""The directories of runs: what each stage left, so that a run that was killed goes on behind the last finished one.

<work>/lock                     held while a run is at work
<work>/store/                   the trainer's own SequenceStore
<work>/runs/<version>/plan.json     first of all
<work>/runs/<version>/stages.json   the finished stages
<work>/runs/<version>/...           what they made
<work>/runs/<version>/report.html   for people
<work>/runs/<version>/report.json   last of all: the run is over

Files and directories are made under another name and moved into their place; `stages.json` counts, not they: a stage
that made its output and was killed before it was noted is run again, over it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.errors import InfraError
from infra.retrain.outcome import LockedError
from infra.retrain.plan import Plan

EXAMPLES_NAME: Final = "examples.bin"
DATASET_NAME: Final = "dataset"
WEIGHTS_NAME: Final = "weights.pt"
_PLAN: Final = "plan.json"
_STAGES: Final = "stages.json"
_REPORT: Final = "report.json"
_PART: Final = ".part"
#: Not kept of a run that is over: it names users, or is in the bundle.
_DROPPED: Final = frozenset({EXAMPLES_NAME, DATASET_NAME, WEIGHTS_NAME})


class Run:
    """One run's directory."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InfraError: its plan cannot be read.
        """
        self.path = path
        try:
            self.plan = Plan.model_validate_json((path / _PLAN).read_bytes())
        except ValueError as error:
            raise InfraError(f"{path / _PLAN} is not readable: {error}; delete {path} and run again") from error
        state = json.loads((path / _STAGES).read_bytes()) if (path / _STAGES).exists() else {}
        self._stages: dict[str, float] = state.get("seconds", {})
        #: How often the run was begun or gone on with.
        self.attempts: int = state.get("attempts", 0)

    @property
    def over(self) -> bool:
        """It has ended, whichever way."""
        return (self.path / _REPORT).exists()

    @property
    def seconds(self) -> dict[str, float]:
        """Finished stage -> how long it took."""
        return dict(self._stages)

    def note(self, stage: str, seconds: float) -> None:
        """A stage's output is in its place."""
        self._stages[stage] = seconds
        self._write_stages()

    def count_attempt(self) -> None:
        """A process has taken the run up."""
        self.attempts += 1
        self._write_stages()

    def _write_stages(self) -> None:
        self.write(_STAGES, json.dumps({"attempts": self.attempts, "seconds": self._stages}, indent=2) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """A file, whole or not at all, also after a power cut."""
        with self.replacing(name) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A path to make a file or a directory at, which then takes the place of `name`."""
        target, part = self.path / name, self.path / f"{name}{_PART}"
        for old in (part, *((target,) if target.is_dir() else ())):
            _remove(old)
        yield part
        _sync(part)
        part.replace(target)
        _sync(self.path)

    def close(self, report: str) -> None:
        """The run is over; only what is to be kept of it stays."""
        self.write(_REPORT, report + "\n")
        self.tidy()

    def tidy(self) -> None:
        """Delete what a run that is over need not keep."""
        for path in self.path.iterdir():
            if path.name in _DROPPED or path.name.endswith(_PART):
                _remove(path)


class WorkDirectory:
    """All runs below one directory."""

    def __init__(self, root: Path) -> None:
        """Nothing need be there yet."""
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone at work.

        Raises:
            LockedError: another process is.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise LockedError(f"{path}: another retrain is running, {file.read().strip()}") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
            file.flush()
            yield

    def runs(self) -> list[Run]:
        """Oldest first."""
        # Not those that `begin` was killed over: their names begin with a dot.
        paths = (self.root / "runs").glob(f"[!.]*/{_PLAN}")
        return sorted((Run(path.parent) for path in paths), key=lambda run: (run.plan.created_ms, run.plan.version))

    def begin(self, plan: Plan) -> Run:
        """A new run, its plan written.

        Raises:
            InfraError: there is one of that version.
        """
        base = self.root / "runs"
        base.mkdir(parents=True, exist_ok=True)
        path, part = base / plan.version, base / f".{plan.version}{_PART}"
        if path.exists():
            raise InfraError(f"{path} is there already: two runs within a second; run it again")
        _remove(part)
        part.mkdir()
        (part / _PLAN).write_text(plan.model_dump_json(indent=2) + "\n")
        _sync(part)
        part.rename(path)
        _sync(base)
        return Run(path)

    def prune(self, keep: int) -> None:
        """Delete all but the newest runs that are over, and what killed runs left of those that stay."""
        over = [run for run in self.runs() if run.over]
        for run in over[:-keep]:
            # The plan first: what has none is no run.
            (run.path / _PLAN).unlink()
            _remove(run.path)
        for run in over[-keep:]:
            run.tidy()
        known = {run.path.name for run in self.runs()}
        for path in (self.root / "runs").iterdir():
            if path.name not in known:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """A file, or a directory with all that is in it, survives a power cut."""
    for part in (*sorted(path.iterdir()), path) if path.is_dir() else (path,):
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
