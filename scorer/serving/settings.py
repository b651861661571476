"""How a scorer serves. Times in ms unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.limits import Limits


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """One scorer's rules."""

    limits: Limits = field(default_factory=Limits)
    #: Requests scored in one turn, at most.
    max_batch: int = 32
    #: Keys and values kept between requests, bytes; the least recently used go first.
    kept_bytes: int = 512 << 20
    #: Requests taken and not yet answered, at most; beyond, no more are taken until some are.
    max_pending: int = 4_096
    #: A request waits for its history no longer, whatever its max_wait_ms says.
    max_wait_ms: int = 30_000
    #: Waiting for the first request, which ends the wait.
    poll_ms: int = 100
    #: Waiting for the histories that parked requests need; other requests that come meanwhile wait as long.
    history_poll_ms: int = 5
    #: Records of the histories taken in one turn: bounds how long a restore keeps requests waiting.
    follow_records: int = 500
    #: Between commits of answered requests.
    commit_interval_ms: int = 1_000
    #: Handing over at a rebalance or at the end: wait so long for what was produced to be acknowledged.
    drain_ms: int = 5_000
