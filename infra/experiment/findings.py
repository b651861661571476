"""From kept scores to what the report says: gAUC by bucket and length, paired differences, gains of length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.experiment.arrays import LogArrays
from scorer.experiment.metrics import BucketScore, Estimate, Judge
from scorer.experiment.plan import ExperimentPlan
from scorer.experiment.store import PARTS, ScoreStore


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One scorer on one part at one serving length, one bucket."""

    scorer: str
    part: str
    length: int
    seeds: int
    score: BucketScore
    #: Standard deviation between seeds of the gAUC; NaN for one seed.
    seed_deviation: float
    #: gAUC less the reference's at the same length; None for the reference and without one.
    to_reference: Estimate | None
    #: gAUC less the same scorer's at the shortest length; None at the shortest.
    to_shortest: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of a whole experiment."""

    log: str
    split: str
    reference: str
    lengths: tuple[int, ...]
    buckets: tuple[int, ...]
    #: Scorers in the plan's order that have all their scores, and those that do not.
    scorers: tuple[str, ...]
    missing: tuple[str, ...]
    rows: tuple[Finding, ...]

    def of(self, part: str, length: int | None = None, at_least: int | None = None) -> list[Finding]:
        """The rows of a part, of one length and of one bucket if they are given."""
        return [
            row
            for row in self.rows
            if row.part == part and length in (None, row.length) and at_least in (None, row.score.at_least)
        ]


Scores = list[NDArray[np.float32]]


def findings(plan: ExperimentPlan, log: LogArrays, store: ScoreStore) -> Findings:
    """Everything that can be said of the scores that are kept."""
    trained = (*plan.boosting, *plan.baselines, *plan.stca)
    complete = [name for name in trained if not any(store.missing(run) for run in store.runs(name))]
    averages = {name: of for name, of in plan.averages.items() if set(of) <= set(complete)}
    scorers = (*complete, *averages)
    rows: list[Finding] = []
    for part in PARTS:
        requests = store.requests(part)
        targets = log.targets_of(requests)
        counts = np.diff(log.candidate_offsets)[requests]
        judge = Judge(
            log.label[targets],
            np.concatenate([[0], np.cumsum(counts)]),
            log.request_user[requests],
            log.history_length[requests],
            buckets=plan.buckets,
            draws=plan.draws,
        )

        def load(name: str, length: int, part: str = part) -> Scores:
            if name in averages:
                each = [scores for one in averages[name] for scores in load(one, length)]
                return [np.mean(each, axis=0, dtype=np.float32)]
            return [store.load(run, part, length) for run in store.runs(name)]

        for length in plan.lengths:
            reference = load(plan.reference, length) if plan.reference in scorers else None
            for name in scorers:
                shortest = load(name, plan.lengths[0]) if length != plan.lengths[0] else None
                other = None if name == plan.reference else reference
                rows.extend(_rows(judge, name, part, length, load(name, length), other, shortest))
    return Findings(
        log=log.name,
        split="by time" if plan.split.by == "time" else "within each user",
        reference=plan.reference if plan.reference in scorers else "",
        lengths=plan.lengths,
        buckets=plan.buckets,
        scorers=scorers,
        missing=tuple(name for name in (*trained, *plan.averages) if name not in scorers),
        rows=tuple(rows),
    )


def _rows(
    judge: Judge, name: str, part: str, length: int, runs: Scores, reference: Scores | None, shortest: Scores | None
) -> list[Finding]:
    deviations = judge.seed_deviation(runs)
    to_reference = None if reference is None else judge.difference(runs, reference)
    to_shortest = None if shortest is None else judge.difference(runs, shortest)
    return [
        Finding(
            scorer=name,
            part=part,
            length=length,
            seeds=len(runs),
            score=score,
            seed_deviation=deviations[score.at_least],
            to_reference=None if to_reference is None else to_reference[score.at_least],
            to_shortest=None if to_shortest is None else to_shortest[score.at_least],
        )
        for score in judge.score(runs)
    ]
