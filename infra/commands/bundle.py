"""`longrank bundle`: the model bundles of a registry."""

from __future__ import annotations

import time
from importlib.metadata import version as package_version
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from infra.errors import InfraError
from infra.home import home_dir
from scorer.registry.registry import BundleError, Registry

_REGISTRY = click.option(
    "--registry", "root", type=click.Path(file_okay=False, path_type=Path), help="Model bundles [HOME/registry]."
)


def _registry(root: Path | None) -> Registry:
    return Registry(root or home_dir() / "registry")


@click.group("bundle")
def command() -> None:
    """List, show, initialise, promote and roll back model bundles."""


@command.command("list")
@_REGISTRY
def list_bundles(root: Path | None) -> None:
    """Every published version, oldest first; * is in service."""
    registry = _registry(root)
    current = registry.current()
    table = Table("", "version", "preset", "tasks", "requests", "parent", "metrics on its holdout")
    for name in registry.versions():
        manifest = registry.load(name).manifest
        metrics = ", ".join(f"{metric} {value:.4f}" for metric, value in manifest.metrics.items() if "auc" in metric)
        table.add_row(
            "*" if name == current else "",
            name,
            manifest.preset,
            ", ".join(manifest.tasks),
            f"{manifest.training.requests:,}",
            manifest.training.parent or "",
            metrics,
        )
    Console().print(table)


@command.command("show")
@click.argument("version", required=False)
@_REGISTRY
def show(version: str | None, root: Path | None) -> None:
    """Print the manifest of VERSION, or of the one in service, after checking its files."""
    registry = _registry(root)
    name = version or registry.current()
    if name is None:
        raise InfraError(f"{registry.root}: no bundle is in service")
    try:
        click.echo(registry.load(name).manifest.model_dump_json(indent=2))
    except BundleError as error:
        raise InfraError(str(error)) from error


@command.command("promote")
@click.argument("version")
@_REGISTRY
def promote(version: str, root: Path | None) -> None:
    """Put VERSION in service; running scorers take it up."""
    try:
        _registry(root).promote(version)
    except BundleError as error:
        raise InfraError(str(error)) from error
    click.echo(f"{version} is in service")


@command.command("rollback")
@_REGISTRY
def rollback(root: Path | None) -> None:
    """Put the version in service that was before the current one."""
    try:
        click.echo(f"{_registry(root).rollback()} is in service again")
    except BundleError as error:
        raise InfraError(str(error)) from error


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
    try:
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
    except BundleError as error:
        raise InfraError(str(error)) from error
    click.echo(f"{version} ({preset}) is in service in {registry.root}")
