"""The scorer's loop. One turn:

1. take the records that have come (`intake.poll`), without holding the lock
2. follow the histories; partitions that have caught up serve
3. sort the records into heartbeats, refused ones and requests; wake and expire the parked
4. score a batch and send its responses
5. pass on the heartbeats that are due
6. note what is acknowledged, commit what is done

Rebalances come on the consumer's own thread. They take the lock, so they happen between the steps of two turns.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping

from schemas.reasons import Rejected
from schemas.topics import HEARTBEAT_KEY
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_BEHIND, RankingResponse
from scorer.sequences.follower import Followed, Follower
from scorer.sequences.store import SequenceStore
from scorer.serving.batch import Scored, score_batch
from scorer.serving.desk import Desk, Ledger
from scorer.serving.kept import KeptEncodings
from scorer.serving.metrics import Metrics
from scorer.serving.models import Model
from scorer.serving.outbox import Outbox
from scorer.serving.requests import Arrival, Unanswerable, parse_request
from scorer.serving.settings import ServingSettings
from scorer.serving.transport import Intake, Outlet

_log = logging.getLogger(__name__)


class ScorerLoop:
    """One scorer. `turn` and `run` belong to one thread; `on_*` come from the consumer's."""

    def __init__(
        self,
        intake: Intake,
        outlet: Outlet,
        follower: Follower,
        store: SequenceStore,
        model: Callable[[], Model],
        settings: ServingSettings,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            model: the one in service; asked once per batch.
            clock: seconds, monotonic.
        """
        self._intake, self._outbox, self._follower, self._store = intake, Outbox(outlet, clock), follower, store
        self._model, self._settings, self._metrics, self._clock = model, settings, metrics, clock
        self._desk = Desk(settings.max_wait_ms)
        self._kept = KeptEncodings(settings.kept_bytes)
        self._lock = threading.Lock()
        #: Between a revocation and the assignment that follows it nothing is answered.
        self._suspended = True
        self._assigned: frozenset[int] = frozenset()
        self._moved = False
        self._serving: frozenset[int] = frozenset()
        self._delivering: frozenset[int] = frozenset()
        self._next_commit = clock()

    @property
    def ready(self) -> bool:
        """A member of the group, and all partitions it was given are caught up."""
        return not self._suspended and not self._moved and self._serving == self._assigned

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set, then answer what can be answered, commit, and leave the group.

        Raises:
            TransportError: Kafka refused a response or did not answer.
            StoreError, LayoutError: the store cannot be used.
        """
        self._intake.join(self)
        while not stop.is_set():
            self.turn()
        with self._lock:
            _log.info("stopping", extra={"ready": self._desk.ready, "parked": self._desk.parked})
            while not self._suspended and self._score():
                pass
            self._pass_heartbeats()
        self._intake.close()

    def turn(self) -> None:
        """One round of the steps above. Raises what `run` raises."""
        with self._lock:
            ledgers = self._desk.ledgers
            in_hurry = bool(self._desk.ready)
            # Who has something to wait for waits; the other is only looked at.
            for_histories = bool(self._desk.parked) or self._serving != self._assigned
            room = self._settings.max_pending - self._desk.ready - self._desk.parked
        poll_ms = 0 if in_hurry or for_histories else self._settings.poll_ms
        arrivals = self._intake.poll(poll_ms, max(1, room))
        arrived = self._clock()
        with self._lock:
            self._follow(self._follow_ms(arrived) if for_histories and not in_hurry and not arrivals else 0)
            for arrival in arrivals:
                ledger = ledgers.get(arrival.partition)
                # A partition that was given away since, even if it came back, is read again from its commit.
                if ledger is not None and self._desk.holds(ledger):
                    self._sort(arrival, ledger)
            self._desk.expire(self._clock())
            if not self._suspended:
                self._score()
                self._pass_heartbeats()
            self._settle()
            self._steer()
            self._metrics.ready.set(self._desk.ready)
            self._metrics.parked.set(self._desk.parked)

    def on_revoke(self) -> Mapping[int, int]:
        """See `Rebalanced`: waits until all that was sent is acknowledged."""
        with self._lock:
            self._suspended = True
            self._outbox.flush(self._settings.drain_ms)
            self._note_acknowledged()
            return self._take_commits()

    def on_assign(self, partitions: Collection[int]) -> None:
        """See `Rebalanced`."""
        with self._lock:
            self._assigned, self._moved, self._suspended = frozenset(partitions), True, False
            self._desk.assign(partitions)
            self._serving &= self._assigned
            self._delivering = frozenset()
        _log.info("assigned", extra={"partitions": sorted(partitions)})

    def on_lost(self) -> None:
        """See `Rebalanced`."""
        with self._lock:
            self._suspended = True
            self._assigned = self._serving = self._delivering = frozenset()
            self._desk.assign(())
        _log.warning("membership lost; what was not committed is redelivered")

    def _follow_ms(self, now: float) -> int:
        deadline = self._desk.next_deadline()
        most = self._settings.history_poll_ms
        return most if deadline is None else max(0, min(most, int((deadline - now) * 1000) + 1))

    def _follow(self, timeout_ms: int) -> None:
        if self._moved:
            self._moved = False
            self._count_followed(self._follower.follow(self._assigned))
        followed = self._follower.poll(timeout_ms, self._settings.follow_records)
        self._count_followed(followed)
        self._desk.wake(followed.changed, self._store.head_seq_no)
        assigned = self._assigned
        serving = frozenset(partition for partition in assigned if self._follower.caught_up(partition))
        if serving != self._serving:
            self._serving = serving
            done, total = self._follower.progress()
            _log.info(
                "serving",
                extra={"partitions": sorted(serving), "waiting": sorted(assigned - serving), "restored": [done, total]},
            )
        self._metrics.partitions.labels("assigned").set(len(assigned))
        self._metrics.partitions.labels("serving").set(len(serving))

    def _steer(self) -> None:
        """Only partitions that serve are delivered, and none while too much is pending."""
        full = self._desk.ready + self._desk.parked >= self._settings.max_pending
        delivering: frozenset[int] = frozenset() if full else self._serving
        if delivering != self._delivering:
            self._intake.deliver(delivering)
            self._delivering = delivering

    def _count_followed(self, followed: Followed) -> None:
        for verdict, count in followed.verdicts.items():
            self._metrics.store_records.labels(verdict.value).inc(count)
        self._metrics.store_refused.inc(followed.refused)
        self._metrics.store_rebuilds.inc(len(followed.rebuilt))

    def _sort(self, arrival: Arrival, ledger: Ledger) -> None:
        if arrival.key == HEARTBEAT_KEY:
            self._desk.add_heartbeat(arrival)
            return
        try:
            request = parse_request(arrival, self._settings.limits)
        except Rejected as rejected:
            ledger.admit(arrival.offset)
            self._refuse(ledger, arrival, rejected)
            return
        message = request.message
        head = self._store.head_seq_no(message.user_id) if message.min_seq_no else 0
        self._desk.add_request(request, head, arrival.arrived)

    def _score(self) -> int:
        batch = self._desk.take(self._settings.max_batch, self._serving)
        if not batch:
            return 0
        started, observe = self._clock(), self._metrics.stage.labels
        for scored in score_batch(batch, self._model(), self._store.history, self._kept, self._clock):
            arrival = scored.waiting.request.arrival
            if isinstance(scored.outcome, Unanswerable):
                self._refuse(scored.waiting.ledger, arrival, scored.outcome)
                continue
            self._outbox.respond(scored.waiting.ledger, arrival, scored.outcome)
            self._count_scored(scored, scored.outcome)
            observe("queue").observe(started - arrival.arrived)
        self._metrics.batch.observe(len(batch))
        self._metrics.kept_bytes.set(self._kept.bytes)
        self._metrics.kept_users.set(len(self._kept))
        return len(batch)

    def _count_scored(self, scored: Scored, response: RankingResponse) -> None:
        behind = response.status == RESPONSE_STATUS_BEHIND
        self._metrics.requests.labels("behind" if behind else "ok").inc()
        self._metrics.stale.inc(response.stale)
        self._metrics.history.observe(scored.events)
        self._metrics.stage.labels("score").observe(scored.score_s)
        self._metrics.encodes.labels(scored.encoding.value if scored.encoding else "shared").inc()
        if scored.encoding is not None:
            self._metrics.stage.labels("read").observe(scored.read_s)
            self._metrics.stage.labels("encode").observe(scored.encode_s)

    def _refuse(self, ledger: Ledger, arrival: Arrival, rejected: Rejected) -> None:
        self._metrics.requests.labels("invalid" if isinstance(rejected, Unanswerable) else "refused").inc()
        self._outbox.refuse(ledger, arrival, rejected)

    def _pass_heartbeats(self) -> None:
        while due := self._desk.due_heartbeats():
            for ledger, arrival in due:
                self._outbox.pass_on(ledger, arrival)
                self._metrics.heartbeats.inc()

    def _settle(self) -> None:
        self._note_acknowledged()
        now = self._clock()
        if now >= self._next_commit:
            self._next_commit = now + self._settings.commit_interval_ms / 1000
            if not self._suspended and (offsets := self._take_commits()):
                ledgers = self._desk.ledgers
                self._intake.commit(offsets, lambda error: self._note_commit(ledgers.values(), error))

    def _note_acknowledged(self) -> None:
        for seconds in self._outbox.settle():
            self._metrics.stage.labels("acknowledge").observe(seconds)

    def _take_commits(self) -> dict[int, int]:
        taken = {partition: ledger.take_commit() for partition, ledger in self._desk.ledgers.items()}
        return {partition: offset for partition, offset in taken.items() if offset is not None}

    def _note_commit(self, ledgers: Collection[Ledger], error: BaseException | None) -> None:
        self._metrics.commits.labels("ok" if error is None else "failed").inc()
        if error is not None:
            for ledger in ledgers:
                ledger.commit_failed()
            _log.warning("commit failed, it is tried again", extra={"error": str(error)})
