"""The sequence job with a clock in it: what a user's n-th event costs over the real state. Where its figures go, the
environment of the client says: $LONGRANK_BENCH_TIMES, a file on the TaskManager's machine.

flink run infra/bench/sequence/timed_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pyflink.common import Row
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.table import StreamTableEnvironment

from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, SNAPSHOTS, UPDATES
from schemas.v1.sequence_pb2 import SequenceSnapshot
from streaming.config import SequenceJobConfig
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.internals import side_output
from streaming.flink.sequence_function import SequenceFunction, dead_letter_tag, snapshot_tag
from streaming.flink.sinks import output_type, write
from streaming.flink.source import keyed_records
from streaming.sequence.state import Header, UserState
from streaming.sequence.step import SequenceStep

TIMES_VARIABLE = "LONGRANK_BENCH_TIMES"


class TimedStep(SequenceStep):
    """Remembers the newest event's number, and how long its snapshot took."""

    seq_no = 0
    snapshot_ns = 0

    def _put(self, state: UserState, user_id: int, header: Header) -> None:
        self.seq_no = header.seq_no
        super()._put(state, user_id, header)

    def _snapshot(self, state: UserState, header: Header, user_id: int) -> SequenceSnapshot:
        started = time.perf_counter_ns()
        snapshot = super()._snapshot(state, header, user_id)
        self.snapshot_ns += time.perf_counter_ns() - started
        return snapshot


class TimedFunction(SequenceFunction):
    """Keeps [n, ns without the snapshot, ns of the snapshot] of every event; writes them when the job ends."""

    path = ""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Flink's hook."""
        super().open(runtime_context)
        self._step = self._timed = TimedStep(self._settings, self._cached_users)
        self._times: list[tuple[int, int, int]] = []

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one record."""
        self._timed.snapshot_ns = 0
        started = time.perf_counter_ns()
        outputs = list(super().process_element(value, ctx))
        took = time.perf_counter_ns() - started
        snapshot = self._timed.snapshot_ns
        self._times.append((self._timed.seq_no, took - snapshot, snapshot))
        yield from outputs

    def close(self) -> None:
        """Flink's hook."""
        super().close()
        draft = Path(self.path + ".new")
        draft.write_text(json.dumps(self._times))
        draft.replace(self.path)


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(SequenceJobConfig, arguments, "Time the steps of the sequence job.")
    environment = job_environment(config.job)
    tables = StreamTableEnvironment.create(environment)
    events = keyed_records(tables, (EVENTS,), config.kafka, config.watermark)
    function = TimedFunction(config.settings(), config.record_limits(), config.state.cached_users)
    function.path = os.environ[TIMES_VARIABLE]
    updates = events.process(function, output_type()).name("timed").uid("timed")
    write(updates, UPDATES, config.kafka, config.sink, "to-updates")
    write(side_output(updates, snapshot_tag()), SNAPSHOTS, config.kafka, config.sink, "to-snapshots")
    letters = side_output(updates, dead_letter_tag())
    write(letters, DEAD_LETTER_TOPICS[EVENTS.name], config.kafka, config.sink, "to-dead-letters")
    environment.execute("longrank-timed")


if __name__ == "__main__":
    main(sys.argv[1:])
