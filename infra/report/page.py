"""The report of the demo as one HTML file that needs nothing beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infra.report.findings import RunReport
from infra.report.html import document, figure, headline, table
from infra.report.terminal import rows


def write_page(report: RunReport, path: Path) -> None:
    """Write the report to `path`."""
    body = [
        headline(report.verify_line(), bad=bool(report.verify["mismatches"])),
        table("The run", (), rows(report)),
        table(
            "Ranking of the later requests",
            ("scorer", "history", "requests", "AUC", "gAUC"),
            [(q.scorer, q.history, q.requests, f"{q.auc:.4f}", f"{q.gauc:.4f}") for q in report.quality],
        ),
        table(
            "Every disturbance accounted for",
            ("what", "sent", "found", "counted in", "balances"),
            [(a.what, a.sent, a.found, a.counted_in, "yes" if a.balances else "NO") for a in report.accounts],
        ),
        *(
            figure(partial(draw, report=report), caption)
            for draw, caption in (
                (_draw_rate, "Events through the sequence job, cumulative, over the replay's wall clock."),
                (_draw_latency, "Latency as the application saw it, with everything on one machine."),
                (_draw_quality, "gAUC on the later requests, by how much history the scorer sees."),
                (_draw_loss, "Training loss of the retrain."),
            )
        ),
    ]
    page = document(f"longrank: {report.log}", f"The whole loop on {report.log}", body)
    path.write_text(page, encoding="utf-8")


def _draw_rate(axes: Any, report: RunReport) -> None:
    axes.plot(report.samples["progress_seconds"], report.samples["progress_deltas"])
    axes.set(xlabel="seconds", ylabel="deltas seen")
    axes.grid(alpha=0.3)


def _draw_latency(axes: Any, report: RunReport) -> None:
    for name, label in (("event_to_visible_ms", "event to visible"), ("request_to_response_ms", "request to response")):
        values = np.sort(report.samples[name])
        axes.plot(values, np.linspace(0, 1, len(values)), label=label)
    axes.set(xscale="log", xlabel="ms", ylabel="share of records")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_quality(axes: Any, report: RunReport) -> None:
    scorers = list(dict.fromkeys(line.scorer for line in report.quality))
    cuts = list(dict.fromkeys(line.history for line in report.quality))
    for scorer in scorers:
        lines = [line for line in report.quality if line.scorer == scorer]
        axes.plot([cuts.index(line.history) for line in lines], [line.gauc for line in lines], "o-", label=scorer)
    axes.set(xticks=range(len(cuts)), xticklabels=cuts, xlabel="newest events of the history", ylabel="gAUC")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_loss(axes: Any, report: RunReport) -> None:
    axes.plot(report.samples["loss_step"], report.samples["loss"])
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
