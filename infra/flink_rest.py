"""Flink's REST interface, as much of it as the demo, the tests and the operator's commands need.

Paths and fields: Apache Flink documentation, "REST API", v1.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from infra.errors import InfraError

#: A job in one of these will not change again.
TERMINAL_STATES: Final = frozenset({"FINISHED", "FAILED", "CANCELED"})
_POLL_S: Final = 0.2
_T = TypeVar("_T")


class FlinkRestError(InfraError):
    """The JobManager did not answer, or answered with an error."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One line of the job list. `state` as Flink names it: RUNNING, RESTARTING, FAILED, ..."""

    job_id: str
    name: str
    state: str
    start_time_ms: int


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Counts since the job's start (a restored job starts anew), and the latest completed one."""

    completed: int
    failed: int
    in_progress: int
    latest_id: int | None
    latest_path: str | None
    latest_size_bytes: int | None
    latest_duration_ms: int | None


class FlinkRest:
    """A client of one JobManager at `url` (`http://host:port`)."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep

    # ---- the cluster

    def overview(self) -> dict[str, Any]:
        """`taskmanagers`, `slots-total`, `slots-available`, `jobs-running`, ..."""
        return self._object("GET", "/overview")

    def taskmanager_ids(self) -> list[str]:
        """The resource ids of the registered TaskManagers; a killed one stays until its heartbeat is missed."""
        return [str(entry["id"]) for entry in self._object("GET", "/taskmanagers")["taskmanagers"]]

    def idle_taskmanager_ids(self) -> list[str]:
        """Those that have all their slots free."""
        entries = self._object("GET", "/taskmanagers")["taskmanagers"]
        return [str(entry["id"]) for entry in entries if entry["freeSlots"] == entry["slotsNumber"]]

    # ---- jobs

    def jobs(self) -> list[Job]:
        """Every job the JobManager remembers, newest first."""
        found = [
            Job(
                job_id=str(entry["jid"]),
                name=str(entry["name"]),
                state=str(entry["state"]),
                start_time_ms=int(entry["start-time"]),
            )
            for entry in self._object("GET", "/jobs/overview")["jobs"]
        ]
        return sorted(found, key=lambda job: job.start_time_ms, reverse=True)

    def find_job(self, name: str) -> Job | None:
        """The newest job of that name that has not ended."""
        return next((job for job in self.jobs() if job.name == name and job.state not in TERMINAL_STATES), None)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job's details: `state`, `vertices`, `timestamps`, `plan`, ..."""
        return self._object("GET", f"/jobs/{job_id}")

    def job_state(self, job_id: str) -> str:
        """RUNNING, RESTARTING, FAILED, ..."""
        return str(self._object("GET", f"/jobs/{job_id}/status")["status"])

    def latest_exception(self, job_id: str) -> str | None:
        """Name and stack of the newest failure, also of one that the job recovered from; None if there was none."""
        entries = self._object("GET", f"/jobs/{job_id}/exceptions?maxExceptions=1")["exceptionHistory"]["entries"]
        return f"{entries[0]['exceptionName']}\n{entries[0]['stacktrace']}" if entries else None

    def restarts(self, job_id: str) -> int:
        """How often the job went back to its last checkpoint."""
        return int(self.job_metrics(job_id, ["numRestarts"])["numRestarts"])

    def wait_restarted(self, job_id: str, *, timeout_s: float = 60.0) -> None:
        """Until the JobManager says that the job has gone back to a checkpoint: it asks for its metrics now and then.

        Raises:
            FlinkRestError: time ran out.
        """
        self._wait(lambda: self.restarts(job_id) or None, f"a restart of job {job_id}", timeout_s)

    def wait_running(self, job_id: str, *, timeout_s: float = 120.0) -> None:
        """Until the job is RUNNING and each of its tasks is too.

        Raises:
            FlinkRestError: it ended instead, with the reason, or time ran out.
        """

        def running() -> bool:
            details = self.job(job_id)
            state = str(details["state"])
            if state in TERMINAL_STATES:
                raise FlinkRestError(f"job {details['name']} ({job_id}) is {state}: {self.why(job_id)}")
            return state == "RUNNING" and all(vertex["status"] == "RUNNING" for vertex in details["vertices"])

        self._wait(running, f"job {job_id} to run", timeout_s)

    def wait_state(self, job_id: str, states: Sequence[str], *, timeout_s: float = 120.0) -> str:
        """Until the job is in one of `states`; returns which.

        Raises:
            FlinkRestError: it ended in another, with the reason, or time ran out.
        """

        def reached() -> str | None:
            state = self.job_state(job_id)
            if state not in states and state in TERMINAL_STATES:
                raise FlinkRestError(f"job {job_id} is {state}, not {'/'.join(states)}: {self.why(job_id)}")
            return state if state in states else None

        return self._wait(reached, f"job {job_id} to be {'/'.join(states)}", timeout_s)

    def why(self, job_id: str) -> str:
        """The innermost cause of the newest failure, on one line."""
        text = self.latest_exception(job_id)
        if text is None:
            return "no exception recorded"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        causes = [line for line in lines if line.startswith("Caused by:")]
        return (causes[-1] if causes else lines[0])[:500]

    def cancel(self, job_id: str, *, timeout_s: float = 120.0) -> None:
        """Cancel and wait for the end; state since the last checkpoint is lost. A job that has ended stays as it is."""
        if self.job_state(job_id) in TERMINAL_STATES:
            return
        self._call("PATCH", f"/jobs/{job_id}?mode=cancel")
        self.wait_state(job_id, sorted(TERMINAL_STATES), timeout_s=timeout_s)

    def savepoint(self, job_id: str, *, directory: str | None = None, timeout_s: float = 300.0) -> str:
        """Take a savepoint of a running job; returns its path."""
        body = {"cancel-job": False} | ({"target-directory": directory} if directory else {})
        return self._await_savepoint(job_id, f"/jobs/{job_id}/savepoints", body, timeout_s)

    def stop_with_savepoint(self, job_id: str, *, directory: str | None = None, timeout_s: float = 300.0) -> str:
        """Stop the job with a savepoint and return its path.

        Never drains: draining fires every timer that is still to come, and the windows of the restored job with it.
        """
        body = {"drain": False} | ({"targetDirectory": directory} if directory else {})
        path = self._await_savepoint(job_id, f"/jobs/{job_id}/stop", body, timeout_s)
        self.wait_state(job_id, ["FINISHED"], timeout_s=timeout_s)
        return path

    def checkpoints(self, job_id: str) -> Checkpoints:
        """Checkpoint counts and the latest completed one."""
        answer = self._object("GET", f"/jobs/{job_id}/checkpoints")
        counts, latest = answer["counts"], answer["latest"]["completed"] or {}
        return Checkpoints(
            completed=int(counts["completed"]),
            failed=int(counts["failed"]),
            in_progress=int(counts["in_progress"]),
            latest_id=latest.get("id"),
            latest_path=latest.get("external_path"),
            latest_size_bytes=latest.get("state_size"),
            latest_duration_ms=latest.get("end_to_end_duration"),
        )

    # ---- metrics

    def job_metrics(self, job_id: str, names: Sequence[str]) -> dict[str, float]:
        """Job metrics by name (`numRestarts`, `uptime`, ...)."""
        return self._metrics(f"/jobs/{job_id}/metrics", names)

    def vertex_metrics(self, job_id: str, vertex_id: str, names: Sequence[str] = ()) -> dict[str, float]:
        """Metrics of every subtask of a vertex, as `<subtask>.<metric>`; without `names`, all that are numbers.

        The JobManager collects them every few seconds from its first question on: the first answer may be empty.

        A name may be the metric's end (`numRecordsIn` finds `0.Process.numRecordsIn`).
        """
        path = f"/jobs/{job_id}/vertices/{vertex_id}/metrics"
        known = [str(entry["id"]) for entry in self._list("GET", path)]
        wanted = [name for name in known if not names or any(name == n or name.endswith(f".{n}") for n in names)]
        found: dict[str, float] = {}
        for start in range(0, len(wanted), 50):  # the names travel in the address, which has a limit
            found |= self._metrics(path, wanted[start : start + 50])
        return found

    def _metrics(self, path: str, names: Sequence[str]) -> dict[str, float]:
        query = urllib.parse.quote(",".join(names), safe=",")
        values: dict[str, float] = {}
        for entry in self._list("GET", f"{path}?get={query}"):
            try:
                values[str(entry["id"])] = float(entry["value"])
            except ValueError:
                continue  # a text metric
        return values

    # ---- plumbing

    def _await_savepoint(self, job_id: str, path: str, body: Mapping[str, object], timeout_s: float) -> str:
        trigger = str(self._object("POST", path, body)["request-id"])

        def done() -> str | None:
            answer = self._object("GET", f"/jobs/{job_id}/savepoints/{trigger}")
            if answer["status"]["id"] != "COMPLETED":
                return None
            operation = answer["operation"]
            if "failure-cause" in operation:
                cause = str(operation["failure-cause"].get("stack-trace", operation["failure-cause"]))
                raise FlinkRestError(f"savepoint of job {job_id} failed: {cause[:1000]}")
            return str(operation["location"])

        return self._wait(done, f"the savepoint of job {job_id}", timeout_s)

    def _wait(self, check: Callable[[], _T | None], what: str, timeout_s: float) -> _T:
        deadline = self._clock() + timeout_s
        while True:
            result = check()
            if result:
                return result
            if self._clock() > deadline:
                raise FlinkRestError(f"waited {timeout_s:.0f} s for {what} at {self.url}; see the JobManager's log")
            self._sleep(_POLL_S)

    def _object(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        answer = self._call(method, path, body)
        assert isinstance(answer, dict), (path, answer)
        return answer

    def _list(self, method: str, path: str) -> list[dict[str, Any]]:
        answer = self._call(method, path)
        assert isinstance(answer, list), (path, answer)
        return answer

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )
        try:
            # No proxy: the JobManager is the cluster's own.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=self.timeout_s) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise FlinkRestError(f"{method} {self.url}{path}: {error.code}: {_reason(error)}") from error
        except (OSError, http.client.HTTPException) as error:  # URLError, timeouts, a connection cut
            reason = getattr(error, "reason", error)
            raise FlinkRestError(f"no JobManager answers at {self.url} ({reason}); is the cluster up?") from error
        return json.loads(text) if text else {}


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return "; ".join(json.loads(text)["errors"])[:1000]
    except (ValueError, KeyError, TypeError):
        return text[:1000]
