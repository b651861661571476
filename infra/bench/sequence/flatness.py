"""What a user's n-th event costs: in the job over RocksDB, and the step alone over a dictionary.

Each place is measured with users of its own, who get just so far: so the places differ in n alone, and none of them in
how warm the process was. The snapshots are counted apart: they come when they are due, and grow with what they hold.
In the job an event's cost is its share of its batch's.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infra.bench.sequence.produce import prepare
from infra.bench.sequence.session import Session, Watch
from infra.bench.sequence.timed_job import TIMES_VARIABLE
from infra.bench.sequence.timed_step import TimedStep
from infra.bench.sequence.workload import USER_BASE, USER_STEP, Record, short_video
from infra.errors import InfraError
from schemas.topics import EVENTS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent
from streaming.config import SequenceJobConfig
from streaming.sequence.accept import accepted
from streaming.sequence.memory import MemoryUserState

TIMED_JOB: Final = Path(__file__).with_name("timed_job.py")
PLACES: Final = (1, 1_000, 10_000, 100_000)
#: Events before a place that count for it: several cycles of packing a chunk, one snapshot.
_BEFORE: Final = 1_024
#: Users of a place; of the first, as many as make as many events.
_USERS: Final = 4

#: [n, 3]: user_id, number of the event, ns.
Times = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the events and the snapshots cost, each [n, 3]: user_id, number of the (last) event, ns."""

    events: Times
    snapshots: Times


def groups(first_user: int) -> dict[int, range]:
    """The users of each place, numbered from `first_user` on."""
    numbers, start = {}, first_user
    for place in reversed(PLACES):
        count = _USERS if place > 1 else _USERS * _BEFORE
        numbers[place] = range(start, start + count)
        start += count
    return numbers


def histories(first_user: int, seed: int) -> Iterator[Record]:
    """Everybody's events up to their place, the longest first; those of one place take turns."""
    turns = [np.tile(np.arange(users.start, users.stop), place) for place, users in groups(first_user).items()]
    return short_video(np.concatenate(turns), seed)


def in_job(running: Session, settings: Sequence[str], first_user: int, seed: int) -> Measured:
    """Every event's cost, in the job."""
    path = running.local.home / "times.npz"
    job_id = running.start(TIMED_JOB, settings, from_end=True, environment={TIMES_VARIABLE: str(path)})
    with Watch(running, UPDATES) as watch:
        try:
            prepared = prepare(running.bootstrap, EVENTS.name, histories(first_user, seed), lambda _: None)
            watch.until(sum(prepared), lambda: running.flink.why(job_id))
        finally:
            running.flink.cancel(job_id)
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise InfraError(f"the job has ended and left no {path}")
        time.sleep(0.1)
    with np.load(path) as times:
        return Measured(events=times["events"], snapshots=times["snapshots"])


def pure(config: SequenceJobConfig, first_user: int, seed: int) -> Measured:
    """Every step's time, without Flink and without accepting."""
    step = TimedStep(config.settings(), config.state.cached_users)
    states: dict[int, MemoryUserState] = {}
    events, snapshots = array("q"), array("q")
    for offset, record in enumerate(histories(first_user, seed)):
        event = accepted(BehaviourEvent.FromString(record.value))
        state = states.setdefault(event[1], MemoryUserState())
        step.begin()
        started = time.perf_counter_ns()
        step.take(state, event, record.partition, offset, record.timestamp_ms)
        took = time.perf_counter_ns() - started
        events.extend((*step.taken, took - sum(step.snapshots[2::3])))
        snapshots.extend(step.snapshots)
    return Measured(events=np.array(events).reshape(-1, 3), snapshots=np.array(snapshots).reshape(-1, 3))


def costs(measured: Measured, first_user: int, cycle: int) -> Mapping[str, Mapping[str, float]]:
    """By place: microseconds of an event without its snapshot, the median over cycles of the mean within one, and
    milliseconds of a snapshot there, the median.

    Args:
        cycle: events after which a user's cost repeats itself.
    """
    figures = {}
    for place, users in groups(first_user).items():
        event_ns = _ns_at(measured.events, place, users)
        whole = event_ns[: len(event_ns) // cycle * cycle].reshape(-1, cycle)
        snapshot_ns = _ns_at(measured.snapshots, place, users)
        figures[str(place)] = {
            "event_us": float(np.median(whole.mean(axis=1))) / 1_000,
            "snapshot_ms": float(np.median(snapshot_ns)) / 1e6 if len(snapshot_ns) else 0.0,
        }
    return figures


def _ns_at(times: Times, place: int, users: range) -> NDArray[np.int64]:
    """Times of the users' last events before the place, in their order."""
    number = (times[:, 0] - USER_BASE) // USER_STEP
    here = (number >= users.start) & (number < users.stop) & (times[:, 1] > place - _BEFORE) & (times[:, 1] <= place)
    ns: NDArray[np.int64] = times[here, 2]
    return ns
