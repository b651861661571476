"""One request's way through the model: the history encoded once, all candidates scored against it.

The only file of serving that knows ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from schemas.history import HISTORY_DTYPE, History
from schemas.settings import from_mapping
from scorer.features import FeatureSettings, HistoryHead, featurise_history, featurise_targets, rebase_terms
from scorer.registry.manifest import ENCODE_GRAPH, SCORE_GRAPH, Manifest
from scorer.registry.registry import Bundle

Device = Literal["cpu", "cuda"]

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: The graphs' own names, beside the features'.
_KEYS, _VALUES, _PROBABILITIES = "keys", "values", "probabilities"


class DeviceError(Exception):
    """The device that was asked for cannot be used. There is no falling back to another."""


@dataclass(frozen=True, slots=True)
class EncodedHistory:
    """A user as the score graph sees one: keys and values float32 [layers, L, heads, head_dim]."""

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    head: HistoryHead


class Engine:
    """A bundle's two graphs on one device. Thread-safe, as ONNX Runtime's sessions are."""

    def __init__(self, bundle: Bundle, device: Device, *, threads: int = 1) -> None:
        """
        Args:
            bundle: a checked one (`Registry.load`).
            threads: of ONNX Runtime within one operator.

        Raises:
            DeviceError: the device's provider is not in this build, or the session did not get it.
        """
        self.manifest: Manifest = bundle.manifest
        self.features = from_mapping(FeatureSettings, bundle.manifest.features)
        self._encode = _session(bundle, ENCODE_GRAPH, device, threads)
        self._score = _session(bundle, SCORE_GRAPH, device, threads)

    @property
    def version(self) -> str:
        """The model version that stamps name."""
        return self.manifest.version

    @property
    def tasks(self) -> tuple[str, ...]:
        """Columns of what `score` gives."""
        return self.manifest.tasks

    @property
    def max_history(self) -> int:
        """Newest events that `encode` takes."""
        return self.manifest.max_history

    def encode(self, history: History, first_seq_no: int) -> EncodedHistory:
        """Events [L] numbered from `first_seq_no`, at most the manifest's `max_history`."""
        head = HistoryHead.of(history, first_seq_no)
        keys, values = self._encode.run([_KEYS, _VALUES], featurise_history(history, first_seq_no, head, self.features))
        return EncodedHistory(keys, values, head)

    def extend(self, encoded: EncodedHistory, dropped: int, new: History, head: HistoryHead) -> EncodedHistory:
        """An encoded history without its oldest `dropped` events and with `new` ones [n] after it: what `encode` gives
        for the whole, up to rounding, for the price of n events.

        Args:
            head: of the whole.

        Raises:
            ValueError: `head` is before the encoded history's, or before one of the new events.
        """
        if not dropped and not len(new):
            return encoded
        features = featurise_history(new, head.seq_no - len(new) + 1, head, self.features)
        keys, values = self._encode.run([_KEYS, _VALUES], features)
        factors = rebase_terms(encoded.head, head, self.features)
        return EncodedHistory(
            _append(encoded.keys, dropped, keys, factors), _append(encoded.values, dropped, values, factors), head
        )

    def score(
        self,
        encoded: EncodedHistory,
        item_ids: NDArray[np.uint64],
        group_ids: NDArray[np.uint64],
        request_time_ms: int,
    ) -> NDArray[np.float32]:
        """Probabilities [m, tasks] of candidates [m], each independent of the others; m is at least 1."""
        targets = featurise_targets(item_ids, group_ids, request_time_ms, encoded.head, self.features)
        inputs: dict[str, NDArray[Any]] = {**targets, _KEYS: encoded.keys, _VALUES: encoded.values}
        probabilities: NDArray[np.float32] = self._score.run([_PROBABILITIES], inputs)[0]
        return probabilities

    def warm_up(self, lengths: tuple[int, ...] = (0, 1, 256), targets: int = 32) -> None:
        """Run both graphs once at several sizes, so that no request pays for first-time allocations."""
        ids = np.arange(1, targets + 1, dtype=np.uint64)
        for length in lengths:
            self.score(self.encode(np.zeros(length, dtype=HISTORY_DTYPE), 1), ids, ids, 0)


def _append(
    old: NDArray[np.float32], dropped: int, new: NDArray[np.float32], factors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """[layers, L - dropped + n, heads, head_dim]; `factors` [J] move the old ones' terms, the last J columns."""
    kept = old[:, dropped:]
    joined: NDArray[np.float32] = np.concatenate([kept, new], axis=1)
    joined[:, : kept.shape[1], :, -len(factors) :] *= factors
    return joined


def _session(bundle: Bundle, graph: str, device: Device, threads: int) -> Any:
    provider = _PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise DeviceError(
            f"--device {device}: this ONNX Runtime has no {provider}; it has {ort.get_available_providers()}"
        )
    if device == "cuda":
        # CUDA's libraries come as Python packages of their own, where the loader does not look.
        ort.preload_dlls(directory="")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A waiting thread must not spin: the cores belong to the rest of the process, too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(bundle.path / graph), options, providers=[provider])
    if provider not in session.get_providers():
        # ONNX Runtime itself only warns, and goes on with the CPU.
        raise DeviceError(
            f"--device {device}: {provider} could not be set up on this machine; ONNX Runtime's own lines above say"
            " which library or driver is missing"
        )
    return session
