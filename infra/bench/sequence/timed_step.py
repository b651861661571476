"""The sequence step with a clock in it."""

from __future__ import annotations

import time
from array import array

from schemas.v1.sequence_pb2 import SequenceSnapshot
from streaming.sequence.accept import Accepted
from streaming.sequence.state import Header, Kept, UserState
from streaming.sequence.step import Outcome, SequenceStep


class TimedStep(SequenceStep):
    """Notes what each event and each snapshot took."""

    def begin(self) -> None:
        """A batch begins."""
        #: user_id, n and ns, without its snapshot, of each event.
        self.taken = array("Q")
        #: Likewise of each snapshot.
        self.snapshots = array("Q")

    def take(
        self, state: UserState, event: Accepted, source_partition: int, source_offset: int, now_ms: int
    ) -> Outcome | bytes:
        """`SequenceStep.take`."""
        snapshots = len(self.snapshots)
        started = time.perf_counter_ns()
        outcome = super().take(state, event, source_partition, source_offset, now_ms)
        took = time.perf_counter_ns() - started
        header = self.headers.load(state, event[1])
        assert header is not None  # It has just been written.
        self.taken.extend((event[1], header.seq_no, took - sum(self.snapshots[snapshots + 2 :: 3])))
        return outcome

    def _snapshot(self, state: UserState, header: Header, user_id: int, kept: Kept | None = None) -> SequenceSnapshot:
        started = time.perf_counter_ns()
        snapshot = super()._snapshot(state, header, user_id, kept)
        self.snapshots.extend((user_id, header.seq_no, time.perf_counter_ns() - started))
        return snapshot
