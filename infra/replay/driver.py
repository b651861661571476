"""The shell that carries the application: a producer, a consumer of what comes back, the clock and a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from rich.console import Console
from rich.progress import Progress

from infra.progress import progress_bars
from infra.replay.application import Application
from infra.replay.messages import Outgoing
from schemas.topics import HEARTBEAT_KEY, PARTITIONS, RESPONSES, UPDATES
from schemas.v1.ranking_pb2 import RankingResponse
from schemas.v1.sequence_pb2 import SequenceUpdate

_POLL_MS: Final = 20


class ReplayStalledError(Exception):
    """Nothing came back for too long."""


@dataclass
class ReplayTimings:
    """Wall clock of a replay; latencies in ms, from the moment of sending to the moment of reading back."""

    seconds: float = 0.0
    event_to_visible_ms: list[float] = field(default_factory=list)
    request_to_response_ms: list[float] = field(default_factory=list)
    #: (seconds since the start, deltas seen so far), for the rate's curve.
    progress: list[tuple[float, int]] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """p50 and p99 of both latencies, and the number of each."""
        figures: dict[str, float] = {"seconds": self.seconds}
        for name in ("event_to_visible_ms", "request_to_response_ms"):
            values = getattr(self, name)
            if values:
                figures |= {f"{name}_p{q}": float(np.percentile(values, q)) for q in (50, 99)}
        return figures


class ReplayDriver:
    """Runs an `Application` against a broker.

    Raises from `run`:
        ReplayStalledError: no record came back for `stall_seconds` while some were due; the jobs or the scorer are
            down, see their logs.
        KafkaError: a record could not be written.
    """

    def __init__(
        self,
        application: Application,
        bootstrap: str,
        *,
        clock: Callable[[], float] = time.perf_counter,
        stall_seconds: float = 60.0,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_turn` is called between sending and reading back, again and again."""
        self._application = application
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._on_turn = on_turn
        self.timings = ReplayTimings()
        self._sent_at: dict[bytes | str, float] = {}
        self._failures: list[BaseException] = []
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", linger_ms=5, compression_type=None, batch_size=65_536
        )
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            # What came within a poll's time comes at once: one record costs the broker a fetch, as fifty do.
            fetch_max_wait_ms=_POLL_MS,
            fetch_min_bytes=65_536,
            max_poll_records=2_000,
        )
        partitions = [TopicPartition(topic.name, p) for topic in (UPDATES, RESPONSES) for p in range(PARTITIONS)]
        self._consumer.assign(partitions)
        for partition, end in self._consumer.end_offsets(partitions).items():
            self._consumer.seek(partition, end)

    def close(self) -> None:
        """Release both Kafka clients."""
        self._producer.close()
        self._consumer.close()

    def run(self, *, until_ms: int | None = None, speed: float | None = None, progress: Progress | None = None) -> None:
        """Send the log up to log time `until_ms` and wait until all of it has been answered.

        Args:
            speed: log seconds per second of wall clock; None sends as fast as the answers come.
        """
        started = self._clock()
        already, first_log_ms = self.timings.seconds, self._application.low_time_ms
        bar = progress.add_task("replay", total=self._application.total) if progress else None
        last_news = started
        while True:
            limit, at_end = until_ms, True
            if speed is not None:
                paced = first_log_ms + int((self._clock() - started) * speed * 1000)
                at_end = self._application.exhausted(until_ms)
                limit = paced if until_ms is None else min(paced, until_ms)
            self._send(self._application.admit(limit, flush=at_end))
            if self._application.idle and self._application.exhausted(until_ms):
                break
            self._on_turn()
            if self._read_back() or self._application.idle:
                last_news = self._clock()
            elif self._clock() - last_news > self._stall_seconds:
                raise ReplayStalledError(
                    f"nothing came back for {self._stall_seconds:.0f} s; so far {asdict(self._application.counts)}"
                )
            self._check_writes()
            self.timings.seconds = already + self._clock() - started
            self.timings.progress.append((self.timings.seconds, self._application.counts.deltas))
            if progress and bar is not None:
                progress.update(bar, completed=self._application.finished)
        self._producer.flush()
        self._check_writes()
        self.timings.seconds = already + self._clock() - started
        if progress and bar is not None:
            progress.update(bar, completed=self._application.finished)

    def heartbeat(self, time_ms: int, out_of_orderness_ms: int) -> None:
        """Tell every partition that nothing older than `time_ms` will come."""
        self._send(self._application.heartbeats(time_ms, out_of_orderness_ms))
        self._producer.flush()
        self._check_writes()

    def _send(self, records: Iterable[Outgoing]) -> None:
        for record in records:
            if record.awaited is not None:
                self._sent_at[record.awaited] = self._clock()
            self._producer.send(
                record.topic,
                key=record.key,
                value=record.value,
                timestamp_ms=record.timestamp_ms,
                partition=record.partition,
            ).add_errback(self._failures.append)

    def _read_back(self) -> bool:
        batches: dict[TopicPartition, list[Any]] = self._consumer.poll(timeout_ms=_POLL_MS)
        now = self._clock()
        for partition, records in batches.items():
            for record in records:
                if record.key == HEARTBEAT_KEY:
                    continue
                if partition.topic == UPDATES.name:
                    update = SequenceUpdate.FromString(record.value)
                    self._note_return(update.event_id, now, self.timings.event_to_visible_ms)
                    self._send(self._application.on_delta(update.user_id, update.event_id, update.seq_no))
                else:
                    response = RankingResponse.FromString(record.value)
                    self._note_return(response.request_id, now, self.timings.request_to_response_ms)
                    self._send(self._application.on_response(response))
        return bool(batches)

    def _note_return(self, name: bytes | str, now: float, latencies: list[float]) -> None:
        sent = self._sent_at.pop(name, None)
        if sent is not None:
            latencies.append((now - sent) * 1000)

    def _check_writes(self) -> None:
        if self._failures:
            raise self._failures[0]


def progress_bar() -> Progress:
    """The bar that replays show."""
    return progress_bars("entries", Console())
