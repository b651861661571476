"""Sizes of the model by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One size. Raises ValueError for widths that do not fit together."""

    #: Width of tokens and queries.
    d: int
    #: Target-to-history layers.
    layers: int
    heads: int
    #: Width of a head's keys and values: learned content first, then one column per attention term.
    head_dim: int
    #: Hidden width of a SwiGLU FFN in multiples of d.
    ffn_ratio: int = 2
    #: The same in the final fusion and the ranking head.
    head_ratio: int = 1
    #: Width of the trained id tables; a projection lifts it to d.
    table_dim: int
    #: RankMixer blocks in the ranking head.
    mixer_blocks: int = 1
    #: Copies of the final fusion and the ranking head over the same attention outputs, each trained with a loss of its
    #: own, their logits averaged: an ensemble for the price of its heads.
    head_copies: int = 1
    #: What the paper does not have, each to be switched off for comparison: the residual in the history encoder,
    #: queries through the encoder's weights, and how much was found and how recent it is as the head's inputs.
    residual: bool = True
    tied_query: bool = True
    readout: bool = True

    def __post_init__(self) -> None:
        if min(value for value in asdict(self).values() if not isinstance(value, bool)) < 1:
            raise ValueError(f"every size must be positive: {self}")


#: Heads of 64 on the larger ones: attention kernels of a GPU run at a third of their speed at 32.
PRESETS: Final = {
    "tiny": ModelSettings(d=64, layers=2, heads=2, head_dim=64, table_dim=16),
    "6m": ModelSettings(d=256, layers=4, heads=4, head_dim=64, table_dim=32),
    "23m": ModelSettings(d=512, layers=4, heads=8, head_dim=64, table_dim=64),
    "133m": ModelSettings(d=1024, layers=6, heads=16, head_dim=64, table_dim=64),
}


def model_settings(preset: str) -> ModelSettings:
    """The settings of a preset.

    Raises:
        ValueError: no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]
