"""The report as one HTML file that needs nothing beside it: plots are inline SVG."""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from infra.report.findings import RunReport
from infra.report.terminal import rows

mpl.use("svg")
from matplotlib import pyplot as plt

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600 }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums } .bad { color: #b00; font-weight: 700 }
.verify { font-weight: 700; font-size: 1.2rem } svg { max-width: 100%; height: auto } figure { margin: 2rem 0 }
"""


def write_page(report: RunReport, path: Path) -> None:
    """Write the report to `path`."""
    figures = "".join(
        f"<figure>{_svg(draw, report)}<figcaption>{escape(caption)}</figcaption></figure>"
        for draw, caption in (
            (_draw_rate, "Events through the sequence job, cumulative, over the replay's wall clock."),
            (_draw_latency, "Latency as the application saw it, with everything on one machine."),
            (_draw_quality, "gAUC on the later requests, by how much history the scorer sees."),
            (_draw_loss, "Training loss of the retrain."),
        )
    )
    mismatch = ' class="verify bad"' if report.verify["mismatches"] else ' class="verify"'
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>longrank: {escape(report.log)}</title><style>{_STYLE}</style>"
        f"<h1>The whole loop on {escape(report.log)}</h1><p{mismatch}>{escape(report.verify_line())}</p>"
        + _table("The run", (), [(what, figure) for what, figure in rows(report)])
        + _table(
            "Ranking of the later requests",
            ("scorer", "history", "requests", "AUC", "gAUC"),
            [(q.scorer, q.history, q.requests, f"{q.auc:.4f}", f"{q.gauc:.4f}") for q in report.quality],
        )
        + _table(
            "Every disturbance accounted for",
            ("what", "sent", "found", "counted in", "balances"),
            [(a.what, a.sent, a.found, a.counted_in, "yes" if a.balances else "NO") for a in report.accounts],
        )
        + figures
        + "</html>",
        encoding="utf-8",
    )


def _table(caption: str, header: tuple[str, ...], body: list[tuple[object, ...]]) -> str:
    head = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>" if header else ""
    lines = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in body)
    return f"<table><caption>{escape(caption)}</caption>{head}{lines}</table>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    css = ' class="bad"' if value == "NO" else ""
    return f"<td{css}>{escape(str(value))}</td>"


def _svg(draw: Callable[[Any, RunReport], None], report: RunReport) -> str:
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    draw(axes, report)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


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
