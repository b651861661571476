"""What is sent: requests of short-video users as responses, impressions and feedback; the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Final

import numpy as np

from infra.bench.sequence.workload import START_MS, Record, id_of_user
from schemas import SCHEMA_VERSION
from schemas.partitioner import partition_of, user_key
from schemas.topics import EVENTS, IMPRESSIONS, PARTITIONS, RESPONSES
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_OK,
    Candidates,
    Impression,
    RankingResponse,
    Stamp,
    TaskScores,
)

#: A response, an impression, and the events of its feedback.
RECORDS_OF_REQUEST: Final = 12
#: Candidates of a request, those of them that are shown, and those that are watched.
CANDIDATES: Final = 40
SHOWN: Final = 20
WATCHED: Final = 9
#: From one request of the whole site to the next, ms of event time.
REQUEST_EVERY_MS: Final = 1_000
#: How long the videos of a request are watched one after the other, ms.
_WATCH_EVERY_MS: Final = 20_000
_TASKS: Final = ("finish", "skip", "like")
_MAX_ID: Final = (1 << 63) - 1
_LIKE: Final = 3
_VIEW: Final = 2


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """How many requests, of whom."""

    requests: int
    users: int
    seed: int


def traffic(plan: Traffic) -> Iterator[tuple[str, Record]]:
    """All (topic, record), in the order of the records' timestamps.

    A request has `SHOWN` of `CANDIDATES` shown and `WATCHED` of these watched, one of them liked. One in ten of the
    events names no request: half of those are feedback all the same, the others are to videos found elsewhere.
    """
    rng = np.random.default_rng([plan.seed, 3])
    rank = np.arange(1, plan.users + 1, dtype=np.float64) ** -0.8
    users = rng.choice(plan.users, size=plan.requests, p=rank / rank.sum())
    later: list[tuple[int, int, str, Record]] = []
    ties = count()
    for number, user in enumerate(users.tolist()):
        for topic, record in _request(number, id_of_user(user), rng):
            heappush(later, (record.timestamp_ms, next(ties), topic, record))
        while later and later[0][0] < START_MS + (number + 1) * REQUEST_EVERY_MS:
            _, _, topic, record = heappop(later)
            yield topic, record
    for _, _, topic, record in sorted(later):
        yield topic, record


def _request(number: int, user_id: int, rng: np.random.Generator) -> Iterator[tuple[str, Record]]:
    time_ms = START_MS + number * REQUEST_EVERY_MS
    key = user_key(user_id)
    partition = partition_of(key, PARTITIONS)
    request_id = f"request-{number:012d}"
    response_id = rng.bytes(16).hex()
    items = rng.integers(1, _MAX_ID, size=CANDIDATES, dtype=np.uint64).astype("<u8")
    response = RankingResponse(
        schema_version=SCHEMA_VERSION,
        request_id=request_id,
        response_id=response_id,
        user_id=user_id,
        request_time_ms=time_ms,
        status=RESPONSE_STATUS_OK,
        candidates=Candidates(
            item_id=items.tobytes(),
            group_id=rng.integers(1, _MAX_ID, size=CANDIDATES, dtype=np.uint64).astype("<u8").tobytes(),
        ),
        scores=[TaskScores(task=task, scores=rng.random(CANDIDATES, np.float32).tobytes()) for task in _TASKS],
        stamp=Stamp(
            epoch=1 << 32,
            first_seq_no=number + 1,
            seq_no=number + 10_000,
            length=10_000,
            digest_version=1,
            digest=int(rng.integers(1, _MAX_ID)),
            model_version="20260101T000000-0123456789ab",
        ),
    )
    yield (RESPONSES.name, Record(partition, time_ms, key, response.SerializeToString()))
    impression = Impression(
        schema_version=SCHEMA_VERSION,
        user_id=user_id,
        request_id=request_id,
        response_id=response_id,
        request_time_ms=time_ms,
        impression_time_ms=time_ms + 100,
        item_id=items[:SHOWN].tobytes(),
    )
    yield (IMPRESSIONS.name, Record(partition, time_ms + 100, key, impression.SerializeToString()))
    watched = items[rng.choice(SHOWN, size=WATCHED, replace=False)].tolist()
    for place, item in enumerate([*watched, watched[0]]):
        liked = place == WATCHED
        watched_ms = time_ms + (place + 1) * _WATCH_EVERY_MS
        unnamed = rng.random() < 0.1
        elsewhere = unnamed and rng.random() < 0.5
        duration = int(rng.integers(3_000, 60_000))
        event = BehaviourEvent(
            schema_version=SCHEMA_VERSION,
            user_id=user_id,
            event_id=rng.bytes(16),
            event_time_ms=watched_ms,
            interaction=Interaction(
                item_id=int(rng.integers(1, _MAX_ID)) if elsewhere else item,
                action=_LIKE if liked else _VIEW,
                watch_ms=None if liked else int(duration * rng.beta(0.6, 0.8)),
                duration_ms=duration,
                surface=1,
            ),
        )
        if not unnamed:
            event.request.CopyFrom(RequestRef(request_id=request_id, response_id=response_id, request_time_ms=time_ms))
        yield (EVENTS.name, Record(partition, watched_ms, key, event.SerializeToString()))
