"""What the scorer writes: responses with their stamps, and dead letters. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas import SCHEMA_VERSION
from schemas.reasons import Rejected
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_BEHIND,
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Candidates,
    RankingRequest,
    RankingResponse,
    Stamp,
    TaskScores,
)
from scorer.sequences.reads import ServedHistory
from scorer.serving.requests import Arrival, ScoreRequest

_RESPONSE_ID_BYTES: Final = 16
_LENGTH = struct.Struct("<I")


def response_id(request_id: str, candidates: Candidates, stamp: Stamp | None, outcome: str) -> str:
    """32 hex characters: BLAKE2b-128 over the request, its candidates, the history and the model (or the refusal).

    A redelivered request with the same history and model gets the same; each part is prefixed by its length.
    """
    digest = blake2b(digest_size=_RESPONSE_ID_BYTES, person=b"longrank.resp.v1")
    named = b"" if stamp is None else struct.pack("<QQQQ", stamp.epoch, stamp.first_seq_no, stamp.seq_no, stamp.digest)
    parts = [request_id.encode(), candidates.item_id, candidates.group_id, named, outcome.encode()]
    for feature in candidates.features:
        parts += feature.name.encode(), feature.int64, feature.float32
    for part in parts:
        digest.update(_LENGTH.pack(len(part)) + part)
    return digest.hexdigest()


def scored_response(
    request: ScoreRequest,
    served: ServedHistory,
    probabilities: NDArray[np.float32],
    tasks: Sequence[str],
    columns: Sequence[int],
    model_version: str,
    *,
    behind: bool,
) -> RankingResponse:
    """The answer to a scored request.

    Args:
        probabilities: [m, all tasks].
        tasks: of the model.
        columns: those that the request wants.
        behind: the history did not reach min_seq_no in time.
    """
    message = request.message
    stamp = served.stamp(model_version)
    return RankingResponse(
        schema_version=SCHEMA_VERSION,
        request_id=message.request_id,
        response_id=response_id(message.request_id, message.candidates, stamp, model_version),
        user_id=message.user_id,
        request_time_ms=message.request_time_ms,
        status=RESPONSE_STATUS_BEHIND if behind else RESPONSE_STATUS_OK,
        candidates=message.candidates,
        scores=[TaskScores(task=tasks[at], scores=probabilities[:, at].astype("<f4").tobytes()) for at in columns],
        stamp=stamp,
        stale=served.stale,
        source_partition=request.arrival.partition,
        source_offset=request.arrival.offset,
        context=message.context,
    )


def invalid_response(message: RankingRequest, arrival: Arrival, rejected: Rejected) -> RankingResponse:
    """The answer to a request that cannot be scored. It does not echo the candidates: they may be what is wrong."""
    error = str(rejected)
    return RankingResponse(
        schema_version=SCHEMA_VERSION,
        request_id=message.request_id,
        response_id=response_id(message.request_id, message.candidates, None, error),
        user_id=message.user_id,
        request_time_ms=message.request_time_ms,
        status=RESPONSE_STATUS_INVALID,
        error=error,
        source_partition=arrival.partition,
        source_offset=arrival.offset,
    )


def dead_letter(
    rejected: Rejected,
    *,
    stage: str,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
) -> DeadLetter:
    """A refused record, whole, with where it stood and why it was refused."""
    return DeadLetter(
        schema_version=SCHEMA_VERSION,
        reason=rejected.reason.value,
        detail=rejected.detail,
        stage=stage,
        source_topic=topic,
        source_partition=partition,
        source_offset=offset,
        source_timestamp_ms=timestamp_ms,
        key=key or b"",
        value=value or b"",
    )
