"""Requests between arrival and answer: which can be scored now, which wait for their history, which offsets are done.

Pure: knows no Kafka and no model. Order within a partition matters twice. Offsets are committed up to the first record
that is not yet answered and acknowledged. A heartbeat says that nothing older follows it, so it is passed on only when
everything before it in its partition has been sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from scorer.serving.requests import Arrival, ScoreRequest


class Ledger:
    """The offsets of one partition while it is assigned."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self._unsent: OrderedDict[int, None] = OrderedDict()
        #: offset -> outputs not yet acknowledged; -1 until they are sent.
        self._open: OrderedDict[int, int] = OrderedDict()
        self._next: int | None = None
        self._taken: int | None = None

    def admit(self, offset: int) -> None:
        """A record was taken; offsets rise."""
        self._unsent[offset] = None
        self._open[offset] = -1
        self._next = offset + 1

    def sent(self, offset: int, outputs: int) -> None:
        """All that the record led to is on its way, in `outputs` records, at least one."""
        del self._unsent[offset]
        self._open[offset] = outputs

    def acked(self, offset: int) -> None:
        """One output of the record is acknowledged."""
        self._open[offset] -= 1
        if not self._open[offset]:
            del self._open[offset]

    def all_sent_before(self, offset: int) -> bool:
        """Everything before this offset is on its way."""
        return next(iter(self._unsent), offset) >= offset

    def take_commit(self) -> int | None:
        """The offset to commit, when it has moved since it was last taken: everything before it is done."""
        committable = next(iter(self._open), self._next)
        if committable is None or committable == self._taken:
            return None
        self._taken = committable
        return committable

    def commit_failed(self) -> None:
        """What was last taken is to be taken again."""
        self._taken = None


@dataclass(eq=False, slots=True)
class Waiting:
    """An accepted request that is not answered yet."""

    request: ScoreRequest
    ledger: Ledger
    #: The loop's clock, s; scored with what there is when it has passed.
    deadline: float


@dataclass(eq=False)
class _Partition:
    ledger: Ledger
    parked: list[Waiting] = field(default_factory=list)
    heartbeats: deque[Arrival] = field(default_factory=deque)


class Desk:
    """The assigned partitions' requests."""

    def __init__(self, max_wait_ms: int) -> None:
        """`max_wait_ms`: no request is parked for longer."""
        self._max_wait_ms = max_wait_ms
        self._partitions: dict[int, _Partition] = {}
        self._ready: deque[Waiting] = deque()
        self._parked = 0

    @property
    def ready(self) -> int:
        """Requests that can be scored now."""
        return len(self._ready)

    @property
    def parked(self) -> int:
        """Requests that wait for their history."""
        return self._parked

    @property
    def ledgers(self) -> dict[int, Ledger]:
        """Of the assigned partitions."""
        return {number: partition.ledger for number, partition in self._partitions.items()}

    def assign(self, partitions: Collection[int]) -> None:
        """Exactly these are ours now. What was taken of others is dropped unanswered: it is not committed, their next
        owner reads it again."""
        for number in self._partitions.keys() - set(partitions):
            self._parked -= len(self._partitions.pop(number).parked)
        for number in set(partitions) - self._partitions.keys():
            self._partitions[number] = _Partition(Ledger(number))
        self._ready = deque(waiting for waiting in self._ready if self.holds(waiting.ledger))

    def holds(self, ledger: Ledger) -> bool:
        """This is the ledger of an assigned partition, not one from before it was given away and came back."""
        partition = self._partitions.get(ledger.partition)
        return partition is not None and partition.ledger is ledger

    def add_heartbeat(self, arrival: Arrival) -> None:
        """To be passed on in its turn."""
        partition = self._partitions[arrival.partition]
        partition.ledger.admit(arrival.offset)
        partition.heartbeats.append(arrival)

    def add_request(self, request: ScoreRequest, head_seq_no: int, now: float) -> None:
        """Score it now, or park it until its user's history has reached min_seq_no."""
        arrival, message = request.arrival, request.message
        partition = self._partitions[arrival.partition]
        partition.ledger.admit(arrival.offset)
        wait_ms = min(message.max_wait_ms, self._max_wait_ms)
        waiting = Waiting(request, partition.ledger, now + wait_ms / 1000)
        if head_seq_no >= message.min_seq_no or not wait_ms:
            self._ready.append(waiting)
        else:
            partition.parked.append(waiting)
            self._parked += 1

    def wake(self, partitions: Iterable[int], head_of: Callable[[int], int]) -> None:
        """The histories of these partitions have moved; `head_of` gives a user's newest seq_no."""
        for number in partitions:
            if (partition := self._partitions.get(number)) is not None and partition.parked:
                self._release(
                    partition,
                    lambda waiting: head_of(waiting.request.message.user_id) >= waiting.request.message.min_seq_no,
                )

    def expire(self, now: float) -> None:
        """Requests that have waited long enough are scored with what there is."""
        for partition in self._partitions.values():
            if partition.parked:
                self._release(partition, lambda waiting: waiting.deadline <= now)

    def next_deadline(self) -> float | None:
        """When the next parked request gives up waiting."""
        return min((waiting.deadline for p in self._partitions.values() for waiting in p.parked), default=None)

    def take(self, most: int, serving: Collection[int]) -> list[Waiting]:
        """The next requests of these partitions to score, in the order in which they became ready."""
        taken: list[Waiting] = []
        passed_over: list[Waiting] = []
        while self._ready and len(taken) < most:
            waiting = self._ready.popleft()
            (taken if waiting.ledger.partition in serving else passed_over).append(waiting)
        self._ready.extendleft(reversed(passed_over))
        return taken

    def due_heartbeats(self) -> list[tuple[Ledger, Arrival]]:
        """The first heartbeat of each partition before which everything was sent. The caller sends it and tells the
        ledger; then the next may be due."""
        return [
            (partition.ledger, partition.heartbeats.popleft())
            for partition in self._partitions.values()
            if partition.heartbeats and partition.ledger.all_sent_before(partition.heartbeats[0].offset)
        ]

    def _release(self, partition: _Partition, released: Callable[[Waiting], bool]) -> None:
        kept: list[Waiting] = []
        for waiting in partition.parked:
            (self._ready if released(waiting) else kept).append(waiting)
        self._parked -= len(partition.parked) - len(kept)
        partition.parked = kept
