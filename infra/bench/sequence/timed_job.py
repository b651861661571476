"""The sequence job with a clock in it: what a user's n-th event costs over the real state. Where its figures go, the
environment of the client says: $LONGRANK_BENCH_TIMES, a file on the TaskManager's machine.

flink run infra/bench/sequence/timed_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.table import StreamTableEnvironment

from infra.bench.sequence.timed_step import TimedStep
from schemas.topics import EVENTS
from streaming.config import SequenceJobConfig
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.sequence_function import SequenceFunction
from streaming.flink.source import keyed_records
from streaming.sequence_job import write_outputs

TIMES_VARIABLE = "LONGRANK_BENCH_TIMES"


class TimedFunction(SequenceFunction):
    """Keeps what every event cost; writes it when the job ends, as .npz: `events` [n, 3] of user_id, n and its share of
    its batch's ns without snapshots; `snapshots` [m, 3] of user_id, n and ns.
    """

    path = ""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Flink's hook."""
        super().open(runtime_context)
        self._step = self._timed = TimedStep(self._settings, self._cached_users)
        self._events, self._written = array("Q"), array("Q")

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one batch."""
        timed = self._timed
        timed.begin()
        started = time.perf_counter_ns()
        outputs = list(super().process_element(value, ctx))
        took = time.perf_counter_ns() - started
        taken, snapshots = timed.taken, timed.snapshots
        if taken:
            share = (took - sum(snapshots[2::3])) // (len(taken) // 2)
            for at in range(0, len(taken), 2):
                self._events.extend((taken[at], taken[at + 1], share))
            self._written.extend(snapshots)
        yield from outputs

    def close(self) -> None:
        """Flink's hook."""
        super().close()
        draft = Path(self.path + ".new")
        with draft.open("wb") as file:
            events, snapshots = (np.array(each, np.int64).reshape(-1, 3) for each in (self._events, self._written))
            np.savez(file, events=events, snapshots=snapshots)
        draft.replace(self.path)


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(SequenceJobConfig, arguments, "Time the steps of the sequence job.")
    environment = job_environment(config.job)
    tables = StreamTableEnvironment.create(environment)
    events = keyed_records(tables, (EVENTS,), config.kafka, config.watermark)
    function = TimedFunction(config.settings(), config.record_limits(), config.state.cached_users)
    function.path = os.environ[TIMES_VARIABLE]
    write_outputs(events, function, config)
    environment.execute("longrank-timed")


if __name__ == "__main__":
    main(sys.argv[1:])
