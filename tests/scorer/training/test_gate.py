"""The gate: every bound, alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from scorer.metrics import RankingMetrics
from scorer.training.gate import GateSettings, judge

GOOD = RankingMetrics(auc=0.7, gauc=0.75, gauc_requests=500, calibration=1.0, log_loss=0.2)
SETTINGS = GateSettings(min_gauc=0.6, max_gauc_drop=0.01, min_requests=100, max_calibration_error=1.5)


def test_a_better_model_passes() -> None:
    assert judge({"touch": GOOD}, {"touch": replace(GOOD, gauc=0.7)}, SETTINGS).passed
    assert judge({"touch": GOOD}, {}, SETTINGS).passed


def test_a_little_worse_is_noise() -> None:
    assert judge({"touch": GOOD}, {"touch": replace(GOOD, gauc=0.7599)}, SETTINGS).passed


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (replace(GOOD, gauc=0.59), "below 0.6"),
        (replace(GOOD, gauc=math.nan), "below 0.6"),
        (replace(GOOD, gauc_requests=99), "99 requests"),
        (replace(GOOD, calibration=1.6), "predicts 1.60 times"),
        (replace(GOOD, calibration=0.6), "predicts 0.60 times"),
        (replace(GOOD, calibration=math.nan), "predicts nan times"),
    ],
)
def test_each_bound_refuses(candidate: RankingMetrics, reason: str) -> None:
    verdict = judge({"touch": candidate}, {}, SETTINGS)
    assert not verdict.passed
    assert len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]


def test_a_model_clearly_worse_than_the_one_in_service_stays_out() -> None:
    (reason,) = judge({"touch": GOOD}, {"touch": replace(GOOD, gauc=0.7601)}, SETTINGS).reasons
    assert "below the 0.7601 of the model in service" in reason


def test_every_task_counts_and_none_may_vanish() -> None:
    bad = replace(GOOD, gauc=0.5)
    assert judge({"touch": GOOD, "like": bad}, {}, SETTINGS).reasons == ("like: gAUC 0.5000 is below 0.6",)
    (reason,) = judge({"touch": GOOD}, {"touch": GOOD, "like": GOOD}, SETTINGS).reasons
    assert reason.startswith("like: the model in service has this task")


def test_no_metrics_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="without metrics"):
        judge({}, {}, SETTINGS)
