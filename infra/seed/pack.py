"""One user's history to the SEED records that carry it. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from schemas import SCHEMA_VERSION
from schemas.history import History
from schemas.limits import Limits
from schemas.packing import pack_history
from schemas.partitioner import user_key
from schemas.v1.behaviour_pb2 import BehaviourEvent, Seed
from streaming.sequence.state import EVENT_ID_BYTES

#: Of a record beside what is packed: user, ids of the parts, times. Ids of events come on top.
_ENVELOPE_BYTES: Final = 256


def seed_id(user_id: int, rows: History, event_ids: bytes, *, rebuild: bool) -> bytes:
    """16 bytes that name the seed by its content: the same history published again is the same seed."""
    digest = blake2b(digest_size=EVENT_ID_BYTES, person=b"longrank.seed.v1")
    digest.update(b"%d %d %d " % (user_id, len(rows), rebuild))
    digest.update(rows.tobytes())
    digest.update(event_ids)
    return digest.digest()


def seed_records(
    user_id: int, rows: History, event_ids: bytes, now_ms: int, limits: Limits, *, rebuild: bool = False
) -> list[bytes]:
    """Values of behaviour.events.v1 for events [n], at least one, oldest first.

    Args:
        event_ids: of the newest of them, 16 bytes each, as many as the job's dedupe window.
        now_ms: the records' event time.

    Raises:
        ValueError: more parts than allowed would be needed.
    """
    name = seed_id(user_id, rows, event_ids, rebuild=rebuild)
    budget = limits.max_record_bytes - _ENVELOPE_BYTES - len(user_key(user_id)) - len(event_ids)
    packed = _split(rows, budget)
    if len(packed) > limits.max_seed_parts:
        raise ValueError(f"user {user_id}: {len(rows)} events need {len(packed)} records of {limits.max_seed_parts}")
    return [
        BehaviourEvent(
            schema_version=SCHEMA_VERSION,
            user_id=user_id,
            event_id=name,
            event_time_ms=now_ms,
            seed=Seed(
                part=part,
                parts=len(packed),
                packed=each,
                event_ids=event_ids if part + 1 == len(packed) else b"",
                rebuild=rebuild,
            ),
        ).SerializeToString(deterministic=True)
        for part, each in enumerate(packed)
    ]


def _split(rows: History, budget: int) -> list[bytes]:
    packed = pack_history(rows)
    if len(packed) <= budget or len(rows) == 1:
        return [packed]
    middle = len(rows) // 2
    return [*_split(rows[:middle], budget), *_split(rows[middle:], budget)]
