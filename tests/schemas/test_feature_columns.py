"""Features as logged: every rule, with the name of the feature that breaks it."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.feature_columns import check_feature_columns
from schemas.limits import Limits
from schemas.reasons import Reason, Rejected
from schemas.v1.ranking_pb2 import FeatureColumn

LIMITS = Limits(max_features=2)


def floats(*values: float) -> bytes:
    return np.asarray(values, "<f4").tobytes()


def codes(*values: int) -> bytes:
    return np.asarray(values, "<i8").tobytes()


def test_what_is_good() -> None:
    good = [FeatureColumn(name="price", float32=floats(1, 2.5)), FeatureColumn(name="kind", int64=codes(-1, 7))]
    check_feature_columns("features", good, 2, LIMITS)
    check_feature_columns("features", [], 2, LIMITS)


@pytest.mark.parametrize(
    "columns",
    [
        [FeatureColumn(name="a", int64=codes(1, 2))] * 3,
        [FeatureColumn(name="a", int64=codes(1, 2)), FeatureColumn(name="a", int64=codes(1, 2))],
        [FeatureColumn(name="", int64=codes(1, 2))],
        [FeatureColumn(name="a" * 65, int64=codes(1, 2))],
        [FeatureColumn(name="ä", int64=codes(1, 2))],
        [FeatureColumn(name="a")],
        [FeatureColumn(name="a", int64=codes(1))],
        [FeatureColumn(name="a", int64=codes(1, 2, 3))],
        [FeatureColumn(name="a", float32=floats(1, 2, 3))],
        [FeatureColumn(name="a", int64=codes(1, 2), float32=floats(1, 2))],
        [FeatureColumn(name="a", float32=floats(1, float("nan")))],
        [FeatureColumn(name="a", float32=floats(float("inf"), 1))],
    ],
)
def test_what_is_refused(columns: list[FeatureColumn]) -> None:
    with pytest.raises(Rejected, match="features") as refused:
        check_feature_columns("features", columns, 2, LIMITS)
    assert refused.value.reason == Reason.MALFORMED_COLUMNS
