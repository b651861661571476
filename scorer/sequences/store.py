"""The partitions' databases that one process has open, and every read by user.

<directory>/v1/partition-<p>/    see `partition.py`
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Self

from schemas.partitioner import partition_of, user_key
from schemas.topics import PARTITIONS
from schemas.v1.ranking_pb2 import Stamp
from scorer.sequences.partition import PartitionStore, StoreError, StoreSettings
from scorer.sequences.reads import Resolved, ServedHistory

#: The topics' version: the number of partitions, and so who is where, never changes within one.
TOPIC_VERSION: Final = "v1"


class SequenceStore:
    """The partitions that this process has open, by user."""

    def __init__(self, directory: Path, settings: StoreSettings | None = None) -> None:
        """Nothing is opened yet."""
        self.settings = settings or StoreSettings()
        self._directory = directory / TOPIC_VERSION
        self._open: dict[int, PartitionStore] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def partitions(self) -> tuple[int, ...]:
        """The open ones."""
        return tuple(sorted(self._open))

    def open_partition(self, partition: int) -> PartitionStore:
        """Open, or what is already open.

        Raises:
            StoreError: see `PartitionStore.open`.
        """
        if partition not in self._open:
            self._open[partition] = PartitionStore.open(self.path(partition), partition, self.settings)
        return self._open[partition]

    def close_partition(self, partition: int) -> None:
        """Release it; its data stay. Not open is no error."""
        if (store := self._open.pop(partition, None)) is not None:
            store.close()

    def rebuild_partition(self, partition: int) -> PartitionStore:
        """Delete its data and open it empty.

        Raises:
            StoreError: see `PartitionStore.open`.
        """
        self.close_partition(partition)
        if self.path(partition).exists():
            shutil.rmtree(self.path(partition))
        return self.open_partition(partition)

    def close(self) -> None:
        """Release all."""
        for partition in self.partitions:
            self.close_partition(partition)

    def path(self, partition: int) -> Path:
        """Where a partition's database lies."""
        return self._directory / f"partition-{partition}"

    def partition_store(self, user_id: int) -> PartitionStore:
        """The store that holds this user.

        Raises:
            StoreError: this process does not have the user's partition.
        """
        partition = partition_of(user_key(user_id), PARTITIONS)
        if partition not in self._open:
            raise StoreError(f"user {user_id} is in partition {partition}; open here are {self.partitions}")
        return self._open[partition]

    def history(self, user_id: int, max_events: int) -> ServedHistory:
        """The newest events that serve, at most `max_events` and at most the capacity. Raises StoreError."""
        return self.partition_store(user_id).history(user_id, max_events)

    def head_seq_no(self, user_id: int) -> int:
        """seq_no of the newest event, 0 without history. Raises StoreError."""
        return self.partition_store(user_id).head_seq_no(user_id)

    def tail(self, user_id: int, after_seq_no: int) -> ServedHistory:
        """The kept events after a number; see `reads.read_tail`. Raises StoreError."""
        return self.partition_store(user_id).tail(user_id, after_seq_no)

    def as_of(self, user_id: int, seq_no: int) -> ServedHistory:
        """What `history` answered when `seq_no` was the head. Raises StoreError, NotKeptError."""
        return self.partition_store(user_id).as_of(user_id, seq_no)

    def resolve(self, user_id: int, stamp: Stamp) -> Resolved:
        """The very rows of a stamp, or why not. Raises StoreError."""
        return self.partition_store(user_id).resolve(user_id, stamp)
