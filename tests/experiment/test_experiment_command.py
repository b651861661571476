"""`longrank experiment` from a log's path to its report, resumed; the training half where only torch and numpy are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from infra.commands.experiment import command
from infra.errors import InfraError
from infra.experiment.settings import load_experiment
from scorer.experiment.plan import ExperimentPlan, mapping_of, plan_of
from tests.experiment.logs import random_log, write_parquet

REPOSITORY = Path(__file__).parents[2]
TRAINING = {"epochs": 1, "step_tokens": 600, "step_requests": 8, "step_targets": 60, "min_history": 8}
FEATURES = {"item_buckets": 32, "group_buckets": 8}


def _baseline(kind):
    return {"model": {"kind": kind, "d": 8, "hidden": 8}, "features": FEATURES, "training": TRAINING}


def _config(path, **more):
    content = {
        "lengths": [5, 50],
        "buckets": [0, 20],
        "draws": 50,
        "reference": "basic",
        "boosting": {"basic": {"trees": 3, "min_leaf": 2}, "strong": {"features": "strong", "trees": 3}},
        "baselines": {kind: _baseline(kind) for kind in ("pooling", "din", "two_stage")},
        "stca": {
            "STCA": {
                "model": {"d": 16, "layers": 1, "heads": 1, "head_dim": 24, "table_dim": 4},
                "features": FEATURES,
                "training": TRAINING,
            }
        },
        "averages": {"both": ["din", "STCA"]},
        **more,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _run(*arguments):
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_parquet(random_log(3, users=6, events=300, requests=60), tmp_path_factory.mktemp("log") / "another")


def test_from_a_path_to_a_report_and_nothing_is_done_twice(log, tmp_path):
    config, out = _config(tmp_path / "config.yaml"), tmp_path / "out"
    first = _run(config, "--log", log, "--out", out, "--device", "cpu")
    assert first.exit_code == 0, first.output
    found = json.loads((out / "report" / "report.json").read_text())
    assert found["scorers"] == ["basic", "strong", "pooling", "din", "two_stage", "STCA", "both"]
    assert found["missing"] == []
    assert len(found["rows"]) == 7 * 2 * 2 * 2
    page = (out / "report" / "report.html").read_text()
    assert "Rankers compared on another" in page
    assert page.count("<svg") == 2
    assert (out / "report" / "gauc-all.png").stat().st_size > 1_000
    scores = sorted((out / "scores").rglob("*.npy"))
    assert len(scores) == 6 * 4
    made = [path.stat().st_mtime_ns for path in scores]

    changed = _config(config, boosting={"basic": {"trees": 4, "min_leaf": 2}})
    second = _run(changed, "--log", log, "--out", out, "--device", "cpu")
    assert second.exit_code == 0, second.output
    # Only what the change concerns was made, beside the old.
    assert [path.stat().st_mtime_ns for path in scores] == made
    assert len(list((out / "scores").rglob("*.npy"))) == len(scores) + 4


def test_the_report_says_what_has_no_scores_yet(log, tmp_path):
    config, out = _config(tmp_path / "config.yaml"), tmp_path / "out"
    stages = [part for stage in ("prepare", "boosting", "report") for part in ("--stage", stage)]
    done = _run(config, "--log", log, "--out", out, *stages)
    assert "no scores yet: pooling, din, two_stage, STCA, both" in done.output
    alone = CliRunner().invoke(command, [str(config), "--out", str(out), "--stage", "train"])
    assert alone.exit_code == 1
    assert "python -m scorer.experiment.run" in alone.output


def test_training_needs_torch_and_numpy_alone(log, tmp_path):
    config, out = _config(tmp_path / "config.yaml"), tmp_path / "out"
    _run(config, "--log", log, "--out", out, "--stage", "prepare")
    # What the machine that trains does not have cannot be imported; protobuf is there wherever our schemas are.
    code = (
        "import sys\n"
        "for gone in ('pydantic', 'pyarrow', 'sklearn', 'yaml', 'rich', 'click', 'pandas', 'matplotlib', 'kafka'):\n"
        "    sys.modules[gone] = None\n"
        "from scorer.experiment.run import main\n"
        f"main(['--arrays', {str(out / 'arrays')!r}, '--config', {str(out / 'plan.json')!r}, "
        f"'--out', {str(out)!r}, '--device', 'cpu', '--only', 'pooling', 'STCA'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = {path.parent.name.split("-")[0] for path in (out / "scores").rglob("test-50.npy")}
    assert kept == {"pooling", "STCA"}
    assert np.isfinite(np.load(next((out / "scores").rglob("test-50.npy")))).all()


def test_another_log_in_its_place_is_prepared_and_scored_anew(log, tmp_path):
    config, out = _config(tmp_path / "config.yaml", baselines={}, stca={}, averages={}), tmp_path / "out"
    _run(config, "--log", log, "--out", out)
    other = write_parquet(random_log(9, requests=40), tmp_path / "other")
    assert _run(config, "--log", other, "--out", out).exit_code == 0
    assert json.loads((out / "report" / "report.json").read_text())["log"] == "other"
    assert len(list((out / "scores").rglob("test-5.npy"))) == 4


def test_a_log_that_is_not_one_is_one_line(tmp_path):
    config = _config(tmp_path / "config.yaml")
    done = CliRunner().invoke(command, [str(config), "--log", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "events.parquet: no such file" in done.output


def test_arrays_alone(log, tmp_path):
    done = _run(log, "--out", tmp_path / "arrays")
    assert "300 events, 60 requests" in done.output
    assert (tmp_path / "arrays" / "meta.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": [100, 50]}, "lengths must rise"),
        ({"lengths": ["long"]}, "lengths.0"),
        ({"speed": 3}, "speed"),
        ({"boosting": {"basic": {"trees": 0}}}, "boosting.basic"),
        ({"boosting": {"basic": {"tree": 3}}}, "boosting.basic.tree"),
        ({"stca": {"STCA": {"model": {"d": 8, "width": 3}}}}, "stca.STCA.model"),
        ({"baselines": {"x": {"model": {"kind": "rnn"}}}}, "baselines.x.model.kind"),
        ({"reference": "nobody"}, "no scorer 'nobody'"),
        ({"averages": {"basic": ["din"]}}, "two scorers are called basic"),
        ({"split": {"by": "time"}}, "needs valid_from_ms and test_from_ms"),
        ({"log": 3}, "log: must be a path"),
    ],
)
def test_every_mistake_in_the_configuration_is_told_with_its_place(tmp_path, change, message):
    with pytest.raises(InfraError, match=message):
        load_experiment(_config(tmp_path / "config.yaml", **change))


@pytest.mark.parametrize("name", ["gitlog", "gitlog_time", "gitlog_small"])
def test_the_shipped_configurations_load_and_go_through_json(name):
    settings = load_experiment(REPOSITORY / "infra" / "experiment" / f"{name}.yaml")
    again = plan_of(json.loads(json.dumps(mapping_of(settings.plan))))
    assert isinstance(again, ExperimentPlan)
    assert again == settings.plan
    assert settings.log is None or settings.log.is_dir()
