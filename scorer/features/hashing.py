"""Ids to table rows and to random codes: SplitMix64's finaliser, vectorised, the same on every machine.

Formula: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (the `mix64` variant 13).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_GOLDEN: Final = 0x9E3779B97F4A7C15
#: Between the streams of a long code's 64-bit words: beyond every stream of `FeatureSettings.seed`.
_CODE_STREAMS: Final = 1 << 40
_MASK: Final = (1 << 64) - 1


def mix(ids: NDArray[np.uint64], stream: int) -> NDArray[np.uint64]:
    """64 well-mixed bits for each id, independent for each `stream` (any non-negative integer); same shape."""
    z = ids.astype(np.uint64) + np.uint64((stream + 1) * _GOLDEN & _MASK)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def table_rows(ids: NDArray[np.uint64], buckets: int, hashes: int, stream: int) -> NDArray[np.int64]:
    """Rows [n, hashes] in 1 .. buckets - 1 for ids [n]; row 0 for id 0, which means "none"."""
    rows = np.empty((len(ids), hashes), dtype=np.int64)
    for k in range(hashes):
        rows[:, k] = (mix(ids, stream + k) % np.uint64(buckets - 1)).astype(np.int64) + 1
    rows[ids == 0] = 0
    return rows


def sign_codes(ids: NDArray[np.uint64], bits: int, stream: int) -> NDArray[np.int8]:
    """Codes [n, bits] of +1 and -1 for ids [n]; all 0 for id 0, so that two absent ids do not look like a match."""
    # The first 64 bits are those of the stream itself; the further ones come from streams that nothing else uses.
    words = [mix(ids, stream if i == 0 else stream + i * _CODE_STREAMS) for i in range(max(1, bits // 64))]
    as_bytes = np.stack(words, axis=1).astype("<u8").view(np.uint8).reshape(len(ids), 8 * len(words))[:, : bits // 8]
    signs = (np.unpackbits(as_bytes, axis=1) << 1).astype(np.int8) - np.int8(1)
    signs[ids == 0] = 0
    return signs
