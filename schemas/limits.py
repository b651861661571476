"""The explicit limits on everything that comes in; one place, overridable by configuration."""

from __future__ import annotations

from dataclasses import dataclass

_MS_PER_DAY = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a record may be. Beyond a limit it becomes a dead letter."""

    #: Bytes of key plus value of one event, request or impression.
    max_record_bytes: int = 65_536
    #: Candidates in one request; items in one impression.
    max_candidates: int = 2_000
    #: Features of a request's candidates, and likewise of its context.
    max_features: int = 64
    #: Ids are 1 .. max_id; Flink's BIGINT and Parquet's int64 hold them all.
    max_id: int = (1 << 63) - 1
    #: Records of one SEED.
    max_seed_parts: int = 256
    #: Events of one SEED, all parts together.
    max_seed_events: int = 100_000
    #: action and surface are 0 .. max_code.
    max_code: int = 65_535
    #: Earliest event_time_ms: 1990-01-01.
    min_time_ms: int = 631_152_000_000
    #: Latest event_time_ms: 2100-01-01.
    max_time_ms: int = 4_102_444_800_000
    #: How much older than its record an event may be, ms.
    max_lateness_ms: int = 30 * _MS_PER_DAY
    #: How much newer than its record an event may be, ms.
    max_earliness_ms: int = _MS_PER_DAY
