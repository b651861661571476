"""The scorer as the process that `longrank serve` is, started and stopped by the demo and by tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from infra.cluster.ports import choose_ports
from infra.cluster.processes import MARKER
from infra.errors import InfraError

_POLL_S: Final = 0.1
_TERM_WAIT_S: Final = 30.0


class ScorerProcess:
    """`longrank serve` with its log in a file; a context that ends it by its own handle."""

    def __init__(self, bootstrap: str, registry: Path, store: Path, log: Path, *, home: Path | None = None) -> None:
        """Starts it at once; `wait_ready` waits for its partitions.

        Args:
            home: of a local cluster; its `down` ends this scorer, too, should its starter be killed.
        """
        self._log = log
        self.metrics_port = choose_ports({"metrics": 0}, {})["metrics"]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._home = home
        argv = [sys.executable, "-m", "infra.cli", "serve", "--device", "cpu", "--bootstrap", bootstrap]
        argv += ["--registry", str(registry), "--store", str(store), "--metrics-port", str(self.metrics_port)]
        self._argv = argv
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as file:
            return subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, MARKER: str(self._home)} if self._home else None,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Until it serves all its partitions.

        Raises:
            InfraError: it ended, or time ran out; with the end of its log.
        """
        self._wait(lambda: self._get("/readyz") is not None, "did not become ready", timeout_s)

    def wait_model(self, version: str, timeout_s: float = 60.0) -> None:
        """Until it serves with this model version. Raises InfraError as `wait_ready` does."""
        self._wait(
            lambda: any(
                line.startswith("longrank_scorer_model_info{") and f'"{version}"' in line and line.endswith(" 1.0")
                for line in (self._get("/metrics") or "").splitlines()
            ),
            f"did not take up model {version}",
            timeout_s,
        )

    def kill_and_restart(self) -> None:
        """SIGKILL, and another one with the same store in its place; `wait_ready` waits for it."""
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def stop(self) -> int:
        """SIGTERM, which drains; SIGKILL if that takes too long. Returns the exit code."""
        self._process.terminate()
        try:
            return self._process.wait(_TERM_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def _wait(self, reached: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
                ended = f"ended with {code}" if code is not None else what
                raise InfraError(f"the scorer {ended}; its log {self._log} ends:\n{tail}")
            time.sleep(_POLL_S)
