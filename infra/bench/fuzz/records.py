"""Seeded records for behaviour.events.v1: noise, damaged events and seeds, lies in every field, and good ones. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np

from schemas import SCHEMA_VERSION
from schemas.history import HISTORY_DTYPE
from schemas.packing import PACKING_VERSIONS, pack_history
from schemas.partitioner import partition_of, user_key
from schemas.topics import HEARTBEAT_KEY, PARTITIONS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, RequestRef, Seed

#: An old log, in ms.
START_MS: Final = 1_500_000_000_000
_USERS: Final = 500
_EXTREMES: Final = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_KEYS: Final = (b"", b"0", b"-1", b"+5", b" 7", b"007", b"9" * 30, b"heartbeats", b"\xff\xfe", b"\x00", "٤٧".encode())


class FuzzedRecord(NamedTuple):
    """What to produce."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    partition: int


def fuzzed_records(count: int, seed: int) -> Iterator[FuzzedRecord]:
    """So many records; the same seed gives the same ones."""
    rng = random.Random(seed)
    fuzzers = _FUZZERS
    for number in range(count):
        timestamp_ms = START_MS + number
        event = _good(rng, number, timestamp_ms)
        yield rng.choice(fuzzers)(rng, event, timestamp_ms)


def _good(rng: random.Random, number: int, timestamp_ms: int) -> BehaviourEvent:
    event = BehaviourEvent(
        schema_version=SCHEMA_VERSION,
        user_id=rng.randint(1, _USERS),
        event_id=(number + 1).to_bytes(16, "big"),
        event_time_ms=timestamp_ms - rng.randrange(10_000),
        interaction=Interaction(
            item_id=rng.randint(1, 1 << 40), action=rng.randrange(6), watch_ms=rng.randrange(60_000)
        ),
    )
    if rng.random() < 0.1:
        event.request.CopyFrom(RequestRef(request_id="r", response_id="s", request_time_ms=timestamp_ms))
    return event


def _at_home(event: BehaviourEvent, value: bytes | None, timestamp_ms: int) -> FuzzedRecord:
    key = user_key(event.user_id)
    return FuzzedRecord(key, value, timestamp_ms, partition_of(key, PARTITIONS))


def _unchanged(_: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    return _at_home(event, event.SerializeToString(), timestamp_ms)


def _repeated_id(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    event.event_id = rng.randint(1, 200).to_bytes(16, "big")
    return _unchanged(rng, event, timestamp_ms)


def _noise(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    return _at_home(event, rng.randbytes(rng.randrange(200)), timestamp_ms)


def _nothing(_: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    return _at_home(event, None, timestamp_ms)


def _flipped(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    value = bytearray(event.SerializeToString())
    for _ in range(rng.randint(1, 4)):
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    return _at_home(event, bytes(value), timestamp_ms)


def _cut_or_joined(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    value = event.SerializeToString()
    value = value[: rng.randrange(len(value))] if rng.random() < 0.7 else value + rng.randbytes(rng.randint(1, 40))
    return _at_home(event, value, timestamp_ms)


def _lying(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    home = _at_home(event, None, timestamp_ms)
    small = [value for value in _EXTREMES if value < 2**32]
    match rng.randrange(8):
        case 0:
            event.interaction.item_id = rng.choice(_EXTREMES)
        case 1:
            event.interaction.group_id = rng.choice(_EXTREMES)
        case 2:
            event.interaction.action = rng.choice(small)
        case 3:
            event.interaction.surface = rng.choice(small)
        case 4:
            event.event_time_ms = rng.choice([*(v for v in _EXTREMES if v < 2**63), -1, -(2**63)])
        case 5:
            event.user_id = rng.choice(_EXTREMES)
        case 6:
            event.event_id = rng.randbytes(rng.choice([0, 15, 17, 1_000]))
        case _:
            event.schema_version = rng.choice(small)
    return home._replace(value=event.SerializeToString())


def _misplaced(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    record = _unchanged(rng, event, timestamp_ms)
    match rng.randrange(4):
        case 0:
            return record._replace(partition=rng.randrange(PARTITIONS))
        case 1:
            return record._replace(key=None)
        case 2:
            return record._replace(key=rng.choice(_KEYS))
        case _:
            return record._replace(timestamp_ms=rng.choice([0, 1, START_MS + (1 << 40)]))


def _heartbeat(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    return _at_home(event, rng.randbytes(8), timestamp_ms)._replace(key=HEARTBEAT_KEY)


def _huge(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    # One in fifty, or they would be all that the broker holds.
    size = rng.randrange(60_000, 80_000) if rng.random() < 0.02 else rng.randrange(2_000)
    return _at_home(event, event.SerializeToString() + b"\xfa\x07" + rng.randbytes(size), timestamp_ms)


def _erase(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    if rng.random() < 0.05:
        event.erase.CopyFrom(Erase())
    return _unchanged(rng, event, timestamp_ms)


def _seed(rng: random.Random, event: BehaviourEvent, timestamp_ms: int) -> FuzzedRecord:
    rows = np.zeros(rng.randint(0, 20), dtype=HISTORY_DTYPE)
    rows["item_id"], rows["event_time_ms"] = rng.randint(0, 50), rng.choice([START_MS, START_MS, 0])
    packed = bytearray(pack_history(rows, rng.choice(PACKING_VERSIONS)))
    if rng.random() < 0.4:
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
    parts = rng.choice([1, 1, 2, 3, 0, 2**32 - 1])
    event.event_id = rng.randint(1, 300).to_bytes(16, "big")
    event.seed.CopyFrom(
        Seed(
            part=rng.choice([0, 0, 1, 2, 2**32 - 1]),
            parts=parts,
            packed=bytes(packed),
            event_ids=rng.randbytes(rng.choice([0, 0, 16, 32, 7])),
            rebuild=rng.random() < 0.3,
        )
    )
    return _unchanged(rng, event, timestamp_ms)


_Fuzzer = Callable[[random.Random, BehaviourEvent, int], FuzzedRecord]
_FUZZERS: Final[tuple[_Fuzzer, ...]] = (
    _unchanged,
    _unchanged,
    _repeated_id,
    _noise,
    _nothing,
    _flipped,
    _cut_or_joined,
    _lying,
    _lying,
    _misplaced,
    _heartbeat,
    _huge,
    _erase,
    _seed,
)
