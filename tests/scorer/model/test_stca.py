"""The model's properties, on random weights: every one of them is what serving builds on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from scorer.export.graphs import tensors
from scorer.export.parity import ParityCase, synthetic_cases
from scorer.features import FeatureSettings, HistoryHead, featurise_history, featurise_targets, rebase_terms
from scorer.metrics import auc
from scorer.model import PRESETS, STCA, ModelSettings, model_settings

FEATURES = FeatureSettings(item_buckets=64, group_buckets=16, code_bits=32)
SMALL = ModelSettings(d=16, layers=3, heads=2, head_dim=24, table_dim=4)
CASES = synthetic_cases(seed=1)
LONG = max(CASES, key=lambda case: len(case.history))


@pytest.fixture(scope="module")
def model() -> STCA:
    torch.manual_seed(0)
    model = STCA(SMALL, FEATURES, ("click", "like")).eval()
    with torch.no_grad():
        # As after training: nothing is near zero, terms and tables count.
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def encode(model: STCA, case: ParityCase) -> tuple[Tensor, Tensor]:
    head = HistoryHead.of(case.history, case.first_seq_no)
    with torch.no_grad():
        return model.encode(tensors(featurise_history(case.history, case.first_seq_no, head, FEATURES)))


def score(model: STCA, case: ParityCase, encoded: tuple[Tensor, Tensor] | None = None) -> Tensor:
    head = HistoryHead.of(case.history, case.first_seq_no)
    features = featurise_targets(case.item_ids, case.group_ids, case.request_time_ms, head, FEATURES)
    with torch.no_grad():
        return model.score(tensors(features), *(encode(model, case) if encoded is None else encoded))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"L{len(case.history)}-m{len(case.item_ids)}")
def test_any_length_and_any_number_of_targets_gives_a_finite_logit_per_task(model: STCA, case: ParityCase) -> None:
    logits = score(model, case)
    assert logits.shape == (len(case.item_ids), 2)
    assert torch.isfinite(logits).all()


def test_candidates_do_not_affect_each_other(model: STCA) -> None:
    together = score(model, LONG)
    for i in range(len(LONG.item_ids)):
        alone = replace(LONG, item_ids=LONG.item_ids[i : i + 1], group_ids=LONG.group_ids[i : i + 1])
        torch.testing.assert_close(score(model, alone)[0], together[i], rtol=1e-4, atol=1e-4)


def test_the_order_of_the_rows_does_not_matter_once_time_and_number_are_in_them(model: STCA) -> None:
    keys, values = encode(model, LONG)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(LONG.history)))
    permuted = score(model, LONG, (keys[:, order], values[:, order]))
    torch.testing.assert_close(permuted, score(model, LONG), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", [0, 1, 350, 699, 700])
def test_appending_to_kept_keys_and_values_equals_computing_them_at_once(model: STCA, kept: int) -> None:
    before = replace(LONG, history=LONG.history[:kept])
    old, new = (HistoryHead.of(case.history, case.first_seq_no) for case in (before, LONG))
    moved = torch.ones(SMALL.head_dim)
    if kept:
        moved[-FEATURES.terms :] = torch.from_numpy(rebase_terms(old, new, FEATURES))
    fresh = featurise_history(LONG.history[kept:], LONG.first_seq_no + kept, new, FEATURES)
    with torch.no_grad():
        appended = model.encode(tensors(fresh))
    joined = [torch.cat([one * moved, two], dim=1) for one, two in zip(encode(model, before), appended, strict=True)]
    torch.testing.assert_close(score(model, LONG, (joined[0], joined[1])), score(model, LONG), rtol=1e-4, atol=1e-4)


def test_history_matters_and_so_do_its_times_and_the_time_of_the_request(model: STCA) -> None:
    scores = score(model, LONG)
    older = LONG.history.copy()
    older["event_time_ms"][: len(older) // 2] -= 10**9
    for changed in (
        replace(LONG, history=LONG.history[300:], first_seq_no=LONG.first_seq_no + 300),
        replace(LONG, history=older),
        replace(LONG, request_time_ms=LONG.request_time_ms + 5 * 86_400_000),
    ):
        assert (score(model, changed) - scores).abs().max() > 1e-3


def test_a_match_is_visible_to_a_model_that_was_never_trained() -> None:
    torch.manual_seed(3)
    fresh = STCA(PRESETS["tiny"], FeatureSettings(), ("touch",)).eval()
    history = LONG.history.copy()
    head = HistoryHead.of(history, 1)
    touched, others = np.unique(history["item_id"])[:100], np.arange(10**6, 10**6 + 100, dtype=np.uint64)
    ids = np.concatenate([touched, others])
    groups = np.zeros(len(ids), dtype=np.uint64)
    targets = tensors(featurise_targets(ids, groups, LONG.request_time_ms, head, FeatureSettings()))
    history_features = tensors(featurise_history(history, 1, head, FeatureSettings()))
    with torch.no_grad():
        layer = fresh.cross_attentions()[0]
        content, _ = layer.queries(fresh.embedding.targets(targets))
        keys, _ = fresh.encode_content(history_features)
        logits_HML = content.transpose(0, 1) @ keys[0].permute(1, 2, 0)
    best = logits_HML.amax(dim=-1).mean(0).numpy()
    assert auc(np.repeat([1, 0], 100), best) > 0.8


def test_every_preset_builds_and_its_name_is_its_size() -> None:
    # By name: other tests may add a preset of their own.
    for name in ("tiny", "6m", "23m", "133m"):
        with torch.device("meta"):
            big = STCA(PRESETS[name], FeatureSettings(), ("touch",))
        tables = sum(p.numel() for n, p in big.named_parameters() if n.endswith("_table.weight"))
        millions = (sum(p.numel() for p in big.parameters()) - tables) / 1e6
        if name != "tiny":
            assert 0.7 < millions / float(name.removesuffix("m")) < 1.3, (name, millions)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        STCA(replace(SMALL, head_dim=FEATURES.terms), FEATURES, ("click",))
    with pytest.raises(ValueError, match="not divisible"):
        STCA(replace(SMALL, d=18), FEATURES, ("click",))
    with pytest.raises(ValueError, match="at least one task"):
        STCA(SMALL, FEATURES, ())
    with pytest.raises(ValueError, match="positive"):
        replace(SMALL, heads=0)
    with pytest.raises(ValueError, match="there are tiny"):
        model_settings("huge")
