"""From an event's publication to its delta at a consumer, with events coming at a steady rate."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from infra.bench.sequence.produce import BatchWriter
from infra.bench.sequence.session import Session
from infra.bench.sequence.workload import Record
from infra.errors import InfraError
from schemas.topics import EVENTS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.sequence_pb2 import SequenceUpdate

#: Events are sent in the order of their time, together with those of the same tick.
_TICK_S: Final = 0.005
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """At `per_second` events: milliseconds that half of the events, and 99 of 100, needed at most."""

    per_second: float
    p50_ms: float
    p99_ms: float
    events: int


class _Reader(threading.Thread):
    """Notes when each delta is seen."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(name="deltas")
        self.seen_at: dict[bytes, float] = {}
        self.error: Exception | None = None
        self._ended = threading.Event()
        self._consumer: Any = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
        partitions = [TopicPartition(UPDATES.name, number) for number in range(UPDATES.partitions)]
        self._consumer.assign(partitions)
        self._consumer.seek_to_end()
        for partition in partitions:  # positions are fetched when first asked for
            self._consumer.position(partition)

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                batches = self._consumer.poll(timeout_ms=100)
                now = time.monotonic()
                for batch in batches.values():
                    for record in batch:
                        self.seen_at.setdefault(SequenceUpdate.FromString(record.value).event_id, now)
        except Exception as error:
            self.error = error
        finally:
            self._consumer.close()

    def end(self) -> None:
        self._ended.set()
        self.join()
        if self.error is not None:
            raise self.error


def measure(running: Session, records: Iterable[Record], *, per_second: float, warm_s: float, for_s: float) -> Latency:
    """Latency at a rate, with the job running and caught up.

    Args:
        records: enough of them; their timestamps are replaced by now.
        warm_s: seconds before the measurement begins, at the same rate.
        for_s: seconds that are measured.

    Raises:
        InfraError: deltas are missing a minute after their events.
    """
    total = int(per_second * (warm_s + for_s))
    load = [(_event_id(record), record) for record in islice(records, total)]
    sent_at: dict[bytes, float] = {}
    with _short_switches(), BatchWriter(running.bootstrap) as writer:
        reader = _Reader(running.bootstrap)
        reader.start()
        try:
            for tick in _ticks(load, per_second):
                for batch in _by_partition(tick):
                    now = time.monotonic()
                    sent_at.update((event_id, now) for event_id, _ in batch)
                    writer.write(EVENTS.name, batch[0][1].partition, [record for _, record in batch])
            deadline = time.monotonic() + _PATIENCE_S
            while len(reader.seen_at) < len(load) and reader.error is None:
                if time.monotonic() > deadline:
                    raise InfraError(f"{len(load) - len(reader.seen_at)} of {len(load)} events have no delta")
                time.sleep(0.05)
        finally:
            reader.end()
    measured = [event_id for event_id, _ in load[int(per_second * warm_s) :]]
    waits_ms = 1_000 * np.array([reader.seen_at[event_id] - sent_at[event_id] for event_id in measured])
    p50, p99 = np.percentile(waits_ms, [50, 99])
    return Latency(per_second=per_second, p50_ms=float(p50), p99_ms=float(p99), events=len(measured))


def _event_id(record: Record) -> bytes:
    return BehaviourEvent.FromString(record.value).event_id


def _ticks(load: Sequence[tuple[bytes, Record]], per_second: float) -> Iterator[list[tuple[bytes, Record]]]:
    """What is due, when it is due; a late sender catches up, as real users would not wait for it."""
    start, sent = time.monotonic(), 0
    while sent < len(load):
        due = min(len(load), int((time.monotonic() - start) * per_second))
        if due > sent:
            yield list(load[sent:due])
            sent = due
        time.sleep(_TICK_S)


def _by_partition(tick: list[tuple[bytes, Record]]) -> Iterator[list[tuple[bytes, Record]]]:
    parts: dict[int, list[tuple[bytes, Record]]] = {}
    for one in tick:
        parts.setdefault(one[1].partition, []).append(one)
    yield from parts.values()


@contextmanager
def _short_switches() -> Iterator[None]:
    """Sender and reader share this Python: neither is to hold the other up for long."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
