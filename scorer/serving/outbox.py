"""What the scorer sends, and what Kafka says of it: records with the ledger entries that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from schemas.partitioner import user_key
from schemas.reasons import Rejected
from schemas.topics import DEAD_LETTER_TOPICS, REQUESTS, RESPONSES
from schemas.v1.ranking_pb2 import RankingResponse
from scorer.serving.desk import Ledger
from scorer.serving.requests import Arrival, Unanswerable
from scorer.serving.responses import dead_letter, invalid_response
from scorer.serving.transport import Outgoing, Outlet, TransportError

#: Of a dead letter's `stage`.
_STAGE: Final = "scorer"
_LETTERS: Final = DEAD_LETTER_TOPICS[REQUESTS.name].name


class _Word(NamedTuple):
    ledger: Ledger
    offset: int
    sent: float
    error: BaseException | None


class Outbox:
    """Sends for one thread; Kafka's word comes on another and waits here until it is asked for."""

    def __init__(self, outlet: Outlet, clock: Callable[[], float]) -> None:
        """`clock`: seconds, monotonic."""
        self._outlet, self._clock = outlet, clock
        self._words: SimpleQueue[_Word] = SimpleQueue()

    def respond(self, ledger: Ledger, arrival: Arrival, response: RankingResponse) -> None:
        """A request's answer, in its own partition, at its own time."""
        ledger.sent(arrival.offset, outputs=1)
        self._send_response(ledger, arrival, response)

    def refuse(self, ledger: Ledger, arrival: Arrival, rejected: Rejected) -> None:
        """A dead letter, and where there is a request to answer, a response that says why it is not scored."""
        answers = isinstance(rejected, Unanswerable)
        ledger.sent(arrival.offset, outputs=2 if answers else 1)
        if isinstance(rejected, Unanswerable):
            self._send_response(ledger, arrival, invalid_response(rejected.message, arrival, rejected))
        letter = dead_letter(
            rejected,
            stage=_STAGE,
            topic=REQUESTS.name,
            partition=arrival.partition,
            offset=arrival.offset,
            timestamp_ms=arrival.timestamp_ms,
            key=arrival.key,
            value=arrival.value,
        )
        self._send(Outgoing(_LETTERS, 0, arrival.key, letter.SerializeToString(), None), ledger, arrival.offset)

    def pass_on(self, ledger: Ledger, heartbeat: Arrival) -> None:
        """A heartbeat as it came, to the same partition of the responses."""
        ledger.sent(heartbeat.offset, outputs=1)
        value = heartbeat.value or b""
        record = Outgoing(RESPONSES.name, heartbeat.partition, heartbeat.key, value, heartbeat.timestamp_ms)
        self._send(record, ledger, heartbeat.offset)

    def flush(self, timeout_ms: int) -> None:
        """Wait for Kafka's word on everything sent. Raises TransportError."""
        self._outlet.flush(timeout_ms)

    def settle(self) -> Iterator[float]:
        """Tell the ledgers what is acknowledged; the seconds that each record took.

        Raises:
            TransportError: Kafka did not take a record.
        """
        now = self._clock()
        while True:
            try:
                ledger, offset, sent, error = self._words.get_nowait()
            except Empty:
                return
            if error is not None:
                raise TransportError(
                    f"what {REQUESTS.name}/{ledger.partition}/{offset} led to was not taken by Kafka: {error}"
                ) from error
            ledger.acked(offset)
            yield now - sent

    def _send_response(self, ledger: Ledger, arrival: Arrival, response: RankingResponse) -> None:
        key, value = user_key(response.user_id), response.SerializeToString()
        record = Outgoing(RESPONSES.name, arrival.partition, key, value, response.request_time_ms)
        self._send(record, ledger, arrival.offset)

    def _send(self, record: Outgoing, ledger: Ledger, offset: int) -> None:
        sent = self._clock()
        self._outlet.send(record, lambda error: self._words.put(_Word(ledger, offset, sent, error)))
