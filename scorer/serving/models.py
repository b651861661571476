"""The model in service, and the thread that takes up a new one without a request noticing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from schemas.history import History
from scorer.features import HistoryHead
from scorer.registry.registry import Bundle, BundleError, Registry
from scorer.serving.engine import EncodedHistory
from scorer.serving.metrics import Metrics

_log = logging.getLogger(__name__)

#: A version that was refused is tried again after so many looks: a registry may be copied while it is looked at.
_RETRY_AFTER_LOOKS = 30


class Model(Protocol):
    """What serving needs of an engine."""

    @property
    def version(self) -> str:
        """Named in every stamp."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Columns of what `score` gives."""

    @property
    def max_history(self) -> int:
        """Newest events that it takes."""

    def encode(self, history: History, first_seq_no: int) -> EncodedHistory:
        """The user once."""

    def extend(self, encoded: EncodedHistory, dropped: int, new: History, head: HistoryHead) -> EncodedHistory:
        """The same user some events later."""

    def score(
        self,
        encoded: EncodedHistory,
        item_ids: NDArray[np.uint64],
        group_ids: NDArray[np.uint64],
        request_time_ms: int,
    ) -> NDArray[np.float32]:
        """Probabilities [m, tasks]."""


#: Makes a bundle ready to serve: sessions built, warmed up.
Build = Callable[[Bundle], Model]


class ModelWatch:
    """Loads what the registry says is in service, at once and then whenever it changes.

    A new model is built in a thread of its own, beside the one in service, and is there for whoever reads `model` next.
    One that cannot be loaded is logged and counted, and the old one stays.
    """

    def __init__(self, registry: Registry, build: Build, metrics: Metrics, interval_s: float) -> None:
        """
        Raises:
            BundleError: no bundle is in service, or that one is damaged.
            DeviceError: the device cannot be used.
        """
        self._registry, self._build, self._metrics, self._interval_s = registry, build, metrics, interval_s
        version = registry.current()
        if version is None:
            raise BundleError(f"{registry.root}: no bundle is in service; `longrank bundle init` or `promote` one")
        self._model = build(registry.load(version))
        metrics.model.labels(self._model.version).set(1)
        self._refused: str | None = None
        self._looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="model-watch", daemon=True)

    @property
    def model(self) -> Model:
        """The one in service now."""
        return self._model

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Take up what the registry says now."""
        try:
            version = self._registry.current()
        except OSError as error:
            self._metrics.reloads.labels("refused").inc()
            _log.error("registry cannot be read, the model in service stays", extra={"error": str(error)})
            return
        if version is None or version == self._model.version:
            return
        if version == self._refused and self._looks < _RETRY_AFTER_LOOKS:
            self._looks += 1
            return
        try:
            model = self._build(self._registry.load(version))
        except Exception as error:  # whatever is wrong with a new bundle, the one in service goes on
            self._refused, self._looks = version, 0
            self._metrics.reloads.labels("refused").inc()
            _log.error(
                "bundle refused, the model in service stays",
                extra={"version": version, "in_service": self._model.version, "error": str(error)},
                exc_info=not isinstance(error, BundleError),
            )
            return
        old, self._model = self._model, model
        self._refused = None
        self._metrics.model.labels(old.version).set(0)
        self._metrics.model.labels(model.version).set(1)
        self._metrics.reloads.labels("taken").inc()
        _log.info("model taken up", extra={"version": model.version, "before": old.version})

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.look()
