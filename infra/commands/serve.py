"""`longrank serve`: answer score requests from Kafka."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

import click

from infra.errors import InfraError
from infra.home import home_dir, require_bootstrap

_log = logging.getLogger(__name__)

_SIGNALS = signal.SIGTERM, signal.SIGINT


@click.command("serve")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where graphs run."
)
@click.option("--bootstrap", help="Kafka's host:port; default the local cluster's.")
@click.option("--home", type=click.Path(file_okay=False), help="The local cluster's directory.")
@click.option("--registry", type=click.Path(file_okay=False, path_type=Path), help="Model bundles [HOME/registry].")
@click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), help="Histories; one scorer each [HOME/store]."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="ONNX Runtime's, per operator.")
@click.option("--max-batch", type=click.IntRange(1), default=32, show_default=True, help="Requests scored in one turn.")
@click.option(
    "--keep-mb",
    type=click.IntRange(0),
    default=512,
    show_default=True,
    help="Memory for users' keys and values between requests; 0 encodes every request afresh.",
)
@click.option(
    "--reload-seconds", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Between looks."
)
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where /metrics and /readyz listen.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0: a free one.")
def command(
    device: str,
    bootstrap: str | None,
    home: str | None,
    registry: Path | None,
    store: Path | None,
    threads: int,
    max_batch: int,
    keep_mb: int,
    reload_seconds: float,
    metrics_host: str,
    metrics_port: int,
) -> None:
    """Follow the histories, take requests as a member of the scorers' group, answer with scores and stamps.

    Logs JSON lines to standard error. SIGTERM or Ctrl-C: answers what is ready, commits, leaves the group, exits with
    0. When a scorer dies instead, nothing is lost: what was not committed is redelivered.
    """
    from kafka.errors import KafkaError

    from scorer.registry.registry import BundleError
    from scorer.sequences.layout import LayoutError
    from scorer.sequences.partition import StoreError
    from scorer.sequences.source import FollowError
    from scorer.serving.engine import DeviceError
    from scorer.serving.logs import log_as_json
    from scorer.serving.process import ServeOptions, serve
    from scorer.serving.settings import ServingSettings
    from scorer.serving.transport import TransportError

    log_as_json()
    stop = threading.Event()
    for number in _SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    base = home_dir(home)
    options = ServeOptions(
        bootstrap=require_bootstrap(bootstrap, home),
        registry=registry or base / "registry",
        store=store or base / "store",
        device="cuda" if device == "cuda" else "cpu",
        threads=threads,
        reload_s=reload_seconds,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        settings=ServingSettings(max_batch=max_batch, kept_bytes=keep_mb << 20),
    )
    try:
        serve(options, stop)
    except (BundleError, DeviceError, FollowError, KafkaError, LayoutError, StoreError, TransportError) as error:
        _log.critical("scorer ends", extra={"error": f"{type(error).__name__}: {error}"})
        raise InfraError(f"{type(error).__name__}: {error}") from error
