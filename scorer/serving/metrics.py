"""Every metric of a scorer, with its unit and meaning: the closed list. Names begin with `longrank_scorer_`."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_log = logging.getLogger(__name__)

_SECONDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_EVENTS: Final = (0, 1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
_REQUESTS: Final = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One scorer's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"longrank_scorer_{name}", meaning, labels, registry=self.registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"longrank_scorer_{name}", meaning, labels, registry=self.registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"longrank_scorer_{name}", meaning, labels, buckets=buckets, registry=self.registry)

        #: outcome: ok, behind, invalid (answered with why not), refused (dead letter alone).
        self.requests = counter("requests", "Records of the requests topic by what became of them.", "outcome")
        #: stage: queue (arrival to turn, parked time included), read, encode, score, acknowledge (by the broker).
        self.stage = histogram("stage_seconds", "Time of a request's stage.", _SECONDS, "stage")
        self.batch = histogram("batch_requests", "Requests scored in one turn.", _REQUESTS)
        self.history = histogram("history_events", "Events of a scored request's history.", _EVENTS)
        #: how: cold (the whole history), warm (its new events alone), shared (with another request of the same turn).
        self.encodes = counter("encodes", "Scored requests by how their user was encoded.", "how")
        self.kept_bytes = gauge("kept_bytes", "Keys and values that are kept between requests.")
        self.kept_users = gauge("kept_users", "Users whose keys and values are kept between requests.")
        self.stale = counter("stale", "Requests scored on a history that waits for repair.")
        self.ready = gauge("ready_requests", "Requests that could be scored now.")
        self.parked = gauge("parked_requests", "Requests that wait for their history.")
        self.heartbeats = counter("heartbeats", "Heartbeats passed on.")
        self.commits = counter("commits", "Commits of offsets by result: ok, failed.", "result")
        #: state: assigned, serving (caught up).
        self.partitions = gauge("partitions", "Partitions of the requests topic.", "state")
        self.store_records = counter("store_records", "Updates and snapshots by verdict of the store.", "verdict")
        self.store_refused = counter("store_refused", "Updates and snapshots that became dead letters.")
        self.store_rebuilds = counter("store_rebuilds", "Partitions of the store rebuilt from Kafka.")
        self.model = gauge("model_info", "1 for the model in service.", "version")
        self.reloads = counter("model_reloads", "New bundles by result: taken, refused.", "result")


#: user_id -> epoch and seq_no of the user's head in this scorer's store; None: it does not hold the user's partition.
Head = Callable[[int], Mapping[str, int] | None]


class MetricsServer:
    """`/metrics` in Prometheus' text format; `/readyz` answers 200 when `ready` says so, else 503.

    `/histories/<user_id>` answers which history this scorer holds of a user, as JSON, or 404 when another scorer would.
    """

    def __init__(self, metrics: Metrics, ready: Callable[[], bool], head: Head, host: str, port: int) -> None:
        """Serves at once in a thread of its own; port 0 takes a free one, see `port`."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
                elif self.path == "/readyz":
                    well = ready()
                    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(status, b"ready\n" if well else b"not ready\n", "text/plain")
                elif (user := self.path.removeprefix("/histories/")).isdecimal() and user != self.path:
                    held = head(int(user))
                    if held is None:
                        self._answer(HTTPStatus.NOT_FOUND, b"not held here\n", "text/plain")
                    else:
                        self._answer(HTTPStatus.OK, json.dumps(held).encode(), "application/json")
                else:
                    self._answer(HTTPStatus.NOT_FOUND, b"/metrics, /readyz or /histories/<user_id>\n", "text/plain")

            def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                _log.debug(format, *args)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
