"""What a user's n-th event costs: in the job over RocksDB, and the step alone over a dictionary.

Each place has users of its own. They all arrive at their place together, in the same batches, so that they differ in
nothing but n; those who have their first event come last. The snapshots are counted apart: they come when they are due,
and grow with what they hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infra.bench.sequence.produce import prepare
from infra.bench.sequence.session import NO_CHECKPOINTS, Session, Watch
from infra.bench.sequence.timed_job import TIMES_VARIABLE
from infra.bench.sequence.timed_step import TimedStep
from infra.bench.sequence.workload import Record, id_of_user, short_video
from schemas.partitioner import partition_of, user_key
from schemas.topics import EVENTS, PARTITIONS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent
from streaming.config import SequenceJobConfig
from streaming.sequence.accept import accepted
from streaming.sequence.memory import MemoryUserState

TIMED_JOB: Final = Path(__file__).with_name("timed_job.py")
PLACES: Final = (1, 1_000, 10_000, 100_000)
#: Events around a place that count for it, whole cycles of packing a chunk: so many before and with it, so many after.
_BEFORE: Final = 832
_AFTER: Final = 64
#: Users of a place; of the first, as many as make as many events.
_USERS: Final = 4

#: [n, 3]: user_id, number of the event, ns.
Times = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the events and the snapshots cost, each [n, 3]: user_id, number of the (last) event, ns."""

    events: Times
    snapshots: Times


def groups(first_user: int) -> dict[int, NDArray[np.int64]]:
    """The users of each place: numbers from `first_user` on, all of one partition, for only its order is kept."""
    numbers = count(first_user)
    home = partition_of(user_key(id_of_user(first_user)), PARTITIONS)
    neighbours = (n for n in numbers if partition_of(user_key(id_of_user(n)), PARTITIONS) == home)
    sizes = {place: _USERS if place > 1 else _USERS * (_BEFORE + _AFTER) for place in reversed(PLACES)}
    return {place: np.array(list(islice(neighbours, size))) for place, size in sizes.items()}


def histories(first_user: int, seed: int) -> Iterator[Record]:
    """The users' events: each place's alone until they are near it, then together past it; at last those with one."""
    users_of = groups(first_user)
    newcomers = users_of.pop(1)
    apart = [np.tile(users, place - _BEFORE) for place, users in users_of.items()]
    together = np.tile(np.concatenate(list(users_of.values())), _BEFORE + _AFTER)
    return short_video(np.concatenate([*apart, together, newcomers]), seed)


def in_job(running: Session, settings: Sequence[str], first_user: int, seed: int) -> Measured:
    """Every event's cost, in the job."""
    path = running.local.home / "times.npz"
    begin = running.ends(EVENTS)
    prepared = prepare(running.bootstrap, EVENTS.name, histories(first_user, seed), lambda _: None)
    with Watch(running, UPDATES) as watch:
        job_id = running.start(
            TIMED_JOB, [*settings, NO_CHECKPOINTS], begin=begin, environment={TIMES_VARIABLE: str(path)}
        )
        try:
            watch.until(sum(prepared), lambda: running.flink.why(job_id))
            running.flink.checkpoint(job_id)
        finally:
            running.flink.cancel(job_id)
    with np.load(path) as times:
        return Measured(events=times["events"], snapshots=times["snapshots"])


def pure(config: SequenceJobConfig, first_user: int, seed: int) -> Measured:
    """Every step's time, without Flink and without accepting."""
    step = TimedStep(config.settings(), config.state.cached_users)
    states: dict[int, MemoryUserState] = {}
    events, snapshots = array("Q"), array("Q")
    for offset, record in enumerate(histories(first_user, seed)):
        event = accepted(BehaviourEvent.FromString(record.value))
        state = states.setdefault(event[1], MemoryUserState())
        step.begin()
        step.take(state, event, record.partition, offset, record.timestamp_ms)
        events.extend(step.taken)
        snapshots.extend(step.snapshots)
    return Measured(
        events=np.array(events, np.int64).reshape(-1, 3), snapshots=np.array(snapshots, np.int64).reshape(-1, 3)
    )


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


def _ns_at(times: Times, place: int, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times of the users' events around the place, in their order."""
    n = times[:, 1]
    here = np.isin(times[:, 0], id_of_user(users)) & (n > place - _BEFORE) & (n <= place + _AFTER)
    ns: NDArray[np.int64] = times[here, 2]
    return ns
