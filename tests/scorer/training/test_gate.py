"""The gate: every bound, alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from scorer.metrics import RankingMetrics
from scorer.registry.manifest import LabelWindow
from scorer.training.gate import GateSettings, judge, judge_labels

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


@pytest.mark.parametrize(
    ("candidate", "in_service", "reason"),
    [
        (GOOD, replace(GOOD, auc=0.7201), "AUC 0.7000 is more than 0.02 below the 0.7201"),
        (replace(GOOD, auc=math.nan), GOOD, "AUC nan"),
        (replace(GOOD, calibration=1.3), GOOD, "worse by more than a factor of 1.25"),
        (replace(GOOD, calibration=1 / 1.3), GOOD, "predicts 0.77 times what was observed, the model in service 1.00"),
    ],
)
def test_each_bound_against_the_model_in_service(
    candidate: RankingMetrics, in_service: RankingMetrics, reason: str
) -> None:
    (found,) = judge({"touch": candidate}, {"touch": in_service}, SETTINGS).reasons
    assert reason in found


def test_a_model_in_service_that_is_worse_is_no_bound() -> None:
    for calibration in (1 / 7, 7.0, 0.0, math.nan):
        there = replace(GOOD, auc=math.nan, gauc=math.nan, calibration=calibration)
        assert judge({"touch": replace(GOOD, calibration=1.4)}, {"touch": there}, SETTINGS).passed


def windows(*rates: float, requests: int = 200, task: str = "touch") -> list[LabelWindow]:
    return [
        LabelWindow(
            first_day=f"2026-11-{day + 1:02}",
            last_day=f"2026-11-{day + 1:02}",
            requests=requests,
            targets=10_000,
            positives={task: round(rate * 10_000)},
        )
        for day, rate in enumerate(rates)
    ]


def test_label_rates_like_those_before_pass() -> None:
    assert judge_labels(windows(0.09, 0.06, 0.1), windows(0.05, 0.06), SETTINGS).passed
    assert judge_labels(windows(0.09), [], SETTINGS).passed
    assert judge_labels([], windows(0.05), SETTINGS).passed


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.11])
def test_a_label_rate_that_jumps_is_refused_wherever_it_is(rate: float) -> None:
    (reason,) = judge_labels(windows(rate), windows(0.05, 0.05), SETTINGS).reasons
    assert reason.startswith(f"touch: {rate:.2%} of the targets of 2026-11-01 to 2026-11-01 are positive, ")
    assert "of the days before 5.00%" in reason
    # Within the run itself, too.
    assert len(judge_labels(windows(0.05, rate, 0.05), [], SETTINGS).reasons) >= 1


def test_few_requests_and_new_tasks_are_compared_with_nothing() -> None:
    assert judge_labels(windows(0.5, requests=199), windows(0.05), SETTINGS).passed
    assert judge_labels(windows(0.5, task="like"), windows(0.05), SETTINGS).passed


def test_only_the_newest_windows_are_compared_with() -> None:
    before = windows(0.01, *[0.1] * 7)
    assert judge_labels(windows(0.19), before, SETTINGS).passed
    assert not judge_labels(windows(0.21), before, SETTINGS).passed


def test_every_task_counts_and_none_may_vanish() -> None:
    bad = replace(GOOD, gauc=0.5)
    assert judge({"touch": GOOD, "like": bad}, {}, SETTINGS).reasons == ("like: gAUC 0.5000 is below 0.6",)
    (reason,) = judge({"touch": GOOD}, {"touch": GOOD, "like": GOOD}, SETTINGS).reasons
    assert reason.startswith("like: the model in service has this task")


def test_no_metrics_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="without metrics"):
        judge({}, {}, SETTINGS)
