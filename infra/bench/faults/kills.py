"""Which process dies when, by a seed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

import numpy as np

K = TypeVar("K")


class Victim(StrEnum):
    """What gets SIGKILL."""

    TASKMANAGER = "taskmanager"
    EVERY_TASKMANAGER = "every taskmanager"
    JOBMANAGER = "jobmanager"
    BROKER = "broker"


#: The part of its share of the traffic within which a kill falls: enough follows to see the recovery by.
_EARLIEST: Final = 0.2
_LATEST: Final = 0.6


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill."""

    victim: Victim
    #: Which TaskManager, where the victim is one.
    taskmanager: int
    #: When this many events have been sent.
    at_event: int
    #: The traffic flows on up to here while the cluster recovers, and waits here for the recovery.
    until_event: int


def shuffled_bag(kinds: Sequence[K], rng: np.random.Generator) -> Iterator[K]:
    """One of `kinds` after the other for ever, each once before one comes again."""
    while True:
        yield from [kinds[place] for place in rng.permutation(len(kinds))][::-1]


def draw_kills(kills: int, events: int, taskmanagers: int, rng: np.random.Generator) -> list[Kill]:
    """`kills` kills over `events` events: each has an equal share of the traffic and falls within it.

    Every kind comes once before one comes again.
    """
    bag = shuffled_bag(list(Victim), rng)
    drawn = []
    for index in range(kills):
        victim = next(bag)
        first, last = (events * end // (kills + 1) for end in (index, index + 1))
        drawn.append(
            Kill(
                victim=victim,
                taskmanager=int(rng.integers(taskmanagers)),
                at_event=first + int((last - first) * rng.uniform(_EARLIEST, _LATEST)),
                until_event=last,
            )
        )
    return drawn
