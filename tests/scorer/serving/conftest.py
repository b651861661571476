"""A scorer on doubles: requests in lists, responses in lists, a model that can be recomputed, a clock by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from schemas import SCHEMA_VERSION
from schemas.partitioner import partition_of, user_key
from schemas.topics import HEARTBEAT_KEY, PARTITIONS, RESPONSES
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.ranking_pb2 import Candidates, RankingRequest, RankingResponse
from scorer.features import HistoryHead
from scorer.sequences.follower import Follower
from scorer.sequences.store import SequenceStore
from scorer.serving.engine import EncodedHistory
from scorer.serving.loop import ScorerLoop
from scorer.serving.metrics import Metrics
from scorer.serving.requests import Arrival
from scorer.serving.settings import ServingSettings
from scorer.serving.transport import Outgoing, TransportError

NOW_MS = 1_700_000_500_000
#: Partitions of users 7 and 10: two databases to open are enough.
SERVED = tuple(partition_of(user_key(user), PARTITIONS) for user in (7, 10))


class ToyModel:
    """Scores depend on the whole history, its numbering, the item, the task and the version."""

    def __init__(self, version: str = "toy-1", tasks: tuple[str, ...] = ("touch", "like"), max_history: int = 50):
        self.version, self.tasks, self.max_history = version, tasks, max_history
        self.encodes = 0

    def encode(self, history, first_seq_no):
        self.encodes += 1
        items = history["item_id"].astype(np.float32).reshape(1, -1, 1, 1)
        return EncodedHistory(items, items, HistoryHead.of(history, first_seq_no))

    def extend(self, encoded, dropped, new, head):
        items = np.append(encoded.keys[0, dropped:, 0, 0], new["item_id"].astype(np.float32)).reshape(1, -1, 1, 1)
        return EncodedHistory(items, items, head)

    def score(self, encoded, item_ids, group_ids, request_time_ms):
        first_seq_no = encoded.head.seq_no - encoded.keys.shape[1] + 1
        total = np.float32(encoded.keys.astype(np.int64).sum() + first_seq_no)
        base = total + item_ids + 3 * group_ids + request_time_ms % 7 + len(self.version)
        return np.stack([1 / (1 + base + at) for at in range(len(self.tasks))], axis=1).astype(np.float32)


class MemoryIntake:
    """A requests topic and its group's offsets; survives the scorer, as Kafka does."""

    def __init__(self) -> None:
        self.records: dict[int, list[Arrival]] = defaultdict(list)
        self.committed: dict[int, int] = defaultdict(int)
        self.commit_error: BaseException | None = None
        self.now = 0.0
        self.listener = None
        self.positions: dict[int, int] = {}
        self.delivering: frozenset[int] = frozenset()

    def add(self, key: bytes | None, value: bytes | None, timestamp_ms: int, partition: int) -> int:
        offset = len(self.records[partition])
        self.records[partition].append(Arrival(partition, offset, timestamp_ms, key, value, 0.0))
        return offset

    def join(self, listener) -> None:
        self.listener = listener

    def rebalance(self, partitions) -> None:
        """An eager one: all is revoked, then these are assigned; positions of what stays are kept."""
        self.committed.update(self.listener.on_revoke())
        self.positions = {p: self.positions.get(p, self.committed[p]) for p in partitions}
        self.delivering = frozenset()
        self.listener.on_assign(partitions)

    def lose(self) -> None:
        """The group has gone on without this member."""
        self.positions = {}
        self.delivering = frozenset()
        self.listener.on_lost()

    def poll(self, timeout_ms, max_records):  # noqa: ARG002 - there is nothing to wait for
        polled: list[Arrival] = []
        for partition in sorted(self.delivering):
            at = self.positions[partition]
            polled += self.records[partition][at : at + max_records - len(polled)]
            self.positions[partition] = min(len(self.records[partition]), at + max_records)
            if len(polled) == max_records:
                self.positions[partition] = polled[-1].offset + 1
                break
        return [replace(arrival, arrived=self.now) for arrival in polled]

    def deliver(self, partitions) -> None:
        self.delivering = frozenset(partitions) & self.positions.keys()

    def commit(self, offsets, on_done) -> None:
        if self.commit_error is None:
            self.committed.update(offsets)
        on_done(self.commit_error)

    def close(self) -> None:
        if self.listener is not None and self.positions:
            self.committed.update(self.listener.on_revoke())
        self.positions = {}


