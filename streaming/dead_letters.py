"""A refused record as a dead letter: reason, coordinates and the raw bytes."""

from __future__ import annotations

from typing import NamedTuple

from schemas import SCHEMA_VERSION
from schemas.reasons import Rejected
from schemas.v1.operations_pb2 import DeadLetter


class Source(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


def dead_letter(refused: Rejected, stage: str, source: Source, key: bytes | None, value: bytes | None) -> DeadLetter:
    """The letter. A null key or value is empty in it; the detail says that it was null.

    Args:
        stage: which job refused the record.
    """
    return DeadLetter(
        schema_version=SCHEMA_VERSION,
        reason=refused.reason.value,
        detail=refused.detail,
        stage=stage,
        source_topic=source.topic,
        source_partition=source.partition,
        source_offset=source.offset,
        source_timestamp_ms=source.timestamp_ms,
        key=key or b"",
        value=value or b"",
    )
