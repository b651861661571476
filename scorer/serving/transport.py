"""The seam between the scorer's loop and Kafka: what the loop needs of a consumer group and of a producer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from scorer.serving.requests import Arrival


class Outgoing(NamedTuple):
    """A record to produce."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    #: CreateTime, ms; None where the broker's clock decides.
    timestamp_ms: int | None


class Intake(Protocol):
    """A member of the scorers' consumer group on the requests topic.

    Rebalances come as calls of the `Rebalanced` that `join` was given, from any thread. Partitions that stay keep their
    position; newly assigned ones are paused and begin at the committed offset.
    """

    def join(self, listener: Rebalanced) -> None:
        """Become a member."""

    def poll(self, timeout_ms: int, max_records: int) -> Sequence[Arrival]:
        """Records of the partitions that are not paused, in order within each. Waits at most so long for the first."""

    def deliver(self, partitions: Collection[int]) -> None:
        """Deliver exactly these of the assignment; the others are paused."""

    def commit(self, offsets: Mapping[int, int], on_done: Callable[[BaseException | None], None]) -> None:
        """Commit next offsets by partition, without waiting."""

    def close(self) -> None:
        """Leave the group."""


class Rebalanced(Protocol):
    """What a consumer group tells its members."""

    def on_revoke(self) -> Mapping[int, int]:
        """The group is about to move partitions: answer nothing more for now. Returns offsets to commit first."""

    def on_assign(self, partitions: Collection[int]) -> None:
        """Exactly these are ours."""

    def on_lost(self) -> None:
        """The membership is gone; others may own the partitions already."""


class Outlet(Protocol):
    """An idempotent producer: records of one partition arrive in the order in which they were sent."""

    def send(self, record: Outgoing, on_done: Callable[[BaseException | None], None]) -> None:
        """Send; `on_done` is called from any thread with None once it is acknowledged, else with why not."""

    def flush(self, timeout_ms: int) -> None:
        """Wait until everything sent is acknowledged. Raises TransportError when that takes longer."""

    def close(self) -> None:
        """Release it; what is not acknowledged may be lost."""


class TransportError(Exception):
    """Kafka did not do what was asked; the process ends, and what was not committed is redelivered."""
