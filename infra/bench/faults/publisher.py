"""Sends the traffic in its own thread, steadily, as far as it is allowed to; broker restarts it sits out."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from infra.bench.faults.traffic import Traffic
from infra.errors import InfraError
from infra.waiting import PATIENCE_S, wait_until

#: How long a client of the harness waits at most before it tries a broker that was away again: its own slowness must
#: not pass for the job's.
RECONNECT_MS: Final = 250


class Publisher:
    """Context manager around the thread and its producer."""

    def __init__(self, bootstrap: str, traffic: Traffic, *, events_per_second: float) -> None:
        self._traffic = traffic
        self._pause_s = 1 / events_per_second
        # The order within a partition is the log's and holds over retries; what the log holds is what is judged by.
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            reconnect_backoff_max_ms=RECONNECT_MS,
        )
        self._changed = threading.Condition()
        self._allowed = 0
        self._ended = False
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="traffic")
        #: Events handed to the producer.
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        if error is None:
            self._producer.close()
            return
        # The broker may be away for good, and what was not sent yet no longer matters: the error that ended the run
        # is what is to be seen.
        with suppress(KafkaTimeoutError):
            self._producer.close(timeout=1)

    def allow(self, event: int) -> None:
        """Let the traffic flow up to this event, not included."""
        with self._changed:
            self._allowed = max(self._allowed, min(event, self._traffic.settings.events))
            self._changed.notify_all()

    def wait_sent(self, events: int) -> None:
        """Until so many events have been handed to the producer, which may still be sending them.

        Raises:
            InfraError: a record could not be written, or time ran out.
        """

        def far_enough() -> bool:
            self.check()
            return self.sent >= events

        timeout_s = PATIENCE_S + (events - self.sent) * self._pause_s
        wait_until(far_enough, f"event {events} to be sent, the traffic being at {self.sent}", timeout_s=timeout_s)

    def flush(self) -> None:
        """Until the broker has everything that was sent.

        Raises:
            InfraError: a record could not be written.
        """
        self._producer.flush()
        self.check()

    def check(self) -> None:
        """Say so if a record could not be written.

        Raises:
            InfraError: with the reason.
        """
        if self._failures:
            raise InfraError(f"the traffic could not be written: {self._failures[0]}") from self._failures[0]

    def _run(self) -> None:
        try:
            steps = self._traffic.steps()
            due = time.monotonic()
            while self._wait_allowed():
                # After a pause the traffic goes on at its rate, without making up for the pause.
                due = max(due + self._pause_s, time.monotonic() - self._pause_s)
                for record in next(steps):
                    self._producer.send(
                        record.topic,
                        key=record.key,
                        value=record.value,
                        timestamp_ms=record.timestamp_ms,
                        partition=record.partition,
                    ).add_errback(self._failures.append)
                self.sent += 1
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, timeout=max(0.0, due - time.monotonic()))
        except Exception as error:
            self._failures.append(error)

    def _wait_allowed(self) -> bool:
        """Whether there is another event to send, once that is known."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self.sent < self._allowed)
            return not self._ended
