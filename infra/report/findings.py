"""The figures of one run of the loop, as measured; everything the report shows comes from here."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quality(_Frozen):
    """One scorer on one set of later requests."""

    scorer: str
    #: Newest events of a history that the scorer saw, "all" without a cut.
    history: str
    requests: int
    auc: float
    gauc: float


class Account(_Frozen):
    """One kind of disturbance or record: what was sent and what the system made of it."""

    what: str
    sent: int
    found: int
    #: Where `found` was counted.
    counted_in: str
    #: More than was meant to be sent may be found: a broker that died before it answered got a batch twice.
    at_least: bool = False

    @property
    def balances(self) -> bool:
        """Every one is accounted for."""
        return self.found >= self.sent if self.at_least else self.found == self.sent


class RunReport(_Frozen):
    """One run of the whole loop. Times in the units of their names."""

    log: str
    log_events: int
    log_requests: int
    users: int
    seed: int
    model_versions: tuple[str, str]
    seconds_by_step: dict[str, float]
    events_per_second: float
    latency_ms: dict[str, float]
    bytes_per_user: dict[str, float]
    quality: tuple[Quality, ...]
    accounts: tuple[Account, ...]
    #: What was killed while it ran, and after how many events.
    kills: tuple[str, ...] = ()
    verify: dict[str, Any]
    retrain: dict[str, Any]
    #: Samples for the plots: name -> values.
    samples: dict[str, list[float]] = Field(default_factory=dict)

    def verify_line(self) -> str:
        """`verify: N responses, N examples, N mismatches`."""
        checked = self.verify["checked"]
        return (
            f"verify: {checked.get('responses', 0):,} responses, {checked.get('examples', 0):,} examples, "
            f"{self.verify['mismatches']:,} mismatches"
        )
