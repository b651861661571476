"""`python -m infra.bootstrap`, what `make setup` runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.bootstrap.environment import SUPPORTED, Setup, SetupError


def _say(line: str) -> None:
    sys.stderr.write(f"setup: {line}\n")
    sys.stderr.flush()


@contextmanager
def _alone(root: Path) -> Iterator[int]:
    """Two set-ups of one checkout take turns; yields the descriptor that holds the turn."""
    turn = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another set-up works in {root}; waiting for its end")
            fcntl.flock(turn, fcntl.LOCK_EX)
        yield turn
    finally:
        os.close(turn)


def _runner(turn: int) -> Callable[[list[str], Path, Callable[[str], None]], int]:
    """Starts programs that keep a log.

    They inherit `turn`: should this process be killed, the next set-up waits until its orphaned pip has ended.
    """

    def run(argv: list[str], log: Path, on_line: Callable[[str], None]) -> int:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(argv)}\n")
            child = subprocess.Popen(
                argv,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, "PIP_USER": "0"},
                pass_fds=(turn,),
            )
            assert child.stdout is not None
            for line in child.stdout:
                file.write(line)
                on_line(line.rstrip("\n"))
            return child.wait()

    return run


def main() -> int:
    """Exit code 0: ready; 2: not, and why; 130: interrupted."""
    this = sys.version_info[:2]
    if this not in SUPPORTED:
        _say(f"{sys.executable} is Python {this[0]}.{this[1]}, and 3.11 or 3.12 is needed; set PYTHON to one")
        return 2
    root = Path(__file__).resolve().parents[2]
    try:
        with _alone(root) as turn:
            setup = Setup(root, demanded=this if os.environ.get("PYTHON") else None, say=_say, run=_runner(turn))
            if not setup.complete():
                setup.preflight()
                setup.install()
            return setup.fetch_jars()
    except SetupError as error:
        _say(str(error))
        return 2
    except OSError as error:
        _say(f"{error.strerror}: {error.filename}; put that right and run this again")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; run it again to continue")
        return 130


if __name__ == "__main__":
    sys.exit(main())