class MemoryOutlet:
    """Everything that was sent, in order; acknowledged at once, or by hand."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.unacknowledged: list[Callable[[BaseException | None], None]] = []
        self.by_hand = False

    def send(self, record, on_done) -> None:
        self.sent.append(record)
        self.unacknowledged.append(on_done)
        if not self.by_hand:
            self.acknowledge()

    def acknowledge(self, error: BaseException | None = None) -> None:
        while self.unacknowledged:
            self.unacknowledged.pop(0)(error)

    def flush(self, timeout_ms) -> None:
        if self.by_hand and self.unacknowledged:
            raise TransportError(f"not acknowledged within {timeout_ms} ms")

    def close(self) -> None:
        pass


@dataclass
class Scorer:
    """One scorer on the doubles; `crash` and `start` as often as wanted."""

    directory: Path
    log: object
    intake: MemoryIntake = field(default_factory=MemoryIntake)
    outlet: MemoryOutlet = field(default_factory=MemoryOutlet)
    model: ToyModel = field(default_factory=ToyModel)
    settings: ServingSettings = field(default_factory=lambda: ServingSettings(commit_interval_ms=0))
    time: float = 100.0

    def start(self, partitions=SERVED) -> Scorer:
        self.metrics = Metrics()
        self.store = SequenceStore(self.directory)
        self.follower = Follower(self.log.source(), self.store, lambda refused: pytest.fail(str(refused)))
        self.loop = ScorerLoop(
            self.intake,
            self.outlet,
            self.follower,
            self.store,
            lambda: self.model,
            self.settings,
            self.metrics,
            lambda: self.time,
        )
        self.intake.positions = {}
        self.intake.delivering = frozenset()
        self.intake.join(self.loop)
        self.intake.rebalance(partitions)
        return self

    def crash(self) -> None:
        """The process is gone: nothing is flushed, committed or told to anyone."""
        self.store.close()
        self.outlet.unacknowledged.clear()

    def turns(self, count: int = 4) -> None:
        self.intake.now = self.time
        for _ in range(count):
            self.loop.turn()

    def ask(self, user: int, name: str, *, many: int = 3, timestamp_ms: int = NOW_MS, **fields) -> int:
        """A request; returns its offset."""
        items = np.arange(1, many + 1, dtype="<u8") * 10
        fields.setdefault("candidates", Candidates(item_id=items.tobytes(), group_id=(items + 1).tobytes()))
        fields.setdefault("request_time_ms", timestamp_ms)
        message = RankingRequest(**{"schema_version": SCHEMA_VERSION, "request_id": name, "user_id": user, **fields})
        key = user_key(user)
        return self.intake.add(key, message.SerializeToString(), timestamp_ms, partition_of(key, PARTITIONS))

    def beat(self, partition: int, time_ms: int) -> int:
        """A heartbeat; returns its offset."""
        return self.intake.add(HEARTBEAT_KEY, b"beat %d" % time_ms, time_ms, partition)

    @property
    def responses(self) -> list[RankingResponse]:
        """All that were sent, in order, without heartbeats."""
        return [
            RankingResponse.FromString(record.value)
            for record in self.outlet.sent
            if record.topic == RESPONSES.name and record.key != HEARTBEAT_KEY
        ]

    @property
    def letters(self) -> list[DeadLetter]:
        """All dead letters, in order."""
        return [DeadLetter.FromString(record.value) for record in self.outlet.sent if record.topic != RESPONSES.name]

    def expected(self, response: RankingResponse, task: int) -> bytes:
        """Scores recomputed from the stamp alone."""
        resolved = self.store.resolve(response.user_id, response.stamp)
        assert resolved.rows is not None, resolved
        encoded = self.model.encode(resolved.rows, response.stamp.first_seq_no)
        items = np.frombuffer(response.candidates.item_id, "<u8")
        groups = np.frombuffer(response.candidates.group_id or bytes(8 * len(items)), "<u8")
        return self.model.score(encoded, items, groups, response.request_time_ms)[:, task].tobytes()


@pytest.fixture
def scorer(tmp_path: Path, log) -> Iterator[Scorer]:
    """One that has not started."""
    scorer = Scorer(tmp_path / "store", log)
    yield scorer
    if hasattr(scorer, "store"):
        scorer.store.close()


@pytest.fixture(scope="session")
def make_scorer() -> type[Scorer]:
    """For property tests, which make one per example."""
    return Scorer


@pytest.fixture(scope="session")
def toy_model() -> type[ToyModel]:
    """To make any number of."""
    return ToyModel
