"""Integer arrays in a compressed .npz, in half of what zlib makes of them as they are.

Each array is divided by what all its values have in common (times in whole seconds), stored as differences where
neighbours are alike, and laid out by byte: all lowest bytes, then all second ones, so that zlib finds the zeros and
the repetitions of the high ones. Loading gives the very same arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], differences: Collection[str] = ()) -> None:
    """Writes integer arrays of one dimension; those named in `differences` as such.

    Raises:
        ValueError: another kind of array.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"{path}: {name} is {array.dtype} {array.shape}, only integers of one dimension fit here")
        values = array.astype(np.int64)
        if name in differences:
            values = np.diff(values, prepend=0)
        unit = int(np.gcd.reduce(values)) or 1
        # Zigzag: small negative numbers have few bits, too.
        values //= unit
        zigzag = ((values << 1) ^ (values >> 63)).astype("<u8")
        planes = zigzag.view(np.uint8).reshape(-1, 8).T
        used = max(1, int(np.flatnonzero(planes.any(axis=1)).max(initial=0)) + 1)
        packed[name] = np.ascontiguousarray(planes[:used])
        packed[f"{name}.meta"] = np.array([unit, int(name in differences)], dtype=np.int64)
        packed[f"{name}.dtype"] = np.array(array.dtype.str)
    np.savez_compressed(path, **packed)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What `save_arrays` wrote, by name.

    Raises:
        FileNotFoundError: there is no such file.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with np.load(path, allow_pickle=False) as packed:
        for name in packed.files:
            if name.endswith((".meta", ".dtype")):
                continue
            planes = packed[name]
            as_bytes = np.zeros((planes.shape[1], 8), dtype=np.uint8)
            as_bytes[:, : len(planes)] = planes.T
            zigzag = as_bytes.reshape(-1).view("<u8")
            values = (zigzag >> np.uint64(1)).astype(np.int64) ^ -(zigzag & np.uint64(1)).astype(np.int64)
            unit, differences = packed[f"{name}.meta"].tolist()
            values *= unit
            if differences:
                values = np.cumsum(values)
            arrays[name] = values.astype(np.dtype(str(packed[f"{name}.dtype"])))
    return arrays
