"""How users who came together are spread out in time: a pure function of the user."""

from __future__ import annotations

from typing import Final

_MASK_64: Final = (1 << 64) - 1


def share_of(user_id: int) -> float:
    """A user's own number from 0 up to 1 (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (user_id + 0x9E3779B97F4A7C15) & _MASK_64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK_64
    return (z ^ z >> 31) / (_MASK_64 + 1)
