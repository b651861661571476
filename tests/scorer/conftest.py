"""A double of the sequence job: the truth about some users, and any record that the real job would write of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

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


@pytest.fixture
def job() -> JobDouble:
    """A fresh double."""
    return JobDouble()


@pytest.fixture(scope="session")
def make_job() -> type[JobDouble]:
    """For property tests, which make one per example."""
    return JobDouble
