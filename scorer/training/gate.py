"""May this model go into service? Bounds from settings, against metrics of both models on the same holdout and against
the label rates of the days before; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from scorer.metrics import RankingMetrics
from scorer.registry.manifest import LabelWindow


class GateSettings(BaseModel):
    """Frozen. Every bound holds for every task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: gAUC that any model in service must reach; 0.5 is a coin.
    min_gauc: float = Field(default=0.55, ge=0, le=1)
    #: How far below the model in service the candidate's gAUC and AUC may lie. The AUC over all pairs also moves with
    #: how requests compare with each other, hence the wider bound.
    max_gauc_drop: float = Field(default=0.005, ge=0, le=1)
    max_auc_drop: float = Field(default=0.02, ge=0, le=1)
    #: Requests on the holdout that a gAUC must rest on.
    min_requests: int = Field(default=20, ge=1)
    #: Mean predicted over mean observed must lie in [1 / x, x].
    max_calibration_error: float = Field(default=1.5, gt=1)
    #: The candidate may miss a calibration of 1 by so many times the factor by which the model in service misses it.
    max_calibration_drift: float = Field(default=1.25, ge=1)
    #: A label rate may differ by this factor from that of the windows before it, pooled.
    max_label_rate_change: float = Field(default=2.0, gt=1)
    #: Requests in a window of label rates: a UTC day, or as many days as it takes.
    label_window_requests: int = Field(default=200, ge=1)
    #: Windows that a label rate is compared with.
    label_windows: int = Field(default=7, ge=1)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`reasons` says why not, one line for each bound that is broken; empty when passed."""

    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no bound is broken."""
        return not self.reasons


def judge(
    candidate: Mapping[str, RankingMetrics], in_service: Mapping[str, RankingMetrics], settings: GateSettings
) -> Verdict:
    """The verdict on `candidate`; a task that `in_service` lacks is compared with nothing.

    A metric that is not a number breaks its bound.

    Raises:
        ValueError: the candidate has no tasks.
    """
    if not candidate:
        raise ValueError("a candidate without metrics cannot be judged")
    reasons: list[str] = []
    for task, got in candidate.items():
        if got.gauc_requests < settings.min_requests:
            reasons.append(
                f"{task}: {got.gauc_requests} requests of the holdout can be ranked, {settings.min_requests} are needed"
            )
        if not got.gauc >= settings.min_gauc:
            reasons.append(f"{task}: gAUC {got.gauc:.4f} is below {settings.min_gauc}")
        if not 1 / settings.max_calibration_error <= got.calibration <= settings.max_calibration_error:
            reasons.append(
                f"{task}: predicts {got.calibration:.2f} times what was observed, "
                f"allowed is a factor of {settings.max_calibration_error}"
            )
        if task in in_service:
            reasons.extend(_worse(task, got, in_service[task], settings))
    missing = sorted(set(in_service) - set(candidate))
    reasons.extend(f"{task}: the model in service has this task, the candidate does not" for task in missing)
    return Verdict(reasons=tuple(reasons))


def _worse(task: str, got: RankingMetrics, served: RankingMetrics, settings: GateSettings) -> list[str]:
    """Where the candidate is worse than the model in service by more than the bounds."""
    reasons = []
    for name, found, there, bound in (
        ("gAUC", got.gauc, served.gauc, settings.max_gauc_drop),
        ("AUC", got.auc, served.auc, settings.max_auc_drop),
    ):
        if not math.isnan(there) and not found >= there - bound:
            reasons.append(
                f"{task}: {name} {found:.4f} is more than {bound} below the {there:.4f} of the model in service"
            )
    missed, missed_there = _missed(got.calibration), _missed(served.calibration)
    if missed_there < math.inf and missed > missed_there * settings.max_calibration_drift:
        reasons.append(
            f"{task}: predicts {got.calibration:.2f} times what was observed, the model in service "
            f"{served.calibration:.2f} times: worse by more than a factor of {settings.max_calibration_drift}"
        )
    return reasons


def _missed(calibration: float) -> float:
    """The factor, 1 and up, by which a calibration differs from 1; infinite for 0 and what is not a number."""
    return max(calibration, 1 / calibration) if calibration > 0 else math.inf


def judge_labels(windows: Sequence[LabelWindow], before: Sequence[LabelWindow], settings: GateSettings) -> Verdict:
    """Whether the label rates of each of the run's windows are like those of the windows before it, both in order of
    time: a label that stopped arriving, or arrives twice as often, is a fault upstream more often than news.

    Args:
        before: of the earlier runs.

    A window of fewer than `label_window_requests` is compared with nothing, nor is one without any before it.
    """
    reasons: list[str] = []
    known = list(before)
    for window in windows:
        reference = known[-settings.label_windows :]
        targets = sum(earlier.targets for earlier in reference)
        known.append(window)
        if window.requests < settings.label_window_requests or not targets:
            continue
        for task, positives in window.positives.items():
            expected = sum(earlier.positives.get(task, 0) for earlier in reference) / targets
            found, bound = positives / window.targets, settings.max_label_rate_change
            # A task that no window before had is new.
            if any(task in earlier.positives for earlier in reference) and not (
                expected / bound <= found <= expected * bound
            ):
                reasons.append(
                    f"{task}: {found:.2%} of the targets of {window.first_day} to {window.last_day} are positive, "
                    f"of the days before {expected:.2%}: allowed is a factor of {bound}"
                )
    return Verdict(reasons=tuple(reasons))
