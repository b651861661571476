"""The REST client against a played JobManager: states, waiting, failures and their words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from infra.flink_rest import FlinkRest, FlinkRestError

TRACE = "java.lang.RuntimeException: outer\n\tat A\nCaused by: java.io.IOException: the disk is full\n\tat B\n"


class JobManager:
    """Answers each path with its list of answers, one after the other; the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.bodies: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if length:
                    outer.bodies.append((self.path, json.loads(self.rfile.read(length))))
                queue = outer.answers[(self.command, self.path)]
                status, body = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, path: str, *bodies: Any, method: str = "GET", status: int = 200) -> None:
        self.answers[(method, path)] = [(status, body) for body in bodies]


@pytest.fixture
def jobmanager() -> Iterator[JobManager]:
    played = JobManager()
    thread = Thread(target=played.server.serve_forever, daemon=True)
    thread.start()
    yield played
    played.server.shutdown()
    played.server.server_close()
    thread.join()


@pytest.fixture
def flink(jobmanager: JobManager) -> FlinkRest:
    """A client whose clock moves only while it sleeps."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return FlinkRest(jobmanager.url, clock=lambda: now[0], sleep=sleep)


def details(state: str, *vertices: str) -> dict[str, Any]:
    return {"name": "the job", "state": state, "vertices": [{"status": status} for status in vertices]}


def exceptions(trace: str | None) -> dict[str, Any]:
    entries = [] if trace is None else [{"exceptionName": "java.lang.RuntimeException", "stacktrace": trace}]
    return {"exceptionHistory": {"entries": entries}}


def test_running_means_every_task(jobmanager: JobManager, flink: FlinkRest) -> None:
    jobmanager.says(
        "/jobs/a", details("CREATED"), details("RUNNING", "RUNNING", "DEPLOYING"), details("RUNNING", "RUNNING")
    )
    flink.wait_running("a")
    assert len(jobmanager.answers[("GET", "/jobs/a")]) == 1


def test_a_job_that_failed_instead_is_told_with_its_innermost_cause(jobmanager: JobManager, flink: FlinkRest) -> None:
    jobmanager.says("/jobs/a", details("FAILED"))
    jobmanager.says("/jobs/a/exceptions?maxExceptions=1", exceptions(TRACE))
    with pytest.raises(
        FlinkRestError, match=r"the job \(a\) is FAILED: Caused by: java.io.IOException: the disk is full"
    ):
        flink.wait_running("a")


def test_waiting_ends(jobmanager: JobManager, flink: FlinkRest) -> None:
    jobmanager.says("/jobs/a", details("RUNNING", "INITIALIZING"))
    with pytest.raises(FlinkRestError, match="waited 5 s for job a to run"):
        flink.wait_running("a", timeout_s=5)


def test_the_newest_living_job_of_a_name_is_found(jobmanager: JobManager, flink: FlinkRest) -> None:
    def line(jid: str, state: str, start: int) -> dict[str, Any]:
        return {"jid": jid, "name": "n", "state": state, "start-time": start}

    jobmanager.says(
        "/jobs/overview", {"jobs": [line("old", "RUNNING", 1), line("new", "RESTARTING", 2), line("dead", "FAILED", 3)]}
    )
    found = flink.find_job("n")
    assert found is not None
    assert found.job_id == "new"
    assert flink.find_job("other") is None
    assert [job.job_id for job in flink.jobs()] == ["dead", "new", "old"]


def test_a_stop_never_drains(jobmanager: JobManager, flink: FlinkRest) -> None:
    jobmanager.says("/jobs/a/stop", {"request-id": "r"}, method="POST")
    pending, done = (
        {"status": {"id": "IN_PROGRESS"}},
        {"status": {"id": "COMPLETED"}, "operation": {"location": "f:/s"}},
    )
    jobmanager.says("/jobs/a/savepoints/r", pending, pending, done)
    jobmanager.says("/jobs/a/status", {"status": "RUNNING"}, {"status": "FINISHED"})
    assert flink.stop_with_savepoint("a", directory="/d") == "f:/s"
    assert jobmanager.bodies == [("/jobs/a/stop", {"drain": False, "targetDirectory": "/d"})]


def test_a_savepoint_that_failed_says_why(jobmanager: JobManager, flink: FlinkRest) -> None:
    jobmanager.says("/jobs/a/savepoints", {"request-id": "r"}, method="POST")
    failed = {"status": {"id": "COMPLETED"}, "operation": {"failure-cause": {"stack-trace": "no space"}}}
    jobmanager.says("/jobs/a/savepoints/r", failed)
    with pytest.raises(FlinkRestError, match="savepoint of job a failed: no space"):
        flink.savepoint("a")


def test_an_ended_job_is_not_cancelled_again(jobmanager: JobManager, flink: FlinkRest) -> None:
    jobmanager.says("/jobs/a/status", {"status": "FINISHED"})
    flink.cancel("a")  # a PATCH would find no answer


def test_metrics_are_found_by_their_end_and_texts_left_out(jobmanager: JobManager, flink: FlinkRest) -> None:
    path = "/jobs/a/vertices/v/metrics"
    jobmanager.says(path, [{"id": "0.Process.numRecordsIn"}, {"id": "0.numRecordsIn"}, {"id": "0.other"}])
    asked = f"{path}?get=0.Process.numRecordsIn,0.numRecordsIn"
    jobmanager.says(asked, [{"id": "0.Process.numRecordsIn", "value": "7"}, {"id": "0.numRecordsIn", "value": "n/a"}])
    assert flink.vertex_metrics("a", "v", ["numRecordsIn"]) == {"0.Process.numRecordsIn": 7.0}


def test_checkpoints_before_the_first(jobmanager: JobManager, flink: FlinkRest) -> None:
    counts = {"completed": 0, "failed": 0, "in_progress": 1}
    jobmanager.says("/jobs/a/checkpoints", {"counts": counts, "latest": {"completed": None}})
    assert flink.checkpoints("a").latest_path is None


def test_an_error_carries_flinks_words(jobmanager: JobManager, flink: FlinkRest) -> None:
    jobmanager.says("/jobs/a/status", {"errors": ["Job a not found"]}, status=404)
    with pytest.raises(FlinkRestError, match="404: Job a not found"):
        flink.job_state("a")


def test_nobody_there_is_said() -> None:
    with pytest.raises(FlinkRestError, match=r"no JobManager answers at http://127\.0\.0\.1:1 .*is the cluster up"):
        FlinkRest("http://127.0.0.1:1").overview()
