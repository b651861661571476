"""`longrank presets`: the model's sizes, in parameters and in work."""

from __future__ import annotations

import click
import torch
from rich.console import Console
from rich.table import Table

from scorer.features import FeatureSettings
from scorer.model import PRESETS, STCA
from scorer.model.flops import forward_flops

#: A request as the paper has them: 10,000 events, some hundred candidates.
_TOKENS, _TARGETS = 10_000, 300


@click.command("presets")
@click.option("--tokens", default=_TOKENS, show_default=True, type=click.IntRange(0), help="Of the request's history.")
@click.option("--targets", default=_TARGETS, show_default=True, type=click.IntRange(1), help="Of the request.")
def command(tokens: int, targets: int) -> None:
    """The presets, their parameters and the operations of a request; a multiply-add counts two."""
    features = FeatureSettings()
    table = Table(
        caption=f"a request: {tokens:,} events, {targets:,} candidates; GFLOP: history, targets, attention pairs"
    )
    for heading in ("preset", "d", "layers", "heads", "weights", "tables", "history", "targets", "pairs"):
        table.add_column(heading, justify="left" if heading == "preset" else "right", no_wrap=True)
    for name, settings in PRESETS.items():
        with torch.device("meta"):
            model = STCA(settings, features, ("task",))
        tables = sum(weight.numel() for weight in model.embedding.ids.table_weights())
        weights = sum(weight.numel() for weight in model.parameters()) - tables
        flops = forward_flops(settings, features, 1)
        work = (flops.forward(tokens, 0, 0), flops.forward(0, targets, 0), flops.forward(0, 0, tokens * targets))
        table.add_row(
            name,
            str(settings.d),
            str(settings.layers),
            str(settings.heads),
            f"{weights / 1e6:.1f}M",
            f"{tables / 1e6:.1f}M",
            *(f"{one / 1e9:,.1f}" for one in work),
        )
    Console().print(table)
