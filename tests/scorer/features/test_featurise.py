"""Features: token-wise, stable, and products where the attention terms need products."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.history import HAS_DURATION, HAS_GROUP, HAS_WATCH, HISTORY_DTYPE, History
from scorer.features import FeatureSettings, HistoryHead, featurise_history, featurise_targets, rebase_terms
from scorer.features.hashing import mix, sign_codes, table_rows

SETTINGS = FeatureSettings()
NEWEST = 1_700_000_000_000


def random_history(length: int, seed: int) -> History:
    rng = np.random.default_rng(seed)
    history = np.zeros(length, dtype=HISTORY_DTYPE)
    history["event_time_ms"] = NEWEST - rng.integers(0, 10**10, length)
    for name, high in (("item_id", 2**63), ("group_id", 2**63), ("action", 100), ("surface", 100), ("watch_ms", 10**6)):
        history[name] = rng.integers(0, high, length)
    history["duration_ms"] = rng.integers(0, 10**5, length)
    history["fields"] = rng.integers(0, 16, length)
    return history


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, 30), cut=st.integers(0, 30), first=st.integers(1, 10**6), seed=st.integers(0, 99))
def test_the_features_of_a_suffix_are_the_suffix_of_the_features(length: int, cut: int, first: int, seed: int) -> None:
    history, cut = random_history(length, seed), min(cut, length)
    head = HistoryHead.of(history, first)
    whole = featurise_history(history, first, head, SETTINGS)
    suffix = featurise_history(history[cut:], first + cut, head, SETTINGS)
    assert whole.keys() == suffix.keys()
    for name, array in whole.items():
        assert len(array) == length
        np.testing.assert_array_equal(array[cut:], suffix[name])


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 30), first=st.integers(1, 10**6), wait=st.integers(0, 10**11), seed=st.integers(0, 99))
def test_the_product_of_both_factors_decays_with_age_and_rank(length: int, first: int, wait: int, seed: int) -> None:
    history = random_history(length, seed)
    head = HistoryHead.of(history, first)
    request_ms = head.newest_ms + wait
    factors = featurise_history(history, first, head, SETTINGS)["terms"]
    ids = np.ones(1, dtype=np.uint64)
    terms = factors * featurise_targets(ids, ids, request_ms, head, SETTINGS)["request_terms"]
    ages = (request_ms - history["event_time_ms"])[:, None] / np.array(SETTINGS.time_scales_ms)
    ranks = np.arange(length)[::-1, None] / np.array(SETTINGS.rank_scales)
    expected = np.exp(-np.hstack([np.zeros((length, 1)), ages, ranks]))
    np.testing.assert_allclose(terms, expected, rtol=1e-5, atol=1e-30)
    assert factors.max() <= 1


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 30), more=st.integers(0, 10), seed=st.integers(0, 99))
def test_kept_terms_follow_a_moving_head(length: int, more: int, seed: int) -> None:
    history = random_history(length + more, seed)
    history["event_time_ms"].sort()
    old, new = HistoryHead.of(history[:length], 1), HistoryHead.of(history, 1)
    kept = featurise_history(history[:length], 1, old, SETTINGS)["terms"]
    fresh = featurise_history(history[:length], 1, new, SETTINGS)["terms"]
    np.testing.assert_allclose(kept * rebase_terms(old, new, SETTINGS), fresh, rtol=1e-5, atol=1e-30)


def test_a_head_before_an_event_is_refused() -> None:
    history = random_history(4, 0)
    newest = HistoryHead.of(history, 1)
    for head in (
        HistoryHead(newest_ms=newest.newest_ms - 1, seq_no=4),
        HistoryHead(newest_ms=newest.newest_ms, seq_no=3),
    ):
        with pytest.raises(ValueError, match="lie after"):
            featurise_history(history, 1, head, SETTINGS)


def test_a_request_before_the_newest_event_counts_as_at_it() -> None:
    head = HistoryHead(newest_ms=NEWEST, seq_no=7)
    ids = np.ones(1, dtype=np.uint64)
    early, at = (featurise_targets(ids, ids, NEWEST - late, head, SETTINGS)["request_terms"] for late in (10**9, 0))
    np.testing.assert_array_equal(early, at)
    np.testing.assert_array_equal(at, 1)


def test_an_empty_history_has_empty_features_and_a_request_of_its_own() -> None:
    empty = random_history(0, 0)
    head = HistoryHead.of(empty, 1)
    assert head == HistoryHead(newest_ms=0, seq_no=0)
    assert {len(array) for array in featurise_history(empty, 1, head, SETTINGS).values()} == {0}
    ids = np.ones(1, dtype=np.uint64)
    assert featurise_targets(ids, ids, NEWEST, head, SETTINGS)["request_context"][:3].tolist() == [0, 0, 0]


def test_a_missing_group_has_row_zero_and_no_code_and_so_matches_nothing() -> None:
    history = random_history(3, 1)
    history["fields"] = (HAS_GROUP, 0, HAS_GROUP)
    history["group_id"] = (5, 5, 0)
    features = featurise_history(history, 1, HistoryHead.of(history, 1), SETTINGS)
    assert features["group_rows"][0].all()
    assert not features["group_rows"][1:].any()
    assert np.abs(features["group_code"]).sum(axis=1).tolist() == [SETTINGS.code_bits, 0, 0]


def test_an_id_has_the_same_features_in_the_history_and_among_the_candidates() -> None:
    history = random_history(20, 2)
    history["fields"] = HAS_GROUP
    head = HistoryHead.of(history, 1)
    events = featurise_history(history, 1, head, SETTINGS)
    targets = featurise_targets(history["item_id"], history["group_id"], NEWEST, head, SETTINGS)
    for name in ("item_rows", "group_rows", "item_code", "group_code"):
        np.testing.assert_array_equal(events[name], targets[f"target_{name}"])


def test_codes_beyond_the_table_share_the_row_of_the_unspecified() -> None:
    history = random_history(4, 3)
    history["action"] = (0, 1, SETTINGS.actions - 1, SETTINGS.actions)
    history["surface"] = (2**32 - 1, 1, 0, SETTINGS.surfaces)
    features = featurise_history(history, 1, HistoryHead.of(history, 1), SETTINGS)
    assert features["action_row"].tolist() == [0, 1, SETTINGS.actions - 1, 0]
    assert features["surface_row"].tolist() == [0, 1, 0, 0]


def test_engagement_tells_absent_from_zero_and_survives_a_video_of_no_length() -> None:
    history = random_history(4, 4)
    history["fields"] = (0, HAS_WATCH, HAS_WATCH | HAS_DURATION, HAS_WATCH | HAS_DURATION)
    history["watch_ms"] = (0, 0, 5_000, 5_000)
    history["duration_ms"] = (0, 0, 10_000, 0)
    engagement = featurise_history(history, 1, HistoryHead.of(history, 1), SETTINGS)["engagement"]
    assert engagement[:, 0].tolist() == [0, 1, 1, 1]
    assert engagement[:, 3].tolist() == [0, 0, 0.5, 0]


def test_hashes_are_those_of_splitmix64_and_will_stay() -> None:
    # The first outputs of the generator seeded with 0: published test vectors.
    assert [int(mix(np.zeros(1, dtype=np.uint64), stream)[0]) for stream in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=20), buckets=st.integers(2, 1_000))
def test_rows_are_inside_the_table_and_never_the_row_of_none(ids: list[int], buckets: int) -> None:
    rows = table_rows(np.array(ids, dtype=np.uint64), buckets, hashes=2, stream=0)
    assert rows.min() >= 1
    assert rows.max() < buckets


def test_codes_of_different_ids_are_nearly_orthogonal() -> None:
    codes = sign_codes(np.arange(1, 401, dtype=np.uint64), 64, stream=5).astype(np.int64)
    products = codes @ codes.T
    assert (np.diag(products) == 64).all()
    others = products[~np.eye(400, dtype=bool)]
    # Sums of 64 random signs: mean 0, standard deviation 8.
    assert abs(others.mean()) < 0.2
    assert abs(others.std() - 8) < 0.2


def test_another_seed_gives_other_features() -> None:
    ids = np.arange(1, 50, dtype=np.uint64)
    head = HistoryHead(newest_ms=0, seq_no=0)
    one, two = (featurise_targets(ids, ids, 0, head, FeatureSettings(seed=seed)) for seed in (1, 2))
    assert (one["target_item_rows"] != two["target_item_rows"]).mean() > 0.9
    assert 0.4 < (one["target_item_code"] == two["target_item_code"]).mean() < 0.6


def test_serving_gets_features_without_torch() -> None:
    program = "import sys, scorer.features, scorer.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
