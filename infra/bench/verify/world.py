"""What `verify` is measured on: events with the updates and snapshots that belong to them, and requests with their
responses, impressions and examples. Pure; the same for the same seed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from infra.bench.sequence.workload import Record, short_video, zipf_users
from schemas import SCHEMA_VERSION
from schemas.digest import DIGEST_VERSION, origin_digest
from schemas.topics import (
    EVENTS,
    EXAMPLES,
    HEARTBEAT_KEY,
    IMPRESSIONS,
    PARTITIONS,
    REQUESTS,
    RESPONSES,
    SNAPSHOTS,
    UPDATES,
    Topic,
)
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.operations_pb2 import Heartbeat
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_OK,
    Candidates,
    FeatureColumn,
    Impression,
    RankingRequest,
    RankingResponse,
    Stamp,
    TaskScores,
)
from schemas.v1.sequence_pb2 import SequenceUpdate
from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from streaming.sequence.memory import MemoryUserState
from streaming.sequence.step import SequenceSettings, SequenceStep

#: Popularity of users: rank r has a weight of r ** -0.8.
_EXPONENT: Final = 0.8
_CANDIDATES: Final = 100
_SHOWN: Final = 8
#: The one task of the bench's example job, and its window.
TASK: Final = "touch"
LABEL_WINDOW_MS: Final = 600_000
_DAY_MS: Final = 86_400_000


def world(events: int, users: int, requests: int, rules: SequenceSettings, seed: int) -> Iterator[tuple[str, Record]]:
    """All records with their topics, each partition of each topic in its order, heartbeats at the end.

    Args:
        requests: about so many; each is of an event that answers it.
        rules: of the sequence job that the updates are of.
    """
    rng = np.random.default_rng([seed, 3])
    step, states = SequenceStep(rules), dict[bytes, MemoryUserState]()
    heads: dict[bytes, bytes] = {}
    offsets = dict.fromkeys(range(PARTITIONS), 0)
    every, newest_ms = events // requests if requests else 0, 0
    for at, (partition, time_ms, key, value) in enumerate(short_video(zipf_users(events, users, _EXPONENT, rng), seed)):
        event = BehaviourEvent.FromString(value)
        # The workload's own references are to requests that nobody made.
        event.ClearField("request")
        if every and at % every == 0:
            # Before the event, so that the newest event before it is what was served.
            asked_ms = time_ms - 1
            for topic, message in _request(event, at, asked_ms, heads.get(key), rules, rng):
                yield topic.name, Record(partition, asked_ms, key, message)
        outcome = step.on_event(
            states.setdefault(key, MemoryUserState()), event, partition, offsets[partition], time_ms
        )
        assert outcome.update is not None, "the events' ids are all different"
        offsets[partition] += 1
        heads[key], newest_ms = outcome.update, time_ms
        yield EVENTS.name, Record(partition, time_ms, key, event.SerializeToString())
        yield UPDATES.name, Record(partition, time_ms, key, outcome.update)
        if outcome.snapshot is not None:
            yield SNAPSHOTS.name, Record(partition, time_ms, key, outcome.snapshot.SerializeToString())
    heartbeat = Heartbeat(schema_version=SCHEMA_VERSION, time_ms=newest_ms + _DAY_MS).SerializeToString()
    for partition in range(PARTITIONS):
        yield EVENTS.name, Record(partition, newest_ms + _DAY_MS, HEARTBEAT_KEY, heartbeat)


def _request(
    event: BehaviourEvent,
    number: int,
    time_ms: int,
    newest: bytes | None,
    rules: SequenceSettings,
    rng: np.random.Generator,
) -> Iterator[tuple[Topic, bytes]]:
    """A request that the event answers, and everything that comes of it; the event then names it.

    Args:
        newest: the user's newest update, serialised.
    """
    items = rng.integers(1, 1 << 62, _CANDIDATES, dtype=np.uint64)
    # What is shown is new to the user, as it is to most people who are shown something.
    event.interaction.item_id = int(items[0])
    columns = [
        FeatureColumn(name="shows", int64=rng.integers(0, 1_000, _CANDIDATES).astype("<i8").tobytes()),
        FeatureColumn(name="rate", float32=rng.random(_CANDIDATES).astype("<f4").tobytes()),
    ]
    candidates = Candidates(item_id=items.tobytes(), group_id=(items >> np.uint64(8)).tobytes(), features=columns)
    context = [FeatureColumn(name="hour", int64=struct.pack("<q", number % 24))]
    if newest is None:
        stamp = Stamp(first_seq_no=1, digest_version=DIGEST_VERSION, digest=origin_digest(event.user_id, 0))
    else:
        head = SequenceUpdate.FromString(newest)
        first = max(1, head.seq_no - rules.capacity + 1)
        stamp = Stamp(
            epoch=head.epoch,
            first_seq_no=first,
            seq_no=head.seq_no,
            length=head.seq_no - first + 1,
            digest_version=DIGEST_VERSION,
            digest=head.digest,
            model_version="bench",
        )
    request_id, response_id = f"r-{number}", f"s-{number}"
    common: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "request_id": request_id, "user_id": event.user_id}
    yield (
        REQUESTS,
        RankingRequest(**common, request_time_ms=time_ms, candidates=candidates, context=context).SerializeToString(),
    )
    yield (
        RESPONSES,
        RankingResponse(
            **common,
            response_id=response_id,
            request_time_ms=time_ms,
            status=RESPONSE_STATUS_OK,
            candidates=candidates,
            context=context,
            scores=[TaskScores(task=TASK, scores=rng.random(_CANDIDATES).astype("<f4").tobytes())],
            stamp=stamp,
        ).SerializeToString(),
    )
    yield (
        IMPRESSIONS,
        Impression(
            **common,
            response_id=response_id,
            request_time_ms=time_ms,
            impression_time_ms=time_ms,
            item_id=items[:_SHOWN].tobytes(),
        ).SerializeToString(),
    )
    targets = Candidates(
        item_id=items[:_SHOWN].tobytes(),
        group_id=(items >> np.uint64(8))[:_SHOWN].tobytes(),
        features=[
            FeatureColumn(name=each.name, int64=each.int64[: 8 * _SHOWN], float32=each.float32[: 4 * _SHOWN])
            for each in columns
        ],
    )
    yield (
        EXAMPLES,
        TrainingExample(
            **common,
            response_id=response_id,
            request_time_ms=time_ms,
            label_version=1,
            targets=targets,
            position=np.arange(_SHOWN, dtype="<u2").tobytes(),
            labels=[TaskLabels(task=TASK, labels=bytes([1] + [0] * (_SHOWN - 1)), weight=1.0)],
            stamp=stamp,
            context=context,
        ).SerializeToString(),
    )
    event.request.request_id, event.request.response_id = request_id, response_id
    event.request.request_time_ms = time_ms
