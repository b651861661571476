"""Kept scores belong to what made them; which requests boosting is fitted on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from infra.experiment.boosting import train_sample
from scorer.experiment.plan import BoostingPlan, ExperimentPlan, SplitPlan
from scorer.experiment.run import main
from scorer.experiment.store import Run, ScoreStore
from tests.experiment.logs import random_log


def _store(root, plan, log):
    log.save(root / "arrays")
    return ScoreStore(root, plan, log, root / "arrays")


def test_scores_are_found_again_only_under_the_same_settings_seed_split_and_data(tmp_path):
    log = random_log(0, requests=20)
    plan = ExperimentPlan(lengths=(5,), boosting={"trees": BoostingPlan()}, boosting_seeds=(0, 1))
    store, run = _store(tmp_path, plan, log), Run("trees", 0)
    assert store.missing(run) == [("valid", 5), ("test", 5)]
    scores = np.arange(5 * len(store.requests("test")), dtype=np.float32)
    store.save(run, "test", 5, scores)
    np.testing.assert_array_equal(store.load(run, "test", 5), scores)
    assert store.missing(run) == [("valid", 5)]
    both = [("valid", 5), ("test", 5)]
    assert store.missing(Run("trees", 1)) == both
    time = SplitPlan(by="time", valid_from_ms=int(log.request_time_ms[4]), test_from_ms=int(log.request_time_ms[6]))
    for other in (
        replace(plan, boosting={"trees": BoostingPlan(trees=7)}),
        replace(plan, split=time),
        replace(plan, event_time="event"),
    ):
        assert _store(tmp_path, other, log).missing(run) == both
    both_tests = _store(tmp_path, replace(plan, split=replace(time, logs_test_only=True)), log)
    assert (log.split[both_tests.requests("test")] == 2).all()
    assert set(both_tests.requests("test")) < set(_store(tmp_path, replace(plan, split=time), log).requests("test"))
    assert both_tests.missing(run) == both
    # How it is reported changes no score.
    assert _store(tmp_path, replace(plan, buckets=(0,), draws=5), log).missing(run) == [("valid", 5)]
    assert _store(tmp_path, plan, random_log(1, requests=20)).missing(run) == both


@pytest.mark.parametrize("scores", [np.zeros(3), np.full(50, np.nan)])
def test_scores_that_are_not_one_for_each_candidate_are_refused(tmp_path, scores):
    plan = ExperimentPlan(lengths=(5,), boosting={"trees": BoostingPlan()})
    store = _store(tmp_path, plan, random_log(0, requests=20))
    with pytest.raises(ValueError, match=r"trees, seed 0: test at 5: not 50 finite scores"):
        store.save(Run("trees", 0), "test", 5, scores)


def test_boosting_is_fitted_on_the_wanted_share_of_long_histories():
    log = random_log(0, users=2, events=4_000, requests=60)
    train = np.arange(60)
    is_long = log.history_length >= 1_000
    assert 20 < is_long.sum() < 40
    sample = train_sample(log, train, BoostingPlan(train_requests=20, long_share=0.75), seed=1)
    assert len(np.unique(sample)) == 20
    assert is_long[sample].sum() == 15
    assert len(train_sample(log, train, BoostingPlan(train_requests=0), seed=1)) == 60
    # Too few long ones: short ones fill up.
    assert len(train_sample(log, train, BoostingPlan(train_requests=50, long_share=1.0), seed=1)) == 50


def test_the_training_command_says_what_is_wrong(tmp_path, capsys):
    log = random_log(0)
    log.save(tmp_path / "arrays")
    (tmp_path / "plan.json").write_text('{"lengths": [5]}')
    where = ["--arrays", str(tmp_path / "arrays"), "--config", str(tmp_path / "plan.json"), "--out", str(tmp_path)]
    for arguments, message in (
        ([*where, "--device", "cpu", "--only", "LSTM"], "no neural scorer LSTM"),
        ([*where[:1], str(tmp_path), *where[2:], "--device", "cpu"], "longrank experiment LOG"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
