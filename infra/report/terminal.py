"""The report as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from infra.report.findings import RunReport


def rows(report: RunReport) -> Iterator[tuple[str, str]]:
    """(what, figure) of the run's own figures, for both renderings."""
    yield "log", f"{report.log}: {report.log_events:,} events, {report.log_requests:,} requests, {report.users:,} users"
    yield "events through the job", f"{report.events_per_second:,.0f} /s (with the whole loop on this machine)"
    for name, label in (("event_to_visible_ms", "event to visible"), ("request_to_response_ms", "request to response")):
        p50, p99 = report.latency_ms[f"{name}_p50"], report.latency_ms[f"{name}_p99"]
        yield label, f"p50 {p50:,.1f} ms, p99 {p99:,.1f} ms"
    for name, size in report.bytes_per_user.items():
        yield f"bytes per user in {name}", f"{size:,.0f}"
    yield "models", " then ".join(report.model_versions)
    yield "retrain", ", ".join(f"{name} {value}" for name, value in report.retrain.items())
    yield "wall clock", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds_by_step.items())


def print_report(report: RunReport, console: Console) -> None:
    """Print the three tables and the verify line."""
    run = Table(title="The run", show_header=False)
    for what, figure in rows(report):
        run.add_row(what, figure)
    console.print(run)

    quality = Table("scorer", "history", "requests", "AUC", "gAUC", title="Ranking of the later requests")
    for line in report.quality:
        quality.add_row(line.scorer, line.history, f"{line.requests:,}", f"{line.auc:.4f}", f"{line.gauc:.4f}")
    console.print(quality)

    accounts = Table("what", "sent", "found", "counted in", "", title="Every disturbance accounted for")
    for account in report.accounts:
        verdict = "ok" if account.balances else "[bold red]differs"
        accounts.add_row(account.what, f"{account.sent:,}", f"{account.found:,}", account.counted_in, verdict)
    console.print(accounts)
    console.print(report.verify_line(), style="bold", highlight=False)
