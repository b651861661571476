"""A whole scorer: what is built, in which order it starts, and in which order it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from schemas.topics import DEAD_LETTER_TOPICS
from scorer.registry.registry import Bundle, Registry
from scorer.sequences.follower import Follower
from scorer.sequences.partition import Refused, StoreError
from scorer.sequences.source import KafkaSequenceSource
from scorer.sequences.store import SequenceStore
from scorer.serving.engine import Device, Engine
from scorer.serving.kafka_transport import KafkaIntake, KafkaOutlet
from scorer.serving.loop import ScorerLoop
from scorer.serving.metrics import Metrics, MetricsServer
from scorer.serving.models import Model, ModelWatch
from scorer.serving.responses import dead_letter
from scorer.serving.settings import ServingSettings
from scorer.serving.transport import Outgoing, Outlet, TransportError

_log = logging.getLogger(__name__)

#: Of a dead letter's `stage`: the store refused the record.
_STAGE = "store"
_BEYOND_EVERY_EVENT = 1 << 62


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a scorer finds things, and its rules."""

    bootstrap: str
    registry: Path
    #: Of this scorer alone.
    store: Path
    device: Device = "cpu"
    #: ONNX Runtime's, within one operator.
    threads: int = 1
    #: Seconds between looks at the registry.
    reload_s: float = 1.0
    metrics_host: str = "127.0.0.1"
    #: 0: a free one.
    metrics_port: int = 0
    settings: ServingSettings = field(default_factory=ServingSettings)


def serve(options: ServeOptions, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        BundleError, DeviceError: the model cannot be served.
        StoreError, LayoutError: the store cannot be used.
        FollowError, KafkaError, TransportError: Kafka does not answer, or not as it must.
    """

    def build(bundle: Bundle) -> Model:
        engine = Engine(bundle, options.device, threads=options.threads)
        engine.warm_up()
        return engine

    with ExitStack() as stack:
        metrics = Metrics()
        models = stack.enter_context(ModelWatch(Registry(options.registry), build, metrics, options.reload_s))
        store = stack.enter_context(SequenceStore(options.store))
        outlet = stack.enter_context(closing(KafkaOutlet(options.bootstrap)))
        letters = StoreLetters(outlet, options.settings.drain_ms)
        follower = Follower(KafkaSequenceSource(options.bootstrap), store, letters.write)
        stack.callback(follower.close)
        intake = stack.enter_context(closing(KafkaIntake(options.bootstrap, time.monotonic)))
        loop = ScorerLoop(
            intake, outlet, follower, store, lambda: models.model, options.settings, metrics, time.monotonic
        )
        server = stack.enter_context(
            MetricsServer(
                metrics,
                lambda: loop.ready,
                lambda user_id: _head(store, user_id),
                options.metrics_host,
                options.metrics_port,
            )
        )
        _log.info(
            "scorer starts",
            extra={
                "device": options.device,
                "model": models.model.version,
                "metrics": f"http://{options.metrics_host}:{server.port}/metrics",
                "bootstrap": options.bootstrap,
                "store": str(options.store),
            },
        )
        loop.run(stop)
    _log.info("scorer has stopped")


def _head(store: SequenceStore, user_id: int) -> dict[str, int] | None:
    try:
        # No event is after this one: a read of the header alone.
        held = store.tail(user_id, _BEYOND_EVERY_EVENT)
    except StoreError:
        return None
    return {"epoch": held.epoch, "seq_no": held.seq_no, "stale": int(held.stale)}


class StoreLetters:
    """Dead letters of updates and snapshots that the store refuses: acknowledged before the store moves past them."""

    def __init__(self, outlet: Outlet, timeout_ms: int) -> None:
        self._outlet, self._timeout_ms = outlet, timeout_ms

    def write(self, refused: Sequence[Refused]) -> None:
        """Write them and wait. Raises TransportError."""
        failures: list[BaseException] = []
        for entry in refused:
            record = entry.record
            letter = dead_letter(
                entry.rejected,
                stage=_STAGE,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=record.timestamp_ms,
                key=record.key,
                value=record.value,
            )
            topic = DEAD_LETTER_TOPICS[record.topic].name
            self._outlet.send(
                Outgoing(topic, 0, record.key, letter.SerializeToString(), None),
                lambda error: failures.append(error) if error is not None else None,
            )
            _log.error(
                "record of the histories refused",
                extra={"at": f"{record.topic}/{record.partition}/{record.offset}", "error": str(entry.rejected)},
            )
        self._outlet.flush(self._timeout_ms)
        if failures:
            raise TransportError(f"a dead letter was not taken by Kafka: {failures[0]}") from failures[0]
