"""The application of the loop as a pure state machine: it is told what came back and says what to send.

Every user's log entries go out in order: an event at once, a request with the number that the user's history must have
reached before it is scored, its impression and feedback when the response is there. Users overlap freely within a
window of log time, which bounds how far the records of one topic can be out of order.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infra.logs.behaviour_log import BehaviourLog
from infra.replay.disturbance import DisturbancePlan, malformed_record
from infra.replay.messages import Outgoing, event_message, impression_record, request_record
from schemas import SCHEMA_VERSION
from schemas.limits import Limits
from schemas.partitioner import partition_of, user_key
from schemas.topics import EVENTS, HEARTBEAT_KEY, IMPRESSIONS, PARTITIONS, REQUESTS
from schemas.v1.operations_pb2 import Heartbeat
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_INVALID, RankingResponse

#: Topics whose watermark the application's heartbeats move; the scorer forwards those of the requests.
HEARTBEAT_TOPICS: Final = (EVENTS.name, REQUESTS.name, IMPRESSIONS.name)


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """How the log becomes traffic."""

    #: An entry is sent only while the oldest unfinished one is at most so much older, ms of log time.
    window_ms: int = 60 * 86_400_000
    #: Events sent whose delta has not been seen yet, at most.
    max_in_flight: int = 1_000
    #: How long the scorer may wait for the history to reach the request's, ms.
    max_wait_ms: int = 10_000


@dataclass
class ReplayCounts:
    """What was sent and what came back."""

    events: int = 0
    feedback: int = 0
    duplicates: int = 0
    late: int = 0
    malformed: int = 0
    deltas: int = 0
    repeated_deltas: int = 0
    requests: int = 0
    responses: int = 0
    superseded_responses: int = 0
    behind_responses: int = 0
    impressions: int = 0


@dataclass
class _User:
    entries: deque[int] = field(default_factory=deque)
    #: Event ids sent and not yet seen as a delta.
    unseen: set[bytes] = field(default_factory=set)
    #: Newest seen.
    seq_no: int = 0
    #: min_seq_no of the awaited request.
    asked_seq_no: int = 0
    awaited_request: int = -1


class ReplayError(Exception):
    """The system answered something that a correct one never answers."""


class Application:
    """One replay of one log. Feed `on_delta` and `on_response`, send what they and `admit` give."""

    def __init__(
        self, log: BehaviourLog, plan: DisturbancePlan, settings: ReplaySettings, limits: Limits, *, run_id: str
    ) -> None:
        """`run_id` makes event ids: two replays with the same run_id send the same ids."""
        self.counts = ReplayCounts()
        self._log, self._plan, self._settings, self._limits = log, plan, settings, limits
        self._run_id = run_id.encode()
        # Entries number the events 0 .. E-1 and then the requests; a request precedes what arrives at its time.
        times = np.concatenate([log.arrival_ms, log.request_time_ms])
        is_event = np.concatenate([np.ones(len(log.arrival_ms), np.int8), np.zeros(len(log.request_time_ms), np.int8)])
        self._order: NDArray[np.int64] = np.lexsort((is_event, times))
        self._times = times[self._order]
        self._done = np.zeros(len(times), dtype=np.bool_)
        self._admitted = 0
        self._oldest = 0
        self._users: dict[int, _User] = {}
        self._response_of: dict[int, str] = {}
        self._request_number = {bytes(name): number for number, name in enumerate(log.request_id)}
        self._in_flight = 0
        #: (due at this many sent events, tie-breaker, the record to repeat or None, the event held back or -1)
        self._scheduled: list[tuple[int, int, Outgoing | None, int]] = []
        self._ties = 0

    @property
    def total(self) -> int:
        """Entries of the log: events and requests."""
        return len(self._order)

    @property
    def finished(self) -> int:
        """Entries before the oldest unfinished one."""
        return self._oldest

    @property
    def idle(self) -> bool:
        """Nothing that was admitted is unfinished or unanswered."""
        return self._oldest == self._admitted and not self._in_flight and not self._scheduled

    def exhausted(self, until_ms: int | None = None) -> bool:
        """Every entry up to log time `until_ms` was admitted."""
        return self._admitted == self.total or (until_ms is not None and int(self._times[self._admitted]) > until_ms)

    @property
    def low_time_ms(self) -> int:
        """No record with an older timestamp will be sent any more."""
        if self._oldest == self.total:
            return int(self._times[-1]) if self.total else 0
        return int(self._times[self._oldest])

    def admit(self, until_ms: int | None = None, *, flush: bool = True) -> Iterator[Outgoing]:
        """Whatever may be sent now, of the entries up to log time `until_ms`.

        Args:
            flush: when that time or the window's edge is reached, also send what was still held back, for no further
                send will make it due.
        """
        events = len(self._log.arrival_ms)
        while self._in_flight < self._settings.max_in_flight:
            time = int(self._times[self._admitted]) if self._admitted < self.total else None
            at_limit = time is None or (until_ms is not None and time > until_ms)
            if at_limit or (time is not None and time - self.low_time_ms > self._settings.window_ms):
                if flush or not at_limit:
                    yield from self._due(None)
                break
            entry = int(self._order[self._admitted])
            self._admitted += 1
            user_id = int(self._log.event_user[entry] if entry < events else self._log.request_user[entry - events])
            user = self._users.setdefault(user_id, _User())
            user.entries.append(entry)
            if len(user.entries) == 1:
                yield from self._advance(user)

    def on_delta(self, user_id: int, event_id: bytes, seq_no: int) -> Iterator[Outgoing]:
        """A delta was read from the updates topic."""
        user = self._users.get(user_id)
        if user is None or event_id not in user.unseen:
            self.counts.repeated_deltas += 1
            return
        user.unseen.discard(event_id)
        user.seq_no = max(user.seq_no, seq_no)
        self._in_flight -= 1
        self.counts.deltas += 1
        if user.awaited_request < 0:
            yield from self._advance(user)

    def on_response(self, response: RankingResponse) -> Iterator[Outgoing]:
        """A response was read. All candidates count as shown, best score first.

        Raises:
            ReplayError: a request of a well-formed log was refused.
        """
        number = self._request_number.get(response.request_id.encode(), -1)
        user = self._users.get(response.user_id)
        if user is None or number < 0 or user.awaited_request != number:
            self.counts.superseded_responses += 1
            return
        if response.status == RESPONSE_STATUS_INVALID:
            raise ReplayError(f"request {response.request_id} of user {response.user_id} refused: {response.error}")
        self.counts.responses += 1
        self.counts.behind_responses += response.stamp.seq_no < user.asked_seq_no
        self._response_of[number] = response.response_id
        user.awaited_request = -1
        self.counts.impressions += 1
        yield impression_record(self._log, number, response)
        self._finish(user)
        yield from self._advance(user)

    def heartbeats(self, time_ms: int, out_of_orderness_ms: int) -> Iterator[Outgoing]:
        """To every partition: nothing older than `time_ms` will come. The records' timestamp is ahead by the jobs'
        bounded out-of-orderness, so that their watermark becomes `time_ms`."""
        value = Heartbeat(schema_version=SCHEMA_VERSION, time_ms=time_ms).SerializeToString()
        for topic in HEARTBEAT_TOPICS:
            for partition in range(PARTITIONS):
                yield Outgoing(topic, HEARTBEAT_KEY, value, time_ms + out_of_orderness_ms, partition)

    def event_id(self, event: int) -> bytes:
        """The id that event number `event` is sent with."""
        return blake2b(b"%s/%d" % (self._run_id, event), digest_size=16).digest()

    def response_id(self, request: int) -> str | None:
        """The response that was shown for request number `request`; None before it came."""
        return self._response_of.get(request)

    def _advance(self, user: _User) -> Iterator[Outgoing]:
        events = len(self._log.arrival_ms)
        while user.entries and user.awaited_request < 0:
            entry = user.entries[0]
            if entry >= events:
                if user.unseen and not user.seq_no:
                    # Where this user's numbers begin is known from the first delta on.
                    return
                user.awaited_request = entry - events
                # What is on its way gets the next numbers, so the scorer can be told now what to wait for.
                user.asked_seq_no = user.seq_no + len(user.unseen)
                self.counts.requests += 1
                yield request_record(self._log, entry - events, user.asked_seq_no, self._settings.max_wait_ms)
                return
            held = int(self._plan.held_for[entry])
            if held:
                self._schedule(held, None, entry)
                user.entries.popleft()
            else:
                yield from self._send_event(entry, user)
                self._finish(user)
                yield from self._due(self.counts.events)

    def _finish(self, user: _User) -> None:
        self._mark_done(user.entries.popleft())

    def _mark_done(self, entry: int) -> None:
        self._done[entry] = True
        while self._oldest < self._admitted and self._done[self._order[self._oldest]]:
            self._oldest += 1

    def _schedule(self, delay: int, record: Outgoing | None, event: int) -> None:
        self._ties += 1
        heapq.heappush(self._scheduled, (self.counts.events + delay, self._ties, record, event))

    def _due(self, at: int | None) -> Iterator[Outgoing]:
        while self._scheduled and (at is None or self._scheduled[0][0] <= at):
            _, _, record, event = heapq.heappop(self._scheduled)
            if record is not None:
                self.counts.duplicates += 1
                yield record
            else:
                self.counts.late += 1
                yield from self._send_event(event, self._users[int(self._log.event_user[event])])
                self._mark_done(event)

    def _send_event(self, number: int, user: _User) -> Iterator[Outgoing]:
        request = int(self._log.event_request[number])
        shown = self._response_of[request] if request >= 0 else None
        message = event_message(self._log, number, self.event_id(number), shown)
        key = user_key(message.user_id)
        time = int(self._log.arrival_ms[number])
        record = Outgoing(EVENTS.name, key, message.SerializeToString(), time, partition_of(key, PARTITIONS))
        user.unseen.add(message.event_id)
        self._in_flight += 1
        self.counts.events += 1
        self.counts.feedback += message.HasField("request")
        yield record._replace(awaited=message.event_id)
        if self._plan.duplicate_after[number]:
            self._schedule(int(self._plan.duplicate_after[number]), record, -1)
        kind = self._plan.kind(number)
        if kind is not None:
            self.counts.malformed += 1
            bad_key, value, partition = malformed_record(kind, message, time, PARTITIONS, self._limits)
            yield Outgoing(EVENTS.name, bad_key, value, time, partition)
