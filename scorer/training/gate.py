"""May this model go into service? Bounds from settings against metrics of both models on the same holdout; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from scorer.metrics import RankingMetrics


class GateSettings(BaseModel):
    """Frozen. Every bound holds for every task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: gAUC that any model in service must reach; 0.5 is a coin.
    min_gauc: float = Field(default=0.55, ge=0, le=1)
    #: How far below the model in service the candidate's gAUC may lie.
    max_gauc_drop: float = Field(default=0.005, ge=0, le=1)
    #: Requests on the holdout that a gAUC must rest on.
    min_requests: int = Field(default=20, ge=1)
    #: Mean predicted over mean observed must lie in [1 / x, x].
    max_calibration_error: float = Field(default=1.5, gt=1)


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
        served = in_service.get(task)
        if served is not None and not math.isnan(served.gauc) and not got.gauc >= served.gauc - settings.max_gauc_drop:
            reasons.append(
                f"{task}: gAUC {got.gauc:.4f} is more than {settings.max_gauc_drop} below the {served.gauc:.4f} "
                "of the model in service"
            )
    missing = sorted(set(in_service) - set(candidate))
    reasons.extend(f"{task}: the model in service has this task, the candidate does not" for task in missing)
    return Verdict(reasons=tuple(reasons))
