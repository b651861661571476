"""The exported graphs compute what torch computes, for every size, and a bundle says what is in it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from schemas.settings import from_mapping
from scorer.export import ParityError, export_bundle, load_weights, torch_probabilities
from scorer.export.bundle import WEIGHTS_NAME
from scorer.export.parity import measure_parity, synthetic_cases
from scorer.features import FeatureSettings, HistoryHead, featurise_history, featurise_targets
from scorer.model import STCA, ModelSettings
from scorer.registry.manifest import ENCODE_GRAPH, MANIFEST_NAME, SCORE_GRAPH, Manifest

FEATURES = FeatureSettings(item_buckets=64, group_buckets=16, code_bits=16)
SMALL = ModelSettings(d=16, layers=2, heads=2, head_dim=24, table_dim=4)
TASKS = ("click", "like")


def random_model(seed: int) -> STCA:
    torch.manual_seed(seed)
    model = STCA(SMALL, FEATURES, TASKS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def export(model: STCA, directory: Path, tolerance: float = 1e-5) -> Manifest:
    return export_bundle(
        model,
        directory,
        version="v1",
        preset="small",
        created_ms=1,
        code_version="test",
        max_history=1_000,
        tolerance=tolerance,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "v1"
    export(random_model(0), directory)
    return directory


def test_the_manifest_names_every_file_and_what_was_measured(bundle: Path) -> None:
    manifest = Manifest.model_validate_json((bundle / MANIFEST_NAME).read_text())
    assert set(manifest.files) == {ENCODE_GRAPH, SCORE_GRAPH, WEIGHTS_NAME}
    assert {path.name for path in bundle.iterdir()} == {*manifest.files, MANIFEST_NAME}
    for name, digest in manifest.files.items():
        assert sha256((bundle / name).read_bytes()).hexdigest() == digest
    assert manifest.tasks == TASKS
    assert from_mapping(FeatureSettings, manifest.features) == FEATURES
    assert manifest.tolerance.measured <= manifest.tolerance.absolute


@pytest.mark.parametrize("seed", [11, 12])
def test_the_graphs_agree_with_torch_on_other_requests(bundle: Path, seed: int) -> None:
    measured = measure_parity(random_model(0), bundle / ENCODE_GRAPH, bundle / SCORE_GRAPH, synthetic_cases(seed))
    assert measured < 1e-5


def test_the_inputs_of_the_graphs_are_the_features_by_name(bundle: Path) -> None:
    case = synthetic_cases(1)[3]
    head = HistoryHead.of(case.history, case.first_seq_no)
    history = featurise_history(case.history, case.first_seq_no, head, FEATURES)
    targets = featurise_targets(case.item_ids, case.group_ids, case.request_time_ms, head, FEATURES)
    sessions = [
        ort.InferenceSession(bundle / graph, providers=["CPUExecutionProvider"])
        for graph in (ENCODE_GRAPH, SCORE_GRAPH)
    ]
    encode_names, score_names = ([value.name for value in session.get_inputs()] for session in sessions)
    assert set(encode_names) == set(history)
    assert set(score_names) == {*targets, "keys", "values"}
    assert [value.name for value in sessions[0].get_outputs()] == ["keys", "values"]
    assert [value.name for value in sessions[1].get_outputs()] == ["probabilities"]


def test_other_weights_are_noticed(bundle: Path) -> None:
    measured = measure_parity(random_model(1), bundle / ENCODE_GRAPH, bundle / SCORE_GRAPH, synthetic_cases(7))
    assert measured > 1e-2


def test_a_difference_above_the_tolerance_leaves_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="allowed are 0"):
        export(random_model(0), tmp_path / "v2", tolerance=0.0)
    assert not (tmp_path / "v2" / MANIFEST_NAME).exists()


def test_parity_refuses_what_is_not_finite(bundle: Path) -> None:
    broken = random_model(0)
    with torch.no_grad():
        broken.heads[0].logits.bias[0] = torch.nan
    with pytest.raises(ParityError, match="not finite"):
        measure_parity(broken, bundle / ENCODE_GRAPH, bundle / SCORE_GRAPH, synthetic_cases(7))


def test_a_warm_start_gets_the_very_weights(bundle: Path) -> None:
    original, fresh = random_model(0).state_dict(), random_model(1)
    fresh.load_state_dict(load_weights(bundle))
    for name, tensor in fresh.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), original[name].numpy())


def test_what_is_not_there_or_not_empty_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="not empty"):
        export(random_model(0), bundle)
    with pytest.raises(FileNotFoundError, match="not start a training"):
        load_weights(tmp_path)


def test_the_graphs_do_not_tell_where_they_were_exported(bundle: Path) -> None:
    for graph in (ENCODE_GRAPH, SCORE_GRAPH):
        assert b".py" not in (bundle / graph).read_bytes()


def test_bfloat16_is_near_and_not_the_same() -> None:
    model, cases = random_model(0), synthetic_cases(3)
    for full, half in zip(torch_probabilities(model, cases), torch_probabilities(model, cases, bf16=True), strict=True):
        assert full.shape == half.shape
        assert 0 < np.abs(full - half).max() < 0.05
