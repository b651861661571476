"""What the group consumer is told at a rebalance."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from kafka import TopicPartition

from scorer.serving.kafka_transport import _Listener


class Coordinator:
    """Of kafka-python's: whether a join is still wanted."""

    def __init__(self) -> None:
        self.rejoin_needed = False

    def request_rejoin(self) -> None:
        self.rejoin_needed = True


class Consumer:
    def __init__(self) -> None:
        self._coordinator = Coordinator()
        self.committed: list[Mapping[Any, Any]] = []

    async def commit_async(self, offsets: Mapping[Any, Any]) -> None:
        self.committed.append(offsets)


class Loop:
    def __init__(self, offsets: Mapping[int, int]) -> None:
        self.offsets = offsets

    def on_revoke(self) -> Mapping[int, int]:
        return self.offsets

    def on_assign(self, partitions: Collection[int]) -> None:
        raise AssertionError(f"nothing was assigned, not even {partitions}")

    def on_lost(self) -> None:
        raise AssertionError("nothing was lost")


def test_a_rejoin_stays_wanted_until_it_is_complete() -> None:
    """Else a short poll in the middle of a leader's rejoin leaves the member without assignment and heartbeats."""
    consumer = Consumer()
    asyncio.run(_Listener(consumer, Loop({})).on_partitions_revoked({TopicPartition("t", 0)}))  # type: ignore[arg-type]
    assert consumer._coordinator.rejoin_needed
    assert consumer.committed == []


def test_what_is_done_is_committed_before_the_partitions_go() -> None:
    consumer = Consumer()
    asyncio.run(_Listener(consumer, Loop({3: 17})).on_partitions_revoked({TopicPartition("t", 3)}))  # type: ignore[arg-type]
    (offsets,) = consumer.committed
    assert {place.partition: position.offset for place, position in offsets.items()} == {3: 17}
