"""The parts of a retrain, each alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from retrain_world import FEATURES, PRESET, MemorySource, Night, settings

from infra.cli import main
from infra.errors import InfraError
from infra.retrain.collect import label_windows
from infra.retrain.evaluation import evaluate, evaluated
from infra.retrain.export import measure_bf16, parity_cases
from infra.retrain.outcome import EXIT_CODES, Outcome, RetrainReport, StoppedError
from infra.retrain.plan import Plan, draw_plan, why_not_go_on
from infra.retrain.runs import Run, WorkDirectory
from infra.retrain.settings import ParitySettings, ShadowSettings, load_settings
from infra.retrain.shadow import distance, judge_answers, sample, serving
from scorer.export import load_weights
from scorer.landing.examples import take_examples
from scorer.landing.resolve import build_dataset
from scorer.model import STCA, model_settings
from scorer.training.dataset import RankingDataset
from scorer.training.train import new_model


@pytest.fixture(scope="module")
def dataset() -> RankingDataset:
    """Three days of it."""
    source = MemorySource(users=10)
    for _ in range(3):
        source.grow(requests_per_user=10)
    cut = take_examples(source.examples(source.bounds().offsets), {}, 0, source.now_ms)
    with source.histories() as resolver:
        built, _ = build_dataset(cut.examples, resolver, ["touch"], max_unresolved=0)
    return built


def model_of(night: Night) -> STCA:
    """What the night has trained, in torch."""
    model = new_model(model_settings(PRESET), FEATURES, ("touch",), seed=0)
    model.load_state_dict(load_weights(night.registry.load(night.report.version).path))
    return model.eval()


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "version": "v2",
        "created_ms": 1_000_000,
        "parent": "v1",
        "cold": False,
        "from_ms": 0,
        "cut_ms": 900_000,
        "topic_id": "t1",
        "offsets": {0: (0, 10)},
        "settings": settings().model_dump(mode="json"),
    }
    return Plan.model_validate(fields | changes)


def go_on(of: Plan, **changes: Any) -> str | None:
    now: dict[str, Any] = {"in_service": "v1", "now_ms": 2_000_000, "cut_ms": None, "cold": False}
    return why_not_go_on(of, settings(), **(now | changes))


def test_a_plan_is_gone_on_with_while_it_fits() -> None:
    assert go_on(plan()) is None
    assert go_on(plan(), cut_ms=900_000) is None
    assert "v0 is in service" in str(go_on(plan(), in_service="v0"))
    assert "cold start" in str(go_on(plan(), cold=True))
    assert "13.9 h ago" in str(go_on(plan(), now_ms=51_000_000))
    # Promoted already, only the report is missing: that is written whatever has changed.
    assert go_on(plan(settings={}), in_service="v2", now_ms=99_000_000) is None


def test_a_plan_begins_where_the_model_in_service_ends(the_night: Night) -> None:
    parent = the_night.registry.load(the_night.report.version)
    source = MemorySource()
    source.grow()
    now_ms = source.now_ms
    source.grow()
    bounds = source.bounds()
    warm = draw_plan(parent, bounds, settings(), now_ms=source.now_ms)
    assert warm.from_ms == now_ms
    assert all(end - first == (end - 0) // 2 for first, end in warm.offsets.values())
    cold = draw_plan(parent, bounds, settings(), now_ms=source.now_ms, cold=True)
    assert (cold.from_ms, {first for first, _ in cold.offsets.values()}) == (0, {0})
    aged = bounds._replace(offsets={partition: (end - 1, end) for partition, (_, end) in bounds.offsets.items()})
    behind = draw_plan(parent, aged, settings(), now_ms=source.now_ms, accept_hole=True)
    assert behind.offsets == aged.offsets
    with pytest.raises(InfraError, match=r"/0: 20231116-000000 was trained up to offset 36, .* with --accept-hole"):
        draw_plan(parent, aged, settings(), now_ms=source.now_ms)


def test_a_stage_output_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    run = WorkDirectory(tmp_path).begin(plan())

    def half() -> None:
        with run.replacing("dataset") as path:
            path.mkdir()
            (path / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert not (run.path / "dataset").exists()
    for content in ("one", "two"):
        with run.replacing("dataset") as path:
            path.mkdir()
            (path / content).write_text(content)
    assert [path.name for path in (run.path / "dataset").iterdir()] == ["two"]
    run.note("land", 1.5)
    again = Run(run.path)
    assert (again.seconds, again.over) == ({"land": 1.5}, False)
    again.close("{}")
    assert Run(run.path).over
    assert not (run.path / "dataset").exists()


def test_a_plan_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    run = WorkDirectory(tmp_path).begin(plan())
    (run.path / "plan.json").write_text("{}")
    result = CliRunner().invoke(main, ["retrain", "--bootstrap", "127.0.0.1:1", "--work", str(tmp_path)])
    assert result.exit_code == 1
    assert "plan.json is not readable" in result.output


def test_pruning_keeps_the_newest_and_what_is_not_over(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path)
    for number in range(5):
        run = work.begin(plan(version=f"v{number}", created_ms=number))
        if number != 1:
            run.close("{}")
    work.prune(2)
    assert [run.plan.version for run in work.runs()] == ["v1", "v3", "v4"]


@given(least=st.integers(1, 400))
def test_label_windows_are_whole_days_and_count_everything(least: int, dataset: RankingDataset) -> None:
    windows = label_windows(dataset, least)
    assert sum(window.requests for window in windows) == len(dataset)
    assert sum(window.targets for window in windows) == len(dataset.target_item_id)
    assert sum(window.positives["touch"] for window in windows) == dataset.labels.sum()
    assert all(before.last_day < after.first_day for before, after in pairwise(windows))
    assert len(windows) == 1 or min(window.requests for window in windows) >= least
    assert label_windows(dataset.select(np.empty(0, dtype=np.int64)), least) == ()


def test_the_sample_has_the_newest_requests_of_whole_users(dataset: RankingDataset) -> None:
    chosen = sample(dataset, 45)
    assert len(chosen) == 45
    assert (np.diff(chosen.request_time_ms) >= 0).all()
    assert chosen.request_time_ms[-1] == dataset.request_time_ms.max()
    counts = np.unique(chosen.user_id, return_counts=True)[1]
    assert sorted(counts.tolist()) == [15, 30]
    assert len(sample(dataset, 10_000)) == len(dataset)


def test_distance_is_that_of_the_distributions() -> None:
    low, high = np.float32([0.1, 0.2, 0.3]), np.float32([0.4, 0.5])
    assert distance(low, low) == 0
    assert distance(low, high) == distance(high, low) == 1
    assert distance(np.float32([0.1, 0.9]), np.float32([0.1, 0.2])) == 0.5


GOOD: dict[str, Any] = {
    "tasks": ("touch",),
    "scores": np.float32([[0.1], [0.2]]),
    "difference": 1e-6,
    "means": {"touch": 1.1},
    "distances": {"touch": 0.1},
    "settings": ShadowSettings(),
    "comparable": True,
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": np.float32([[0.1], [np.nan]]), "difference": math.nan}, "1 of 2 scores are not finite"),
        ({"difference": 2e-3}, "is 2.00e-03 away from what the evaluation computed"),
        ({"scores": np.float32([[0.5], [0.5]])}, "all 2 scores are 0.5"),
        ({"means": {"touch": 4.0}}, "mean score is 4.00 times"),
        ({"means": {"touch": 0.1}}, "mean score is 0.10 times"),
        ({"distances": {"touch": 0.7}}, "distribution is 0.70 away"),
    ],
)
def test_each_bound_of_the_shadow_refuses(changes: dict[str, Any], reason: str) -> None:
    (found,) = judge_answers(**(GOOD | changes))
    assert reason in found


def test_shadow_lets_good_answers_pass_and_an_untrained_model_is_no_measure() -> None:
    assert list(judge_answers(**GOOD)) == []
    far = GOOD | {"means": {"touch": 9.0}, "distances": {"touch": 0.9}, "comparable": False}
    assert list(judge_answers(**far)) == []


def test_bfloat16_is_measured_and_bounded(dataset: RankingDataset, the_night: Night) -> None:
    model = model_of(the_night)
    found = measure_bf16(model, dataset, ParitySettings(bf16_requests=20))
    assert found.requests == 20
    assert 0 < found.measured < 0.05
    assert abs(found.gauc_change["touch"]) < 0.02
    with pytest.raises(StoppedError, match="bfloat16 differs from float32") as stopped:
        measure_bf16(model, dataset, ParitySettings(bf16_requests=20, max_bf16=1e-9))
    assert stopped.value.outcome is Outcome.REFUSED


def test_a_model_whose_numbers_ran_away_is_refused_and_is_no_measure(
    tmp_path: Path, dataset: RankingDataset, the_night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, broken = model_of(the_night), model_of(the_night)
    with torch.no_grad():
        for weights in broken.parameters():
            weights.fill_(math.nan)
    served = serving(the_night.registry.load(the_night.report.version), ShadowSettings())
    run = WorkDirectory(tmp_path).begin(plan())
    with pytest.raises(StoppedError, match="1800 of 1800 probabilities are not finite"):
        evaluate(run, broken, served, dataset, max_history=50)
    evaluate(run, good, served, dataset, max_history=50)
    same = evaluated(run)
    assert same.in_service.of_task("touch").gauc == pytest.approx(same.candidate.of_task("touch").gauc, abs=1e-3)
    monkeypatch.setattr(served, "score", lambda *given: np.full((len(given[1]), 1), np.nan, np.float32))
    evaluate(run, good, served, dataset, max_history=50)
    found = evaluated(run)
    assert found.in_service.metrics == {}
    assert found.candidate.of_task("touch").gauc_requests > 200
    assert sum(int(of["gauc_requests"]) for of in found.candidate.buckets["touch"].values()) == int(
        found.candidate.metrics["touch"]["gauc_requests"]
    )
    assert sum(point.targets for point in found.candidate.calibration["touch"]) == len(dataset.target_item_id)


def test_parity_cases_are_spread_over_the_requests(dataset: RankingDataset) -> None:
    cases = parity_cases(dataset, 3)
    assert [case.request_time_ms for case in cases] == dataset.request_time_ms[[0, 149, 299]].tolist()
    assert len(parity_cases(dataset.select(np.arange(2)), 16)) == 2


def test_the_line_is_one_line_that_a_machine_can_read() -> None:
    report = RetrainReport(
        outcome=Outcome.REFUSED,
        version="v2",
        parent="v1",
        reasons=['touch: gAUC 0.5 is "low"', "a line\nbreak"],
        metrics={"touch.gauc": 0.5, "touch.log_loss": 0.1},
        seconds={"land": 1.0, "train": 2.0},
    )
    line = report.line()
    assert line.startswith("retrain: outcome=refused version=v2 parent=v1 touch.gauc=0.5000 seconds=3.0 reason=")
    assert "\n" not in line
    reason, _ = json.JSONDecoder().raw_decode(line[line.index("reason=") + len("reason=") :])
    assert reason == "; ".join(report.reasons)
    assert json.loads(report.as_json())["parity"] is None
    assert "published" not in replace(report, outcome=Outcome.PROMOTED).line()


def invoke(work: Path, *more: str) -> tuple[int, str]:
    argv = ["retrain", "--bootstrap", "127.0.0.1:1", "--work", str(work), "--registry", str(work / "registry"), *more]
    result = CliRunner().invoke(main, argv)
    return result.exit_code, result.stdout.splitlines()[-1]


def test_an_error_is_the_last_line_too(tmp_path: Path) -> None:
    code, line = invoke(tmp_path)
    assert (code, line.split()[:2]) == (1, ["retrain:", "outcome=error"])
    assert "no bundle in service" in line
    assert json.loads(invoke(tmp_path, "--json")[1])["outcome"] == "error"
    with WorkDirectory(tmp_path).locked():
        code, line = invoke(tmp_path)
    assert (code, line.split()[1]) == (5, "outcome=locked")


def test_exit_codes_are_told_apart() -> None:
    assert sorted(EXIT_CODES.values()) == [0, 1, 3, 4, 5]
    told = CliRunner().invoke(main, ["retrain", "--help"]).output
    for code in ("0 promoted", "1 an error", "3 too few", "4 trained and refused", "5 another run"):
        assert code in " ".join(told.split())


def test_settings_name_the_place_of_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text("shadow: {requests: 0}\n")
    with pytest.raises(Exception, match=r"shadow\.requests: Input should be greater than or equal to 1"):
        load_settings(path)
