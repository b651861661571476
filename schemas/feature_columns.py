"""What the named features of candidates and requests must satisfy. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from schemas.limits import Limits
from schemas.reasons import Reason, Rejected
from schemas.v1.ranking_pb2 import FeatureColumn

_MAX_NAME: Final = 64
_INT64_BYTES: Final = 8
_FLOAT32_BYTES: Final = 4


def check_feature_columns(field: str, columns: Sequence[FeatureColumn], values: int, limits: Limits) -> None:
    """`columns` of `values` values each.

    Raises:
        Rejected: malformed_columns, with the feature's name.
    """
    if len(columns) > limits.max_features:
        raise Rejected(Reason.MALFORMED_COLUMNS, f"{field} has {len(columns)} features, above {limits.max_features}")
    names: set[str] = set()
    for column in columns:
        name = column.name
        if not 1 <= len(name) <= _MAX_NAME or not name.isascii() or name in names:
            raise Rejected(
                Reason.MALFORMED_COLUMNS,
                f"{field} {name[:80]!r} is there twice or not 1 to {_MAX_NAME} ASCII characters",
            )
        names.add(name)
        if (len(column.int64), len(column.float32)) not in ((values * _INT64_BYTES, 0), (0, values * _FLOAT32_BYTES)):
            raise Rejected(
                Reason.MALFORMED_COLUMNS,
                f"{field} {name} has {len(column.int64)} bytes of int64 and {len(column.float32)} of float32, not one"
                f" column of {values}",
            )
        if not np.isfinite(np.frombuffer(column.float32, "<f4")).all():
            raise Rejected(Reason.MALFORMED_COLUMNS, f"{field} {name} holds a value that is not finite")
