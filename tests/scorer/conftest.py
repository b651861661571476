"""Doubles of the sequence job and of its two topics: the truth about some users, any record that the real job would
write of it, and a log that is read as Kafka is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from kafka import TopicPartition
from kafka.errors import OffsetOutOfRangeError

from schemas import SCHEMA_VERSION
from schemas.digest import DIGEST_VERSION, chain_digests, make_epoch, origin_digest
from schemas.history import EVENT_BYTES, decode_events, encode_event
from schemas.packing import pack_history
from schemas.partitioner import partition_of, user_key
from schemas.topics import PARTITIONS, SNAPSHOTS, UPDATES
from schemas.v1.behaviour_pb2 import Interaction
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from scorer.sequences.records import StoreRecord


@dataclass
class Chain:
    """One epoch of one user. `salt` makes another history under the same numbers: a fork."""

    user_id: int
    epoch: int
    salt: int = 0
    fork_at: int = 1
    rows: bytes = b""
    digests: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.digests = [origin_digest(self.user_id, self.epoch)]

    def interaction(self, seq_no: int) -> tuple[int, Interaction]:
        """Event `seq_no`, a function of its coordinates."""
        salt = self.salt if seq_no >= self.fork_at else 0
        item, group, action = (
            1 + (self.user_id * 7_919 + self.epoch + seq_no * prime + salt * 104_729) % 1_009 for prime in (3, 5, 7)
        )
        return 1_700_000_000_000 + seq_no * 60_000, Interaction(item_id=item, group_id=group, action=action)

    def grow(self, seq_no: int) -> Chain:
        """Have at least `seq_no` events."""
        fresh = b"".join(encode_event(*self.interaction(n)) for n in range(len(self.digests), seq_no + 1))
        self.rows += fresh
        self.digests += chain_digests(self.digests[-1], fresh)[1:]
        return self

    def row_bytes(self, first: int, last: int) -> bytes:
        """Canonical bytes of events first .. last."""
        return self.rows[(first - 1) * EVENT_BYTES : last * EVENT_BYTES]


@dataclass
class JobDouble:
    """Records of any chain, with running offsets."""

    offsets: dict[tuple[str, int], int] = field(default_factory=dict)

    @staticmethod
    def chain(user_id: int, generation: int = 1, resets: int = 0, salt: int = 0, fork_at: int = 1) -> Chain:
        """A user's epoch."""
        return Chain(user_id, make_epoch(generation, resets), salt, fork_at)

    def record(self, topic: str, user_id: int, value: bytes, partition: int | None = None) -> StoreRecord:
        """`value` under the user's key, at the next offset."""
        key = user_key(user_id)
        partition = partition_of(key, PARTITIONS) if partition is None else partition
        offset = self.offsets.get((topic, partition), 0)
        self.offsets[topic, partition] = offset + 1
        return StoreRecord(topic, partition, offset, 1_700_000_000_000, key, value)

    @staticmethod
    def update_message(chain: Chain, seq_no: int) -> SequenceUpdate:
        """The delta of event `seq_no`."""
        chain.grow(seq_no)
        event_time_ms, interaction = chain.interaction(seq_no)
        return SequenceUpdate(
            schema_version=SCHEMA_VERSION,
            user_id=chain.user_id,
            epoch=chain.epoch,
            seq_no=seq_no,
            digest_version=DIGEST_VERSION,
            prev_digest=chain.digests[seq_no - 1],
            digest=chain.digests[seq_no],
            event_id=seq_no.to_bytes(16, "big"),
            event_time_ms=event_time_ms,
            interaction=interaction,
        )

    @staticmethod
    def snapshot_message(chain: Chain, seq_no: int, first: int = 1, erased: bool = False) -> SequenceSnapshot:
        """The snapshot of events first .. seq_no."""
        chain.grow(seq_no)
        return SequenceSnapshot(
            schema_version=SCHEMA_VERSION,
            user_id=chain.user_id,
            epoch=chain.epoch,
            first_seq_no=first,
            seq_no=seq_no,
            digest_version=DIGEST_VERSION,
            base_digest=chain.digests[first - 1],
            digest=chain.digests[seq_no],
            packed=pack_history(decode_events(chain.row_bytes(first, seq_no))),
            erased=erased,
        )

    def update(self, chain: Chain, seq_no: int) -> StoreRecord:
        """See `update_message`."""
        message = self.update_message(chain, seq_no)
        return self.record(UPDATES.name, chain.user_id, message.SerializeToString())

    def snapshot(self, chain: Chain, seq_no: int, first: int = 1, erased: bool = False) -> StoreRecord:
        """See `snapshot_message`."""
        message = self.snapshot_message(chain, seq_no, first, erased)
        return self.record(SNAPSHOTS.name, chain.user_id, message.SerializeToString())


class SequenceLog:
    """Both topics as lists by offset, with a beginning; None is a transaction marker, or was compacted away."""

    def __init__(self) -> None:
        self.records: dict[TopicPartition, list[StoreRecord | None]] = defaultdict(list)
        self.oldest: dict[TopicPartition, int] = defaultdict(int)
        self.ids = {UPDATES.name: "u1", SNAPSHOTS.name: "s1"}

    def source(self) -> MemorySource:
        """A reader of it."""
        return MemorySource(self)

    def add(self, *records: StoreRecord) -> None:
        for record in records:
            log = self.records[TopicPartition(record.topic, record.partition)]
            log.append(StoreRecord(record.topic, record.partition, len(log), 0, record.key, record.value))


class MemorySource:
    """Reads a `SequenceLog` as a KafkaConsumer would; notes what it handed out."""

    def __init__(self, log: SequenceLog) -> None:
        self.log = log
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.handed_out: list[tuple[str, int]] = []

    def topic_ids(self):
        return dict(self.log.ids)

    def bounds(self, partitions):
        return {place: (self.log.oldest[place], len(self.log.records[place])) for place in partitions}

    def assign(self, positions):
        self.positions = dict(positions)
        self.paused &= positions.keys()

    def pause(self, partition):
        assert partition in self.positions
        self.paused.add(partition)

    def resume(self, partition):
        assert partition in self.positions
        self.paused.discard(partition)

    def poll(self, timeout_ms, max_records):  # noqa: ARG002 - there is nothing to wait for
        batches: dict[TopicPartition, list[SimpleNamespace]] = {}
        for place, position in self.positions.items():
            if position < self.log.oldest[place] or position > len(self.log.records[place]):
                raise OffsetOutOfRangeError({place: position})
            while place not in self.paused and max_records and self.positions[place] < len(self.log.records[place]):
                record = self.log.records[place][self.positions[place]]
                self.positions[place] += 1
                if record is not None:
                    max_records -= 1
                    self.handed_out.append((place.topic, record.offset))
                    batches.setdefault(place, []).append(
                        SimpleNamespace(offset=record.offset, timestamp=0, key=record.key, value=record.value)
                    )
        return batches

    def position(self, partition):
        return self.positions[partition]

    def close(self):
        pass


@pytest.fixture
def job() -> JobDouble:
    """A fresh double."""
    return JobDouble()


@pytest.fixture(scope="session")
def make_job() -> type[JobDouble]:
    """For property tests, which make one per example."""
    return JobDouble


@pytest.fixture
def log() -> SequenceLog:
    """An empty one."""
    return SequenceLog()


@pytest.fixture(scope="session")
def make_log() -> type[SequenceLog]:
    """For property tests, which make one per example."""
    return SequenceLog
