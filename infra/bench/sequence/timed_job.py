"""The sequence job with a clock in it: what a user's n-th event costs over the real state. Where its figures go, the
environment of the client says: $LONGRANK_BENCH_TIMES, a file on the TaskManager's machine.

flink run infra/bench/sequence/timed_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.table import StreamTableEnvironment

from infra.bench.sequence.timed_step import TimedStep
from schemas.topics import EVENTS
from streaming.config import SequenceJobConfig
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.sequence_function import SequenceFunction
from streaming.flink.source import keyed_records
from streaming.sequence_job import follow

TIMES_VARIABLE = "LONGRANK_BENCH_TIMES"


class TimedFunction(SequenceFunction):
    """Keeps what every event cost, and writes it before every checkpoint as .npz: `events` [n, 3] of user_id, n and ns,
    of which the step's are the event's own without its snapshot, and the others its share of its batch's; `snapshots`
    [m, 3] of user_id, n and ns.
    """

    path = ""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Flink's hook."""
        super().open(runtime_context)
        self._step = self._timed = TimedStep(self._settings, self._cached_users)
        self._events: list[NDArray[np.int64]] = []
        self._written: list[NDArray[np.int64]] = []

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one batch."""
        timed = self._timed
        timed.begin()
        if not value:
            self._save()
        started = time.perf_counter_ns()
        outputs = list(super().process_element(value, ctx))
        took = time.perf_counter_ns() - started
        taken = np.array(timed.taken, np.int64).reshape(-1, 3)
        snapshots = np.array(timed.snapshots, np.int64).reshape(-1, 3)
        if len(taken):
            # Accepting, and what enters and leaves Python: the same for all events of a batch.
            taken[:, 2] += (took - taken[:, 2].sum() - snapshots[:, 2].sum()) // len(taken)
        self._events.append(taken)
        self._written.append(snapshots)
        yield from outputs

    def _save(self) -> None:
        draft = Path(self.path + ".new")
        with draft.open("wb") as file:
            nothing = np.empty((0, 3), np.int64)
            events, snapshots = (np.concatenate([nothing, *each]) for each in (self._events, self._written))
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
    follow(events, function, config)
    environment.execute("longrank-timed")


if __name__ == "__main__":
    main(sys.argv[1:])
