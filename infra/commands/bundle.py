"""`longrank bundle`: the model bundles of a registry."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import InfraError
from infra.home import home_dir
from scorer.registry.manifest import Manifest
from scorer.registry.registry import BundleError, Registry

_REGISTRY = click.option(
    "--registry", "root", type=click.Path(file_okay=False, path_type=Path), help="Model bundles [HOME/registry]."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")


def _registry(root: Path | None) -> Registry:
    return Registry(root or home_dir() / "registry")


@click.group("bundle")
def command() -> None:
    """List, show, initialise, promote and roll back model bundles."""


@command.command("list")
@_REGISTRY
@_JSON
def list_bundles(root: Path | None, as_json: bool) -> None:
    """Every published version, oldest first; * is in service, < is where a rollback goes."""
    registry = _registry(root)
    marks = _marks(registry)
    table = Table("")
    for name in ("version", "weights from", "requests"):
        # Names are for copying.
        table.add_column(name, no_wrap=True, overflow="fold")
    table.add_column("on its holdout", overflow="fold")
    rows = []
    manifests, damaged = _read_all(registry)
    for manifest in manifests:
        metrics = [f"{name} {value:.4f}" for name, value in manifest.metrics.items() if name.endswith(".gauc")]
        rows.append(
            {
                "version": manifest.version,
                "created_ms": manifest.created_ms,
                "in_service": marks.get(manifest.version) == "*",
                "requests": manifest.training.requests,
                "parent": manifest.training.parent,
                "metrics": manifest.metrics,
            }
        )
        table.add_row(
            marks.get(manifest.version, ""),
            manifest.version,
            manifest.training.parent or "",
            f"{manifest.training.requests:,}" if manifest.training.requests else "untrained",
            "\n".join(metrics),
        )
    for version, problem in damaged.items():
        rows.append({"version": version, "damaged": problem})
        table.add_row(marks.get(version, ""), version, "", "", f"[bold red]damaged[/]: {escape(problem)}")
    if as_json:
        click.echo(json.dumps(rows))
    else:
        Console().print(table)


@command.command("show")
@click.argument("version", required=False)
@_REGISTRY
@_JSON
def show(version: str | None, root: Path | None, as_json: bool) -> None:
    """What VERSION, or the one in service, was made from and how good it is, after checking its files."""
    registry = _registry(root)
    name = version or registry.current()
    if name is None:
        raise InfraError(f"{registry.root}: no bundle is in service")
    manifest = registry.load(name).manifest
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
        return
    console = Console()
    about = Table(show_header=False, title=name)
    for what, value in _about(registry, manifest):
        about.add_row(what, value)
    console.print(about)
    if manifest.metrics:
        parent = _parent_metrics(registry, manifest)
        metrics = Table("on its holdout", "value", "parent's, on the parent's holdout")
        for metric, figure in manifest.metrics.items():
            there = parent.get(metric)
            metrics.add_row(metric, _number(figure), "" if there is None else _number(there))
        console.print(metrics)


@command.command("promote")
@click.argument("version")
@_REGISTRY
def promote(version: str, root: Path | None) -> None:
    """Put VERSION in service; running scorers take it up."""
    _registry(root).promote(version)
    click.echo(f"{version} is in service")


@command.command("rollback")
@_REGISTRY
def rollback(root: Path | None) -> None:
    """Put the version in service that was before the current one; running scorers take it up without a restart.

    Again: the one before that. The next retrain starts from the version that is in service then, with everything since
    that one was trained.
    """
    click.echo(f"{_registry(root).rollback()} is in service again")


@command.command("init")
@click.option("--preset", default="tiny", show_default=True, help="Size of the model.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Retrain settings, YAML.")
@click.option("--version", default="untrained", show_default=True, help="What to call it.")
@_REGISTRY
def init(preset: str, config: Path | None, version: str, root: Path | None) -> None:
    """Publish an untrained model and put it in service: what the first scorer starts with."""
    # torch is imported by this command alone.
    from infra.retrain.settings import load_settings
    from scorer.export import export_bundle
    from scorer.model import PRESETS, model_settings
    from scorer.training.train import new_model

    if preset not in PRESETS:
        raise InfraError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    settings, registry = load_settings(config), _registry(root)
    model = new_model(model_settings(preset), settings.features, settings.tasks, settings.training.seed)
    with registry.staging() as staged:
        export_bundle(
            model,
            staged,
            version=version,
            preset=preset,
            created_ms=time.time_ns() // 1_000_000,
            code_version=package_version("longrank"),
            max_history=settings.max_history,
        )
        registry.publish(staged)
    registry.promote(version)
    click.echo(f"{version} ({preset}) is in service in {registry.root}")


def _read_all(registry: Registry) -> tuple[list[Manifest], dict[str, str]]:
    """Oldest first; and version -> what is wrong with it."""
    manifests, damaged = [], {}
    for name in registry.names():
        try:
            manifests.append(registry.manifest(name))
        except BundleError as error:
            damaged[name] = str(error)
    return sorted(manifests, key=lambda manifest: (manifest.created_ms, manifest.version)), damaged


def _marks(registry: Registry) -> dict[str, str]:
    """Version -> its sign in the list."""
    before = registry.before()
    return ({} if before is None else {before: "<"}) | {registry.current() or "": "*"}


def _about(registry: Registry, manifest: Manifest) -> Iterator[tuple[str, str]]:
    training, tolerance = manifest.training, manifest.tolerance
    mark = _marks(registry).get(manifest.version)
    yield "in service", {"*": "yes", "<": "no; a rollback goes here"}.get(mark or "", "no")
    yield "made", _time(manifest.created_ms)
    size = sum(file.stat().st_size for file in registry.load(manifest.version).path.iterdir())
    yield "size", f"{manifest.preset}, {size:,} bytes"
    yield "tasks", ", ".join(manifest.tasks)
    yield "newest events that it encodes", f"{manifest.max_history:,}"
    if training.requests:
        first = _time(training.from_ms) if training.from_ms else "the oldest"
        yield "trained on", f"{training.requests:,} requests, {first} to {_time(training.cut_ms)}"
        yield "weights from", training.parent or "afresh"
    for partition, (first_offset, end) in training.offsets.items():
        yield partition, f"{first_offset:,} to {end:,}"
    yield "torch and ONNX differ by", f"{tolerance.measured:.1e}, allowed {tolerance.absolute:.1e}"
    if tolerance.bf16 is not None:
        yield "float32 and bfloat16", f"{tolerance.bf16.measured:.1e}, allowed {tolerance.bf16.absolute:.1e}"
    yield "code", manifest.code_version


def _parent_metrics(registry: Registry, manifest: Manifest) -> dict[str, float]:
    parent = manifest.training.parent
    return registry.manifest(parent).metrics if parent in registry.names() and parent else {}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4f}"


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
