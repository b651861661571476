"""Pieces of a page that needs nothing beside it: tables, and plots as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600 }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums } .bad { color: #b00; font-weight: 700 }
.verify { font-weight: 700; font-size: 1.2rem } svg { max-width: 100%; height: auto } figure { margin: 2rem 0 }
"""


def document(title: str, heading: str, body: Iterable[str]) -> str:
    """A whole page; title and heading are text, the parts of the body HTML."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(heading)}</h1>{''.join(body)}</html>"
    )


def headline(text: str, *, bad: bool) -> str:
    """The line that says how it went."""
    css = "verify bad" if bad else "verify"
    return f'<p class="{css}">{escape(text)}</p>'


def table(caption: str, header: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """Whole numbers are set as such, everything else as text."""
    head = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>" if header else ""
    lines = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in body)
    return f"<table><caption>{escape(caption)}</caption>{head}{lines}</table>"


def figure(draw: Callable[[Any], None], caption: str) -> str:
    """What `draw` puts on matplotlib's axes."""
    canvas, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    draw(axes)
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(canvas)
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{escape(caption)}</figcaption></figure>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    css = ' class="bad"' if value == "NO" else ""
    return f"<td{css}>{escape(str(value))}</td>"
