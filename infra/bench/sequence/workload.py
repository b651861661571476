"""What is sent: records of behaviour.events.v1, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.logs.behaviour_log import BehaviourLog
from infra.replay.messages import event_message
from schemas import SCHEMA_VERSION
from schemas.partitioner import partition_of, user_key
from schemas.topics import PARTITIONS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction

#: Of the first event; the job takes no notice of today.
START_MS: Final = 1_750_000_000_000
_MAX_ID: Final = (1 << 63) - 1
#: Videos, and the people who make them.
_ITEMS: Final = 1_000_000
_AUTHORS: Final = 50_000
_BLOCK: Final = 50_000


class Record(NamedTuple):
    """One record, in the partition where its key belongs."""

    partition: int
    timestamp_ms: int
    key: bytes
    value: bytes


NumberOrNumbers = TypeVar("NumberOrNumbers", int, NDArray[np.int64])


def id_of_user(number: NumberOrNumbers) -> NumberOrNumbers:
    """The user_id of a user known by number, from 0."""
    return number * 1_000_003 + 12_345_678


def zipf_users(count: int, users: int, exponent: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which user, 0 .. users - 1, each of `count` events is of: rank r comes with a weight of r ** -exponent."""
    weights = np.arange(1, users + 1, dtype=np.float64) ** -exponent
    return rng.choice(users, size=count, p=weights / weights.sum())


def short_video(user_of_event: NDArray[np.int64], seed: int) -> Iterator[Record]:
    """An event for each entry of `user_of_event`: 64-bit ids, watch and duration in ms, surface and author.

    Users are numbers below 2 ** 40, items are drawn by popularity, every twentieth event carries the request it
    answers, and one in fifty is published up to two minutes after it happened, the others at once.
    """
    rng = np.random.default_rng([seed, 1])
    items = rng.integers(1, _MAX_ID, size=_ITEMS)
    authors = rng.integers(1, _MAX_ID, size=_AUTHORS)
    places: dict[int, tuple[int, int, bytes]] = {}
    for start in range(0, len(user_of_event), _BLOCK):
        users = user_of_event[start : start + _BLOCK].tolist()
        n = len(users)
        drawn = np.minimum(rng.zipf(1.2, n), _ITEMS) - 1
        item = items[drawn].tolist()
        author = authors[drawn % _AUTHORS].tolist()
        duration = rng.integers(3_000, 180_000, n)
        watch = (duration * rng.beta(0.6, 0.8, n)).astype(np.int64).tolist()
        duration = duration.tolist()
        action = rng.choice([1, 1, 1, 1, 2, 3, 4], n).tolist()
        delay = (rng.integers(0, 120_000, n) * (rng.random(n) < 0.02)).tolist()
        ids = rng.bytes(16 * n)
        for at in range(n):
            user = users[at]
            if user not in places:
                user_id = id_of_user(user)
                key = user_key(user_id)
                places[user] = user_id, partition_of(key, PARTITIONS), key
            user_id, partition, key = places[user]
            published_ms = START_MS + start + at
            event = BehaviourEvent(
                schema_version=SCHEMA_VERSION,
                user_id=user_id,
                event_id=ids[16 * at : 16 * at + 16],
                event_time_ms=published_ms - delay[at],
                interaction=Interaction(
                    item_id=item[at],
                    action=action[at],
                    watch_ms=watch[at],
                    duration_ms=duration[at],
                    surface=1,
                    group_id=author[at],
                ),
            )
            if at % 20 == 0:
                event.request.request_id = event.request.response_id = ids[16 * at : 16 * at + 8].hex()
                event.request.request_time_ms = published_ms - delay[at]
            yield Record(partition, published_ms, key, event.SerializeToString())


def of_log(log: BehaviourLog, seed: int) -> Iterator[Record]:
    """The events of a recorded log, in arrival order."""
    ids = np.random.default_rng([seed, 2]).bytes(16 * len(log.arrival_ms))
    for at, arrival_ms in enumerate(log.arrival_ms.tolist()):
        event = event_message(log, at, ids[16 * at : 16 * at + 16], None)
        key = user_key(event.user_id)
        yield Record(partition_of(key, PARTITIONS), arrival_ms, key, event.SerializeToString())
