"""Settings from a mapping: what is wrong is told by name."""

from __future__ import annotations

import pytest

from schemas.settings import from_mapping, to_mapping
from scorer.features import FeatureSettings
from scorer.training.settings import TrainingSettings


def test_there_and_back() -> None:
    settings = FeatureSettings(code_bits=128, rank_scales=(3, 9))
    assert from_mapping(FeatureSettings, to_mapping(settings)) == settings
    assert from_mapping(TrainingSettings, {"learning_rate": 1, "length_beta": [1, 2.5]}).length_beta == (1, 2.5)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"code_bit": 8}, "unknown code_bit"),
        ({"code_bits": 64.0}, "code_bits is 64.0, must be a int"),
        ({"seed": True}, "seed is True"),
        ({"item_buckets": "16384"}, "item_buckets is '16384'"),
        ({"rank_scales": 3}, "rank_scales is 3, must be a tuple"),
        ({"rank_scales": [2, "6"]}, r"rank_scales\[1\] is '6'"),
        ({"code_bits": 12}, "multiple of 8"),
    ],
)
def test_a_mistake_is_told_by_name(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(FeatureSettings, mapping)


@pytest.mark.parametrize("name", ["learning_rate", "table_learning_rate", "listwise_weight", "weight_decay"])
def test_not_a_number_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TrainingSettings(**{name: float("nan")})
