"""Reads updates and snapshots as they appear, in its own thread, and knows which events have left their mark."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from infra.bench.faults.publisher import RECONNECT_MS
from infra.bench.faults.traffic import Traffic
from infra.errors import InfraError
from infra.waiting import wait_until
from schemas.digest import resets_of
from schemas.topics import PARTITIONS, SNAPSHOTS, UPDATES
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate

_POLL_MS: Final = 100


class Watcher:
    """Context manager around the thread and its consumer."""

    def __init__(self, bootstrap: str, traffic: Traffic) -> None:
        self._traffic = traffic
        self._expected = ~traffic.resets
        self._seen = np.zeros(traffic.settings.events, np.bool_)
        #: (user, epoch) that an erase or a seed has opened.
        self._opened: set[tuple[int, int]] = set()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            fetch_max_wait_ms=50,
            reconnect_backoff_max_ms=RECONNECT_MS,
        )
        partitions = [TopicPartition(topic.name, p) for topic in (UPDATES, SNAPSHOTS) for p in range(PARTITIONS)]
        self._consumer.assign(partitions)
        self._consumer.seek_to_beginning(*partitions)
        self._thread = threading.Thread(target=self._run, name="updates")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._consumer.close()

    def wait_seen(self, first: int, last: int, alarm: Callable[[], None]) -> None:
        """Until every event first .. last - 1 that gets a number has been seen with one.

        Args:
            alarm: raises when there is nothing to wait for any more.

        Raises:
            InfraError: the updates cannot be read, or time ran out.
        """

        def all_seen() -> bool:
            self._check()
            missing = self._expected[first:last] & ~self._seen[first:last]
            return not missing.any()

        try:
            wait_until(all_seen, f"the updates of events {first} .. {last - 1}", alarm=alarm)
        except InfraError as error:
            missing = first + np.flatnonzero(self._expected[first:last] & ~self._seen[first:last])
            where = f"{len(missing)} missing, the first is event {missing[0]}" if len(missing) else "none missing"
            raise InfraError(f"{error}; {where}") from error

    def wait_all_seen(self, last: int, alarm: Callable[[], None]) -> None:
        """Until every event 0 .. last - 1 has left its mark: its update, or an erase's or a seed's snapshot.

        Raises:
            InfraError: as `wait_seen`.
        """
        self.wait_seen(0, last, alarm)
        resets = int(np.count_nonzero(self._traffic.resets[:last]))

        def all_opened() -> bool:
            self._check()
            return len(self._opened) >= resets

        wait_until(all_opened, f"the snapshots of {resets} erases and seeds", alarm=alarm)

    def _check(self) -> None:
        if self._failure is not None:
            raise InfraError(f"the job's output cannot be read: {self._failure}") from self._failure

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                for partition, records in self._consumer.poll(timeout_ms=_POLL_MS).items():
                    for record in records:
                        self._note(partition.topic, record.value)
        except Exception as error:
            self._failure = error

    def _note(self, topic: str, value: bytes) -> None:
        if topic == UPDATES.name:
            self._seen[self._traffic.number_of(SequenceUpdate.FromString(value).event_id)] = True
        elif resets_of((snapshot := SequenceSnapshot.FromString(value)).epoch):
            self._opened.add((snapshot.user_id, snapshot.epoch))
