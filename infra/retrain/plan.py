"""What a run will do, fixed before it does anything: a run that is killed and begun again follows the same plan.

Everything that tells one run from another is here, so two runs of one plan make the same bundle, byte for byte.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.errors import InfraError
from infra.retrain.outcome import Outcome, StoppedError
from infra.retrain.settings import RetrainSettings
from schemas.topics import EXAMPLES
from scorer.landing.bounded import TopicBounds
from scorer.registry.registry import Bundle


class Plan(BaseModel):
    """One run's plan. Times in ms UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    created_ms: int
    #: In service when the run began; what the candidate is compared with, and where a warm start begins.
    parent: str
    #: Starts from fresh weights, and from the oldest example that Kafka has.
    cold: bool
    #: Requests in [from_ms, cut_ms).
    from_ms: int
    cut_ms: int
    topic_id: str
    #: Partition -> [first, end) offsets of the examples topic.
    offsets: dict[int, tuple[int, int]]
    settings: dict[str, Any]


def draw_plan(
    parent: Bundle,
    bounds: TopicBounds,
    settings: RetrainSettings,
    *,
    now_ms: int,
    cut_ms: int | None = None,
    cold: bool = False,
    accept_hole: bool = False,
) -> Plan:
    """The plan of a run that begins now: from where the model in service was trained up to, to what is there now.

    Args:
        accept_hole: where Kafka has deleted examples that no run has read, begin behind them.

    Raises:
        InfraError: the topic is not the one that the parent was trained on, or examples are lost.
        StoppedError: nothing is there behind what the parent was trained on.
    """
    trained = parent.manifest.training
    cut = now_ms - settings.settle_ms if cut_ms is None else cut_ms
    begin: dict[int, int] = {}
    if not cold:
        if trained.topic_id not in ("", bounds.topic_id):
            raise InfraError(
                f"{EXAMPLES.name} is not the topic that {parent.manifest.version} was trained on (its id is "
                f"{bounds.topic_id}, was {trained.topic_id}); start from all of it with --cold"
            )
        if cut <= trained.cut_ms:
            raise StoppedError(
                Outcome.TOO_LITTLE,
                f"the cut {cut} ms is not after {trained.cut_ms} ms, up to which {parent.manifest.version} was trained",
            )
        begin = {int(name.rpartition("/")[2]): end for name, (_, end) in trained.offsets.items()}
        for partition, (oldest, _) in bounds.offsets.items():
            if begin.get(partition, oldest) < oldest and not accept_hole:
                raise InfraError(
                    f"{EXAMPLES.name}/{partition}: {parent.manifest.version} was trained up to offset "
                    f"{begin[partition]}, the oldest record is {oldest}: what was between them is lost; go on behind "
                    "it with --accept-hole"
                )
    return Plan(
        version=time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ms / 1000)),
        created_ms=now_ms,
        parent=parent.manifest.version,
        cold=cold,
        from_ms=0 if cold else trained.cut_ms,
        cut_ms=cut,
        topic_id=bounds.topic_id,
        offsets={
            partition: (max(begin.get(partition, oldest), oldest if accept_hole else 0), end)
            for partition, (oldest, end) in bounds.offsets.items()
        },
        settings=settings.model_dump(mode="json"),
    )


def why_not_go_on(
    plan: Plan, settings: RetrainSettings, *, in_service: str | None, now_ms: int, cut_ms: int | None, cold: bool
) -> str | None:
    """Why a run that was broken off is not gone on with; None: it is."""
    if in_service == plan.version:
        # All but the report was done.
        return None
    if in_service != plan.parent:
        return f"{in_service} is in service now, not {plan.parent}"
    if plan.settings != settings.model_dump(mode="json"):
        return "the settings are others now"
    if now_ms - plan.created_ms > settings.resume_ms:
        return f"it began {(now_ms - plan.created_ms) / 3_600_000:.1f} h ago, more than resume_ms"
    if cut_ms is not None and cut_ms != plan.cut_ms:
        return f"another cut is asked for: {cut_ms} ms, not {plan.cut_ms}"
    if cold and not plan.cold:
        return "a cold start is asked for"
    return None
