"""What the features mean; travels in the bundle's manifest, so that serving computes what training computed."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS

#: Columns of `engagement`: watched?, log watch time, duration known?, share watched.
ENGAGEMENT_WIDTH: Final = 4
#: Columns of `request_context`: history?, log seq_no, log age of the newest event, hour and weekday as angles.
CONTEXT_WIDTH: Final = 7
#: Hashes of an id into its table.
HASHES: Final = 2


class FeatureSettings(BaseModel):
    """Frozen; a change of any field changes the graphs' inputs or their meaning and needs training afresh."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Rows of the trained tables; row 0 means "none".
    item_buckets: int = Field(default=16_384, ge=2)
    group_buckets: int = Field(default=4_096, ge=2)
    #: Signs in an id's fixed random code, a multiple of 8. Equal ids have equal codes, others are nearly orthogonal:
    #: a match is visible for an id that was never trained.
    code_bits: int = Field(default=64, ge=8, le=64, multiple_of=8)
    #: Codes 1 .. n - 1 have a row each; 0 (unspecified) and anything beyond share row 0.
    actions: int = Field(default=32, ge=1)
    surfaces: int = Field(default=64, ge=1)
    #: tau of the attention terms exp(-age / tau), ms.
    time_scales_ms: tuple[int, ...] = (
        3 * _HOUR_MS,
        _DAY_MS,
        4 * _DAY_MS,
        15 * _DAY_MS,
        60 * _DAY_MS,
        240 * _DAY_MS,
        1_000 * _DAY_MS,
    )
    #: rho of the attention terms exp(-rank / rho), events; rank 0 is the newest.
    rank_scales: tuple[int, ...] = (2, 6, 20, 60, 200, 600, 2_000, 6_000)
    #: Of the hashes.
    seed: int = Field(default=1, ge=0, lt=1 << 32)

    @model_validator(mode="after")
    def _scales_are_positive(self) -> FeatureSettings:
        if min((*self.time_scales_ms, *self.rank_scales), default=1) <= 0:
            raise ValueError("time_scales_ms and rank_scales must be positive")
        return self

    @property
    def terms(self) -> int:
        """Columns of `terms`: one constant, the time scales, the rank scales."""
        return 1 + len(self.time_scales_ms) + len(self.rank_scales)
