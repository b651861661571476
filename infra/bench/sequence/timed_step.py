"""The sequence step with a clock in it."""

from __future__ import annotations

import time
from array import array

from schemas.v1.sequence_pb2 import SequenceSnapshot
from streaming.sequence.accept import Accepted
from streaming.sequence.state import Header, UserState
from streaming.sequence.step import Outcome, SequenceStep


class TimedStep(SequenceStep):
    """Remembers whose events it took, and how long the snapshots took."""

    def begin(self) -> None:
        """A batch begins."""
        #: user_id and n of each event.
        self.taken = array("Q")
        #: user_id, n and ns of each snapshot.
        self.snapshots = array("Q")

    def take(
        self, state: UserState, event: Accepted, source_partition: int, source_offset: int, now_ms: int
    ) -> Outcome | bytes:
        """`SequenceStep.take`."""
        outcome = super().take(state, event, source_partition, source_offset, now_ms)
        self.taken.extend((event[1], self._headers[event[1]].seq_no))
        return outcome

    def _snapshot(self, state: UserState, header: Header, user_id: int) -> SequenceSnapshot:
        started = time.perf_counter_ns()
        snapshot = super()._snapshot(state, header, user_id)
        self.snapshots.extend((user_id, header.seq_no, time.perf_counter_ns() - started))
        return snapshot
