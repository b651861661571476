"""What the features mean; travels in the bundle's manifest, so that serving computes what training computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from schemas.settings import require

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS

#: Columns of `engagement`: watched?, log watch time, duration known?, share watched.
ENGAGEMENT_WIDTH: Final = 4
#: Columns of `request_context`: history?, log seq_no, log age of the newest event, hour and weekday as angles.
CONTEXT_WIDTH: Final = 7
#: Hashes of an id into its table.
HASHES: Final = 2
#: Bits of one hash; a longer code takes several.
HASH_BITS: Final = 64


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """A change of any field changes the graphs' inputs or their meaning and needs training afresh.

    Raises:
        ValueError: a field is out of range.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    #: Rows of the trained tables, 2 and up; row 0 means "none".
    item_buckets: int = 16_384
    group_buckets: int = 4_096
    #: Signs in an id's fixed random code, a multiple of 8. Equal ids have equal codes, others are nearly orthogonal:
    #: a match is visible for an id that was never trained.
    code_bits: int = 64
    #: Codes 1 .. n - 1 have a row each; 0 (unspecified) and anything beyond share row 0.
    actions: int = 32
    surfaces: int = 64
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
    seed: int = 1

    def __post_init__(self) -> None:
        require(min(self.item_buckets, self.group_buckets) >= 2, "item_buckets and group_buckets must be 2 or more")
        require(self.code_bits >= 8 and self.code_bits % 8 == 0, "code_bits must be a positive multiple of 8")
        require(self.code_bits <= HASH_BITS or self.code_bits % HASH_BITS == 0, "code_bits above 64: multiples of 64")
        require(min(self.actions, self.surfaces) >= 1, "actions and surfaces must be 1 or more")
        require(
            min((*self.time_scales_ms, *self.rank_scales), default=1) > 0,
            "time_scales_ms and rank_scales must be positive",
        )
        require(0 <= self.seed < 1 << 32, "seed must be in [0, 2^32)")

    @property
    def terms(self) -> int:
        """Columns of `terms`: one constant, the time scales, the rank scales."""
        return 1 + len(self.time_scales_ms) + len(self.rank_scales)
