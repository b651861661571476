"""Sets up a checkout: .venv with the locked packages, this repository in it, the Java archives in the user's cache.

Run by `make setup` with any Python 3.11 or 3.12; uses the standard library alone. Steps, each skipped when its result
is there, so that a second run does nothing and needs no network, and an interrupted one is continued:

  1. preflight: Python version, venv module, disk space;
  2. .venv made, or made anew if it does not run or stands in another place than it was made for;
  3. packages whose unpacking was cut off are forgotten, so that pip unpacks them again;
  4. pip installs requirements.lock by hash;
  5. the repository is installed editable;
  6. the stamp is written: from here on steps 2 to 5 are skipped;
  7. the Java archives of infra/jars.lock are fetched and checked.

Every failure is one line, `setup: WHAT; WHAT TO DO`, and exit code 2.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from infra.bootstrap.pip import broken_distributions, explain_pip_failure, locked_requirement

SUPPORTED = ((3, 11), (3, 12))
#: Bytes. Measured: the installed packages take 6.1 GB; pip holds their archives (3 GB) in its temporary directory.
VENV_BYTES = 6_500_000_000
DOWNLOAD_BYTES = 3_500_000_000
PIP_ATTEMPTS = 3
STAMP = "longrank-setup.json"
LOG = "longrank-setup.log"


class SetupError(Exception):
    """One line: what is wrong; what to do."""


class Setup:
    """The steps for the checkout at `root`, run by `python`.

    Args:
        demanded: the (major, minor) that the user named; an environment of another Python is then made anew.
            None: any supported one will do.
        say: prints one line of progress.
        run: starts a program, hands each line of its output to a function, returns its exit code.
        free_bytes: free space of the file system that holds a directory.
    """

    def __init__(
        self,
        root: Path,
        *,
        python: str = sys.executable,
        demanded: tuple[int, int] | None = None,
        say: Callable[[str], None],
        run: Callable[[list[str], Path, Callable[[str], None]], int],
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.base_python = python
        self._acceptable = SUPPORTED if demanded is None else (demanded,)
        self.python = self.venv / "bin" / "python"
        self._say = say
        self._run = run
        self._free_bytes = free_bytes

    def complete(self) -> bool:
        """Whether steps 2 to 5 were done for this lock, this place and a Python that still runs."""
        try:
            stamp = json.loads((self.venv / STAMP).read_text())
        except (OSError, ValueError):
            return False
        version = self._python_version()
        return bool(_minor(version) in self._acceptable and stamp == self._wanted_stamp(version))

    def preflight(self) -> None:
        """Raises SetupError for what no later step could put right."""
        for name in ("venv", "ensurepip"):
            if importlib.util.find_spec(name) is None:
                version = f"{sys.version_info[0]}.{sys.version_info[1]}"
                raise SetupError(
                    f"{self.base_python} has no {name} module; install it (on Debian and Ubuntu: "
                    f"apt install python{version}-venv) or set PYTHON to another Python 3.11 or 3.12"
                )
        have = _size_of(self.venv)
        needs = {self.root: max(VENV_BYTES - have, 0)}
        temporary = Path(tempfile.gettempdir())
        download = DOWNLOAD_BYTES if have < VENV_BYTES // 2 else DOWNLOAD_BYTES // 4
        if temporary.stat().st_dev == self.root.stat().st_dev:
            needs[self.root] += download
        else:
            needs[temporary] = download
        for place, need in needs.items():
            free = self._free_bytes(place)
            if free < need:
                where = " (or set TMPDIR to another disk)" if place == temporary else ""
                raise SetupError(
                    f"{place} has {free / 1e9:.1f} GB free and set-up needs {need / 1e9:.1f}; free some space{where}"
                )

    def install(self) -> None:
        """Steps 2 to 6."""
        self._make_venv()
        packages = next(self.venv.glob("lib/python3.*/site-packages"))
        for info in broken_distributions(packages):
            self._say(f"unpacking of {info.name.removesuffix('.dist-info')} was cut off; doing it again")
            shutil.rmtree(info)
        self._pip_install_lock()
        self._say("installing this repository")
        self._pip(["--no-deps", "--no-build-isolation", "--no-index", "-e", str(self.root)])
        draft = self.venv / (STAMP + ".new")
        draft.write_text(json.dumps(self._wanted_stamp(self._python_version())))
        draft.replace(self.venv / STAMP)

    def fetch_jars(self) -> int:
        """Step 7, by the environment just made; returns its exit code (it explains itself)."""
        return subprocess.run([self.python, "-m", "infra.jars", "fetch"], cwd=self.root).returncode

    def _wanted_stamp(self, python: str) -> dict[str, str]:
        def digest(name: str) -> str:
            return hashlib.sha256((self.root / name).read_bytes()).hexdigest()

        place = str(self.venv)
        return {"python": python, "lock": digest("requirements.lock"), "project": digest("pyproject.toml"), "at": place}

    def _python_version(self) -> str:
        """The environment's Python, or "" if it does not run."""
        code = "import sys, pip; print('.'.join(map(str, sys.version_info[:3])), sys.prefix)"
        try:
            said = subprocess.run([self.python, "-I", "-c", code], capture_output=True, text=True)
        except OSError:
            return ""
        version, _, prefix = said.stdout.strip().partition(" ")
        return version if said.returncode == 0 and Path(prefix) == self.venv else ""

    def _make_venv(self) -> None:
        if _minor(self._python_version()) in self._acceptable and self._stands_where_it_was_made():
            return
        self._say(f"making {self.venv}")
        lines: list[str] = []
        argv = [self.base_python, "-m", "venv", "--clear", str(self.venv)]
        if self._run(argv, Path(os.devnull), lines.append) != 0:
            raise SetupError(f"could not make {self.venv}: {' '.join(lines[-1:])}; remove it and run this again")

    def _stands_where_it_was_made(self) -> bool:
        """Programs of an environment name its Python by full path: in a checkout that was moved they are dead."""
        try:
            return str(self.venv) in (self.venv / "bin" / "pip").read_text(errors="replace")[:1000]
        except OSError:
            return False

    def _pip_install_lock(self) -> None:
        lock = self.root / "requirements.lock"
        builder = self.venv / "longrank-builder.txt"
        builder.write_text(locked_requirement(lock.read_text(), "setuptools"))
        total = len(re.findall(r"^[\w.\-]+==", lock.read_text(), re.MULTILINE))
        for attempt in range(1, PIP_ATTEMPTS + 1):
            seen = 0

            def watch(line: str) -> None:
                nonlocal seen
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    seen += 1
                    if seen % 25 == 0:
                        self._say(f"packages: {seen} of at most {total}")
                elif line.startswith("Installing collected packages"):
                    self._say("packages: all here, unpacking (a minute or two)")

            try:
                # The few packages that come as sources are built with the locked setuptools, which therefore comes
                # first; left alone, pip would fetch the newest one unchecked.
                self._pip(["--require-hashes", "-r", str(builder)])
                self._pip(["--require-hashes", "--no-build-isolation", "--use-pep517", "-r", str(lock)], watch)
            except _PipFailedError as failure:
                what, again = explain_pip_failure(failure.output, self.venv / LOG)
                if not again or attempt == PIP_ATTEMPTS:
                    raise SetupError(what) from failure
                self._say(f"{what} (attempt {attempt} of {PIP_ATTEMPTS})")
            else:
                return

    def _pip(self, arguments: list[str], watch: Callable[[str], None] | None = None) -> None:
        lines: list[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            if watch:
                watch(line)

        argv = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
        if self._run(argv, self.venv / LOG, keep) != 0:
            raise _PipFailedError(explain_pip_failure("\n".join(lines), self.venv / LOG)[0], "\n".join(lines))


class _PipFailedError(SetupError):
    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


def _minor(version: str) -> tuple[int, ...]:
    """(3, 11) of "3.11.7"; () of ""."""
    return tuple(int(part) for part in version.split(".")[:2] if part)


def _size_of(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total
