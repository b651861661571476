"""The engine on a real export: the stamped history and the candidates alone decide, and no device is made up."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch

from schemas.history import HAS_GROUP, HISTORY_DTYPE
from scorer.export import export_bundle
from scorer.features import FeatureSettings, HistoryHead, featurise_history, featurise_targets
from scorer.model import STCA, ModelSettings
from scorer.registry.registry import Bundle, check_bundle
from scorer.serving.engine import DeviceError, Engine

SETTINGS = ModelSettings(d=16, layers=2, heads=1, head_dim=32, table_dim=8)
FEATURES = FeatureSettings(item_buckets=64, group_buckets=32, code_bits=8)
NOW_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def model() -> STCA:
    torch.manual_seed(3)
    return STCA(SETTINGS, FEATURES, ("touch", "like")).eval()


@pytest.fixture(scope="module")
def bundle(model: STCA, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "v"
    export_bundle(model, path, version="v", preset="tiny", created_ms=0, code_version="test", max_history=100)
    return check_bundle(path)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, "cpu")


def history(length: int) -> np.ndarray:
    rows = np.zeros(length, dtype=HISTORY_DTYPE)
    rows["event_time_ms"] = NOW_MS - np.arange(length)[::-1] * 3_600_000
    rows["item_id"] = np.arange(length) % 9 + 1
    rows["group_id"] = np.arange(length) % 4 + 1
    rows["fields"] = HAS_GROUP
    return rows


def test_an_engine_says_what_its_bundle_is(engine):
    assert (engine.version, engine.tasks, engine.max_history) == ("v", ("touch", "like"), 100)


@pytest.mark.parametrize("length", [0, 1, 100])
@pytest.mark.parametrize("targets", [1, 9])
def test_probabilities_are_the_models(engine, model, length, targets):
    rows, items = history(length), np.arange(1, targets + 1, dtype=np.uint64)
    groups = items % np.uint64(3)
    found = engine.score(engine.encode(rows, 41), items, groups, NOW_MS + 5)
    head = HistoryHead.of(rows, 41)
    encoded = model.encode({k: torch.from_numpy(v) for k, v in featurise_history(rows, 41, head, FEATURES).items()})
    features = featurise_targets(items, groups, NOW_MS + 5, head, FEATURES)
    with torch.no_grad():
        logits = model.score({k: torch.from_numpy(v) for k, v in features.items()}, *encoded)
    assert found.shape == (targets, 2)
    np.testing.assert_allclose(found, torch.sigmoid(logits).detach().numpy(), atol=1e-5)


def test_one_encoding_serves_requests_at_any_time_and_candidates_do_not_see_each_other(engine):
    encoded = engine.encode(history(20), 1)
    items = np.array([3, 999, 5], dtype=np.uint64)
    together = engine.score(encoded, items, items, NOW_MS + 7)
    for at in range(3):
        alone = engine.score(engine.encode(history(20), 1), items[at : at + 1], items[at : at + 1], NOW_MS + 7)
        np.testing.assert_allclose(alone[0], together[at], atol=1e-6)


@pytest.mark.parametrize("kept", [1, 30, 100])
def test_what_is_appended_event_by_event_scores_as_what_is_encoded_at_once(engine, kept):
    # 400 events through a window of `kept`: everything that was encoded first has left it in the end.
    rows, items = history(400), np.arange(1, 6, dtype=np.uint64)
    encoded, length = engine.encode(rows[:1], 41), 1
    for end in range(2, 401):
        dropped = max(0, length + 1 - kept)
        length += 1 - dropped
        window = rows[end - length : end]
        encoded = engine.extend(encoded, dropped, rows[end - 1 : end], HistoryHead.of(window, 41 + end - length))
    afresh = engine.encode(rows[400 - length :], 41 + 400 - length)
    assert encoded.head == afresh.head
    np.testing.assert_allclose(encoded.keys, afresh.keys, atol=2e-5)
    np.testing.assert_allclose(encoded.values, afresh.values, atol=2e-5)
    warm, cold = (engine.score(each, items, items, NOW_MS + 9) for each in (encoded, afresh))
    np.testing.assert_allclose(warm, cold, atol=1e-5)


def test_an_encoding_that_is_current_is_not_copied(engine):
    encoded = engine.encode(history(20), 1)
    assert engine.extend(encoded, 0, history(0), encoded.head) is encoded


def test_terms_do_not_move_backwards(engine):
    encoded = engine.encode(history(20), 1)
    with pytest.raises(ValueError, match="lie after"):
        engine.extend(encoded, 1, history(0), HistoryHead(newest_ms=encoded.head.newest_ms - 1, seq_no=20))


def test_warming_up_runs_every_size(engine):
    engine.warm_up(lengths=(0, 1, 64), targets=4)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers() and torch.cuda.is_available(), reason="has a GPU"
)
def test_a_device_that_is_not_there_is_refused(bundle):
    with pytest.raises(DeviceError, match="--device cuda"):
        Engine(bundle, "cuda")
