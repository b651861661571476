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

import csv
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SUPPORTED = ((3, 11), (3, 12))
#: Bytes. Measured: the installed packages take 6.1 GB; pip holds their archives (3 GB) in its temporary directory.
VENV_BYTES = 6_500_000_000
DOWNLOAD_BYTES = 3_500_000_000
PIP_ATTEMPTS = 3
STAMP = "longrank-setup.json"
LOG = "longrank-setup.log"


class SetupError(Exception):
    """One line: what is wrong; what to do."""


# ---- what pip's failures mean


def explain_pip_failure(output: str, log: Path) -> tuple[str, bool]:
    """What pip's output says went wrong, as one line, and whether trying again may help."""
    if "No space left on device" in output:
        return "the disk filled up while installing packages; free some space and run this again", False
    if "DO NOT MATCH THE HASHES" in output or "Expected sha256" in output:
        package = re.search(r"^\s*([\w.\-]+==\S+|[\w.\-]+)[^\n]*:\n\s+Expected sha256", output, re.MULTILINE)
        name = package.group(1) if package else "a package"
        return (
            f"{name} has another checksum than requirements.lock says; a proxy or mirror altered it: "
            "try another network, or check the lock against git",
            False,
        )
    network = r"NewConnectionError|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection (?:refused"
    network += r"|reset|aborted|broken)|Temporary failure in name resolution|IncompleteRead|Max retries exceeded"
    if re.search(network, output):
        return (
            "the package index could not be reached; check the network (or pip's configuration), run this again",
            True,
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    what = errors[-1] if errors else (output.strip().splitlines() or ["no output"])[-1]
    return f"pip failed: {what.strip()[:300]}; the whole story is in {log}", False


# ---- what an interrupted run left


def broken_distributions(site_packages: Path) -> list[Path]:
    """The .dist-info directories of packages that were not unpacked to their end.

    pip writes RECORD last; a package without it, or with a listed file missing or of another size, was cut off. pip
    itself would take it for installed.
    """
    broken = []
    for info in sorted(site_packages.glob("*.dist-info")):
        try:
            with (info / "RECORD").open(newline="") as file:
                listed = [(row[0], row[2]) for row in csv.reader(file) if len(row) == 3 and row[2]]
            whole = all((site_packages / name).stat().st_size == int(size) for name, size in listed)
        except OSError:
            whole = False
        # The installer's own mark; an unfinished package has the RECORD of its archive, not yet this.
        if not whole or not (info / "INSTALLER").exists():
            broken.append(info)
    return broken


# ---- the steps


class Setup:
    """The steps for the checkout at `root`, run by `python`.

    Args:
        say: prints one line of progress.
        run: starts a program, hands each line of its output to a function, returns its exit code.
        free_bytes: free space of the file system that holds a directory.
    """

    def __init__(
        self,
        root: Path,
        *,
        python: str = sys.executable,
        say: Callable[[str], None],
        run: Callable[[list[str], Path, Callable[[str], None]], int],
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.base_python = python
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
        return bool(stamp == self._wanted_stamp(stamp.get("python", "")) and self._python_version() == stamp["python"])

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
            said = subprocess.run([self.python, "-c", code], capture_output=True, text=True)
        except OSError:
            return ""
        version, _, prefix = said.stdout.strip().partition(" ")
        return version if said.returncode == 0 and Path(prefix) == self.venv else ""

    def _make_venv(self) -> None:
        version = self._python_version()
        if version and tuple(map(int, version.split(".")[:2])) in SUPPORTED and self._stands_where_it_was_made():
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
        total = len(re.findall(r"^[\w.\-]+==", lock.read_text(), re.MULTILINE))
        for attempt in range(1, PIP_ATTEMPTS + 1):
            seen = 0

            def watch(line: str) -> None:
                nonlocal seen
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    seen += 1
                    if seen % 10 == 0:
                        self._say(f"packages: {seen} of at most {total}")
                elif line.startswith("Installing collected packages"):
                    self._say("packages: all here, unpacking (a minute or two)")

            try:
                self._pip(["--require-hashes", "-r", str(lock)], watch)
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


# ---- the shell


def _size_of(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def _run_logged(argv: list[str], log: Path, on_line: Callable[[str], None]) -> int:
    environment = {**os.environ, "PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
    with log.open("a") as file:
        file.write(f"$ {' '.join(argv)}\n")
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            file.flush()
            on_line(line.rstrip("\n"))
        return child.wait()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Two set-ups of one checkout take turns."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main() -> int:
    """Exit code 0: ready; 2: not, and why; 130: interrupted."""
    root = Path(__file__).resolve().parent.parent
    if sys.version_info[:2] not in SUPPORTED:
        version = ".".join(map(str, sys.version_info[:3]))
        sys.stderr.write(
            f"setup: {sys.executable} is Python {version}, and 3.11 or 3.12 is needed; "
            "install one or set PYTHON to one\n"
        )
        return 2

    def say(line: str) -> None:
        sys.stderr.write(f"setup: {line}\n")
        sys.stderr.flush()

    setup = Setup(root, say=say, run=_run_logged)
    try:
        with _alone(root):
            if not setup.complete():
                setup.preflight()
                setup.install()
            return setup.fetch_jars()
    except SetupError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(f"{error.strerror}: {error.filename}; put that right and run this again")
        return 2
    except KeyboardInterrupt:
        say("interrupted; run it again to continue")
        return 130


if __name__ == "__main__":
    sys.exit(main())
