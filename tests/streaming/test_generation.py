"""Which generations the topics record, without Kafka: what of their newest records counts."""

from __future__ import annotations

from schemas.digest import make_epoch
from schemas.topics import SNAPSHOTS, UPDATES
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from streaming.flink.generation import highest_generation


def test_the_highest_of_updates_and_snapshots() -> None:
    update = SequenceUpdate(user_id=1, epoch=make_epoch(2, 7)).SerializeToString()
    snapshot = SequenceSnapshot(user_id=1, epoch=make_epoch(3, 0)).SerializeToString()
    assert highest_generation([(UPDATES, update), (SNAPSHOTS, snapshot), (UPDATES, update)]) == 3


def test_nothing_and_noise_record_none() -> None:
    assert highest_generation([]) == 0
    assert highest_generation([(UPDATES, b"\xff\xff"), (SNAPSHOTS, b"")]) == 0
