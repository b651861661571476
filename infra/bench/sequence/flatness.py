"""What a user's n-th event costs: in the job over RocksDB, and the step alone over a dictionary.

An event's cost comes in cycles: one in `state.chunk_events` packs a chunk. So events are taken a cycle at a time, and
the figure is the median over cycles of the mean within one. The snapshots are counted apart: they come when they are
due, and grow with what they hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Final

import numpy as np

from infra.bench.sequence.produce import prepare
from infra.bench.sequence.session import Session, Watch
from infra.bench.sequence.timed_job import TIMES_VARIABLE
from infra.bench.sequence.workload import Record, short_video
from infra.errors import InfraError
from schemas.topics import EVENTS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent
from streaming.config import SequenceJobConfig
from streaming.sequence.memory import MemoryUserState
from streaming.sequence.step import SequenceStep

TIMED_JOB: Final = Path(__file__).with_name("timed_job.py")
PLACES: Final = (1, 1_000, 10_000, 100_000)
#: Events on either side of a place that count for it, those of at least one snapshot among them.
_AROUND: Final = 512
_LONG_USERS: Final = 2
_NEW_USERS: Final = 64 * 64

#: n, ns without the snapshot, ns of the snapshot.
Times = Sequence[tuple[int, int, int]]


def long_histories(first_user: int, seed: int) -> Iterator[Record]:
    """A few users' 100,000 events and more, taking turns; then many users' first."""
    length = PLACES[-1] + _AROUND
    turns = np.tile(np.arange(first_user, first_user + _LONG_USERS), length)
    new = np.arange(first_user + _LONG_USERS, first_user + _LONG_USERS + _NEW_USERS)
    return short_video(np.concatenate([turns, new]), seed)


def in_job(running: Session, settings: Sequence[str], first_user: int, seed: int) -> Times:
    """Every step's time, in the job."""
    path = running.local.home / "times.json"
    job_id = running.start(TIMED_JOB, settings, from_end=True, environment={TIMES_VARIABLE: str(path)})
    with Watch(running, UPDATES) as watch:
        try:
            prepared = prepare(running.bootstrap, EVENTS.name, long_histories(first_user, seed), lambda _: None)
            watch.until(sum(prepared), lambda: running.flink.why(job_id))
        finally:
            running.flink.cancel(job_id)
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise InfraError(f"the job has ended and left no {path}")
        time.sleep(0.1)
    times: Times = json.loads(path.read_text())
    return times


def pure(config: SequenceJobConfig, seed: int) -> Times:
    """Every step's time, without Flink and without accepting; snapshots are left out of these."""
    step = SequenceStep(replace(config.settings(), snapshot_every_events=1 << 40), config.state.cached_users)
    states: dict[int, MemoryUserState] = {}
    times: list[tuple[int, int, int]] = []
    counts: dict[int, int] = {}
    for record in long_histories(1, seed):
        event = BehaviourEvent.FromString(record.value)
        state = states.setdefault(event.user_id, MemoryUserState())
        counts[event.user_id] = n = counts.get(event.user_id, 0) + 1
        started = time.perf_counter_ns()
        step.on_event(state, event, record.partition, n, record.timestamp_ms)
        times.append((n, time.perf_counter_ns() - started, 0))
    return times


def costs(times: Times, cycle: int) -> Mapping[str, Mapping[str, float]]:
    """By place: microseconds of an event without its snapshot, and milliseconds of a snapshot there.

    Args:
        cycle: events after which the cost repeats itself.
    """
    figures = {}
    for place in PLACES:
        low, high = (1, 1) if place == 1 else (place - _AROUND, place + _AROUND - 1)
        here = [one for one in times if low <= one[0] <= high]
        whole = [here[at : at + cycle] for at in range(0, len(here) - cycle + 1, cycle)]
        snapshots = [one[2] for one in here if one[2]]
        figures[str(place)] = {
            "event_us": median(mean(one[1] for one in part) for part in whole) / 1_000,
            "snapshot_ms": median(snapshots) / 1e6 if snapshots else 0.0,
        }
    return figures
