"""The report says what was found, plainly when something is wrong, and its page needs nothing beside it."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.report.findings import Account, Quality, RunReport
from infra.report.page import write_page
from infra.report.terminal import print_report


def report(**changes: Any) -> RunReport:
    fields: dict[str, Any] = {
        "log": "a <log>",
        "log_events": 1_000,
        "log_requests": 100,
        "users": 10,
        "seed": 7,
        "model_versions": ("untrained", "20261124"),
        "seconds_by_step": {"start": 10.2, "replay": 30.0},
        "events_per_second": 1234.5,
        "latency_ms": {
            "event_to_visible_ms_p50": 11.0,
            "event_to_visible_ms_p99": 50.0,
            "request_to_response_ms_p50": 9.0,
            "request_to_response_ms_p99": 40.0,
        },
        "bytes_per_user": {"store": 512.0},
        "quality": tuple(
            Quality(scorer=scorer, history=history, requests=100, auc=0.7, gauc=gauc)
            for scorer, gauc in (("log1p(count)", 0.69), ("retrained", 0.73))
            for history in ("100", "all")
        ),
        "accounts": (Account(what="duplicates", sent=10, found=10, counted_in="not numbered again"),),
        "verify": {"checked": {"responses": 100, "examples": 99}, "mismatches": 0},
        "retrain": {"requests": 70},
        "samples": {
            "progress_seconds": [0.0, 1.0],
            "progress_deltas": [0.0, 1_000.0],
            "event_to_visible_ms": [1.0, 11.0, 50.0],
            "request_to_response_ms": [2.0, 9.0, 40.0],
            "loss_step": [0.0, 1.0],
            "loss": [0.7, 0.3],
        },
    }
    return RunReport(**(fields | changes))


def printed(of: RunReport) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_report(of, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    write_page(report(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4
    # Namespaces of the plots are names, not addresses that a browser would load.
    assert not re.search(r"<(script|link|img|iframe)\b|@import|src=", page)
    assert "a &lt;log&gt;" in page
    assert "verify: 100 responses, 99 examples, 0 mismatches" in page
    assert 'class="verify bad"' not in page


def test_two_pages_of_one_run_say_the_same(tmp_path: Path) -> None:
    def text(name: str) -> str:
        write_page(report(), tmp_path / name)
        # Plots carry ids made anew each time.
        return re.sub(r"<svg.*?</svg>", "", (tmp_path / name).read_text(), flags=re.DOTALL)

    assert text("a.html") == text("b.html")


def test_mismatches_and_what_does_not_balance_stand_out(tmp_path: Path) -> None:
    wrong = report(
        verify={"checked": {"responses": 1}, "mismatches": 3},
        accounts=(Account(what="duplicates", sent=10, found=9, counted_in="not numbered again"),),
    )
    write_page(wrong, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert 'class="verify bad"' in page
    assert '<td class="bad">NO</td>' in page
    assert "differs" in printed(wrong)
    assert "3 mismatches" in printed(wrong)


@pytest.mark.parametrize("wanted", ["1,234 /s", "p50 11.0 ms, p99 50.0 ms", "0.7300", "untrained then 20261124", "ok"])
def test_the_terminal_shows_the_figures(wanted: str) -> None:
    assert wanted in printed(report())


def test_more_than_was_sent_balances_only_where_a_broker_died() -> None:
    calm = Account(what="duplicates", sent=10, found=11, counted_in="not numbered again")
    assert not calm.balances
    assert calm.model_copy(update={"at_least": True}).balances
    assert not calm.model_copy(update={"at_least": True, "found": 9}).balances
