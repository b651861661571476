"""The comparison as tables in the terminal, as one page, as pictures and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from infra.experiment.findings import Finding, Findings
from infra.report.html import document, figure, table
from scorer.experiment.metrics import Estimate
from scorer.experiment.store import PARTS


def print_findings(found: Findings, console: Console) -> None:
    """One table: the test part at the longest length, by bucket; below it what has no scores yet."""
    longest = found.lengths[-1]
    out = Table(title=f"{found.log}, split {found.split}: gAUC on test at {longest:,} events, 95% over users")
    out.add_column("scorer")
    for least in found.buckets:
        out.add_column(_bucket(least), justify="right")
    out.add_column("AUC", justify="right")
    for name in found.scorers:
        rows = [row for row in found.of("test", longest) if row.scorer == name]
        # The interval below its value: beside it, a terminal would wrap them anyhow.
        cells = (_with_interval(row.score.gauc).replace(" ", "\n") for row in rows)
        out.add_row(name, *cells, f"{rows[0].score.auc:.4f}")
    if found.reference:
        out.caption = f"differences from {found.reference}: see the page"
    console.print(out)
    if found.missing:
        console.print(f"no scores yet: {', '.join(found.missing)}")


def write_report(found: Findings, directory: Path) -> list[Path]:
    """`report.html`, `report.json` and a picture for each bucket; returns their paths, the page first."""
    directory.mkdir(parents=True, exist_ok=True)
    page, data = directory / "report.html", directory / "report.json"
    page.write_text(document(f"longrank: {found.log}", f"Rankers compared on {found.log}", _parts(found)), "utf-8")
    data.write_text(json.dumps(asdict(found), indent=1) + "\n")
    pictures = []
    for least in _drawn(found):
        path = directory / f"gauc-{least or 'all'}.png"
        canvas, axes = plt.subplots(figsize=(8, 4), layout="constrained")
        _curves(found, least)(axes)
        axes.set_title(_caption(found, least), fontsize="small")
        canvas.savefig(path, format="png", dpi=120)
        plt.close(canvas)
        pictures.append(path)
    return [page, data, *pictures]


def _parts(found: Findings) -> Iterator[str]:
    yield f"<p>Split {found.split}. Intervals: 95%, bootstrap over users. Chosen on valid alone; both are shown.</p>"
    for least in _drawn(found):
        yield figure(_curves(found, least), _caption(found, least))
    longest = found.lengths[-1]
    for part in PARTS:
        yield table(
            f"gAUC on {part} at {longest:,} events",
            ("scorer", "seeds", *map(_bucket, found.buckets), "AUC"),
            [
                (name, rows[0].seeds, *(_cell(row) for row in rows), f"{rows[0].score.auc:.4f}")
                for name in found.scorers
                if (rows := [row for row in found.of(part, longest) if row.scorer == name])
            ],
        )
    if found.reference:
        yield _differences(found, f"gAUC less that of {found.reference}, test", lambda row: row.to_reference)
    yield _differences(
        found, f"gain of {longest:,} events over {found.lengths[0]:,}, gAUC on test", lambda row: row.to_shortest
    )
    for least in _drawn(found):
        yield _by_length(found, least)
    if found.missing:
        yield table("No scores yet", (), [(name,) for name in found.missing])


def _differences(found: Findings, caption: str, of: Callable[[Finding], Estimate | None]) -> str:
    body: list[tuple[object, ...]] = []
    for name in found.scorers:
        gaps = [gap for row in found.of("test", found.lengths[-1]) if row.scorer == name and (gap := of(row))]
        if gaps:
            body.append((name, *(f"{gap.value:+.4f} ({gap.low:+.4f} .. {gap.high:+.4f})" for gap in gaps)))
    return table(caption, ("scorer", *map(_bucket, found.buckets)), body)


def _by_length(found: Findings, least: int) -> str:
    return table(
        f"gAUC on test by serving length, {_bucket(least)}",
        ("scorer", *(f"{length:,}" for length in found.lengths)),
        [
            (name, *(f"{r.score.gauc.value:.4f}" for r in found.of("test", at_least=least) if r.scorer == name))
            for name in found.scorers
        ],
    )


def _curves(found: Findings, least: int) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        for name in found.scorers:
            rows = [row for row in found.of("test", at_least=least) if row.scorer == name]
            lengths = [row.length for row in rows]
            (line,) = axes.plot(lengths, [row.score.gauc.value for row in rows], "o-", label=name)
            low, high = [row.score.gauc.low for row in rows], [row.score.gauc.high for row in rows]
            axes.fill_between(lengths, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        axes.set(xscale="log", xlabel="newest events that the scorer sees", ylabel="gAUC")
        axes.set_xticks(found.lengths, [f"{length:,}" for length in found.lengths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        if found.scorers:
            axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw


def _drawn(found: Findings) -> list[int]:
    """The buckets with any request."""
    return [
        least for least in found.buckets if any(row.score.requests for row in found.of("test", found.lengths[0], least))
    ]


def _caption(found: Findings, least: int) -> str:
    rows = found.of("test", found.lengths[-1], least)
    size = f": {rows[0].score.requests:,} requests of {rows[0].score.users:,} users" if rows else ""
    return f"gAUC on test by serving length, {_bucket(least)}{size}; bands are 95% over users"


def _bucket(least: int) -> str:
    return f"≥ {least:,} events" if least else "all"


def _cell(row: Finding) -> str:
    spread = "" if row.seed_deviation != row.seed_deviation else f", seeds ±{row.seed_deviation:.4f}"
    return f"{_with_interval(row.score.gauc)}{spread}"


def _with_interval(estimate: Estimate) -> str:
    if estimate.value != estimate.value:
        return "-"
    low, high = (f"{end:.4f}".lstrip("0") for end in (estimate.low, estimate.high))
    return f"{estimate.value:.4f} {low}-{high}"
