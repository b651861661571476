"""Whether broker and Flink can be worked with, and waiting until they can."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.cluster.processes import ProcessRef
from infra.errors import InfraError
from infra.flink_rest import FlinkRest, FlinkRestError

_TIMEOUT_MS: Final = 3000


def broker_problem(bootstrap: str) -> str | None:
    """None if the broker answers a metadata request, else what it said instead."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=_TIMEOUT_MS)
    except KafkaError as error:
        if not error.retriable:
            raise
        return f"no answer at {bootstrap} ({type(error).__name__})"
    try:
        brokers = admin.describe_cluster()["brokers"]
        return None if brokers else f"{bootstrap} knows no broker"
    except KafkaError as error:
        if not error.retriable:
            raise
        return f"no metadata from {bootstrap} ({type(error).__name__})"
    finally:
        admin.close()


def flink_problem(rest_url: str, wanted: set[str]) -> str | None:
    """None if the JobManager lists every TaskManager of `wanted` (resource ids), else what is missing."""
    try:
        registered = set(FlinkRest(rest_url, timeout_s=3.0).taskmanager_ids())
    except FlinkRestError as error:
        return str(error)
    missing = sorted(wanted - registered)
    return f"TaskManager {', '.join(missing)} has not registered" if missing else None


def last_lines(log: str | Path, count: int = 5) -> str:
    """The end of a log, for an error message."""
    try:
        return "\n".join(Path(log).read_text(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""


def wait_healthy(
    checks: Mapping[str, Callable[[], str | None]],
    processes: Mapping[str, ProcessRef],
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Until every check returns None while all processes live.

    Raises:
        InfraError: a process died, with the end of its log, or time ran out, with what was still wrong.
    """
    deadline = clock() + timeout_s
    left = dict(checks)
    while left:
        for process in processes.values():
            if not process.alive():
                raise InfraError(f"{process.name} died while starting; {process.log} ends:\n{last_lines(process.log)}")
        problems = {name: check() for name, check in left.items()}
        left = {name: check for name, check in left.items() if problems[name] is not None}
        if left and clock() > deadline:
            what = "; ".join(f"{name}: {problems[name]}" for name in left)
            logs = ", ".join(sorted({process.log for process in processes.values()}))
            raise InfraError(f"not healthy after {timeout_s:.0f} s: {what}; see {logs}")
        if left:
            sleep(0.2)
