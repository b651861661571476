"""The page of a run: one HTML file that needs nothing beside it. What the run did not come to is not on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import numpy as np

from infra.report.html import document, figure, headline, table
from infra.retrain.collect import landed, resolved
from infra.retrain.evaluation import Evaluation, evaluated
from infra.retrain.learn import loss_curve
from infra.retrain.outcome import Outcome, RetrainReport
from infra.retrain.runs import Run
from infra.retrain.shadow import shadowed
from scorer.registry.manifest import LabelWindow, Manifest

#: Lines of the table of label rates, the newest; the plot has them all.
_SHOWN_WINDOWS: Final = 14
_METRICS: Final = ("auc", "gauc", "gauc_requests", "calibration", "log_loss")


def render(run: Run, report: RetrainReport, parent: Manifest) -> str:
    """The page; `parent` was in service when the run began."""
    return document(
        f"longrank retrain {report.version}",
        f"Retrain {report.version}",
        (
            headline(report.outcome.value, bad=report.outcome is not Outcome.PROMOTED),
            *(headline(reason, bad=True) for reason in report.reasons),
            table("The run", (), _run_rows(run, report, parent)),
            *(_evaluation(evaluated(run)) if "evaluate" in run.seconds else ()),
            *(_loss(loss_curve(run))),
            *_data(run, parent.training.labels),
            *_agreement(run, report),
            table("Durations", ("stage", "seconds"), [(name, f"{took:.1f}") for name, took in report.seconds.items()]),
        ),
    )


def _run_rows(run: Run, report: RetrainReport, parent: Manifest) -> Iterator[tuple[str, object]]:
    plan = run.plan
    yield "in service when it began", plan.parent
    yield "weights from", "afresh" if plan.cold or not parent.training.requests else plan.parent
    yield "began", _time(plan.created_ms)
    yield "requests from", _time(plan.from_ms) if plan.from_ms else "the oldest"
    yield "requests before", _time(plan.cut_ms)
    yield "attempts", report.attempts
    for partition, (first, end) in sorted(plan.offsets.items()):
        yield f"offsets of partition {partition}", f"{first:,} to {end:,}"


def _evaluation(evaluation: Evaluation) -> Iterator[str]:
    new, old = evaluation.candidate, evaluation.in_service
    for task, metrics in new.metrics.items():
        there = old.metrics.get(task, {})
        yield table(
            f"{task}: {evaluation.requests:,} requests of the holdout, {evaluation.targets:,} targets",
            ("metric", "new", "in service"),
            [(name, _number(metrics[name]), _number(there.get(name, math.nan))) for name in _METRICS],
        )
        buckets, buckets_there = new.buckets[task], old.buckets.get(task, {})
        yield table(
            f"{task}, by events in the history",
            ("events", "ranked requests", "gAUC", "gAUC in service", "AUC", "calibration"),
            [
                (
                    name,
                    int(of["gauc_requests"]),
                    _number(of["gauc"]),
                    _number(buckets_there.get(name, {}).get("gauc", math.nan)),
                    _number(of["auc"]),
                    _number(of["calibration"]),
                )
                for name, of in buckets.items()
            ],
        )
        caption = f"{task}: predicted and observed, each point a tenth of the holdout's targets."
        yield figure(partial(_draw_calibration, evaluation=evaluation, task=task), caption)


def _loss(curve: list[float]) -> Iterator[str]:
    if curve:
        yield figure(partial(_draw_loss, curve=curve), "Training loss by step.")


def _data(run: Run, before: tuple[LabelWindow, ...]) -> Iterator[str]:
    if "land" not in run.seconds:
        return
    read = landed(run)
    rows: list[tuple[str, object]] = [
        ("read", read.read),
        ("taken", read.taken),
        ("older label versions, doubles", read.superseded),
        ("before the cut of the last run", read.earlier),
        ("left to the next run", read.later),
    ]
    if "resolve" not in run.seconds:
        yield table("Examples", (), rows)
        return
    found = resolved(run)
    rows += [(f"stamps: {outcome}", count) for outcome, count in found.outcomes.items()]
    rows += [("requests", found.requests), ("targets", found.targets), ("distinct events", found.events)]
    yield table("Examples", (), rows)
    yield table(
        "Labels by day",
        ("days", "requests", "targets", *(f"{task}, positive" for task in _tasks(found.labels))),
        [
            (
                window.first_day if window.first_day == window.last_day else f"{window.first_day} to {window.last_day}",
                window.requests,
                window.targets,
                *(f"{positives / window.targets:.2%}" for positives in window.positives.values()),
            )
            for window in found.labels[-_SHOWN_WINDOWS:]
        ],
    )
    caption = "Label rates over the requests, in order of time; grey: of earlier runs."
    yield figure(partial(_draw_labels, before=before, windows=found.labels), caption)


def _agreement(run: Run, report: RetrainReport) -> Iterator[str]:
    rows: list[tuple[str, object]] = []
    if math.isfinite(report.parity):
        rows.append(("ONNX", f"{report.parity:.2e}"))
    if math.isfinite(report.parity_bf16):
        rows.append(("torch in bfloat16", f"{report.parity_bf16:.2e}"))
    if "shadow" in run.seconds:
        rows.append(("answers on the serving path", f"{shadowed(run).difference:.2e}"))
    if rows:
        yield table("Largest difference of a probability from torch in float32", (), rows)
    if "shadow" in run.seconds:
        figures = shadowed(run).figures()
        yield table("Shadow: the holdout's newest requests on the serving path", (), _figures(figures))


def _figures(figures: dict[str, float]) -> list[tuple[str, str]]:
    return [(name, _number(value)) for name, value in figures.items()]


def _draw_calibration(axes: Any, *, evaluation: Evaluation, task: str) -> None:
    for name, measured in (("new", evaluation.candidate), ("in service", evaluation.in_service)):
        if points := measured.calibration.get(task):
            axes.plot([p.predicted for p in points], [p.observed for p in points], "o-", label=name)
    axes.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes.set(xlabel="predicted", ylabel="observed")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_loss(axes: Any, *, curve: list[float]) -> None:
    axes.plot(curve, alpha=0.4)
    width = max(1, len(curve) // 20)
    mean = np.convolve(curve, np.full(width, 1 / width), "valid")
    axes.plot(np.arange(len(mean)) + width - 1, mean, label=f"mean of the last {width}")
    axes.legend()
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)


def _draw_labels(axes: Any, *, before: tuple[LabelWindow, ...], windows: tuple[LabelWindow, ...]) -> None:
    for task in _tasks(windows):
        rates = [window.positives.get(task, 0) / window.targets for window in (*before, *windows)]
        axes.plot(range(len(before)), rates[: len(before)], "o-", color="grey")
        axes.plot(range(len(before), len(rates)), rates[len(before) :], "o-", label=task)
    shown = [*before, *windows]
    some = range(0, len(shown), max(1, len(shown) // 8))
    axes.set(xticks=list(some), xticklabels=[shown[at].first_day for at in some], ylabel="positive targets")
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", labelrotation=30)
    axes.grid(alpha=0.3)
    axes.legend()


def _tasks(windows: tuple[LabelWindow, ...]) -> list[str]:
    return list(windows[-1].positives) if windows else []


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "none"
    if value == int(value) and abs(value) > 1:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
