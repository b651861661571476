"""The two graphs of a bundle.

`encode.onnx`: the arrays of `featurise_history` to `keys`, `values`, float32 [N, L, H, K].
`score.onnx`: the arrays of `featurise_targets`, `keys` and `values` to `probabilities`, float32 [m, tasks].

Input names are the features' own. L (0 and up) and m (1 and up) are free in both.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from schemas.history import HISTORY_DTYPE
from scorer.features import HistoryHead, featurise_history, featurise_targets
from scorer.model.stca import STCA

OPSET: Final = 20
ENCODE_OUTPUTS: Final = ("keys", "values")
SCORE_OUTPUT: Final = "probabilities"
#: Any sizes that torch.export does not take for constants (0 and 1 it would).
_EXAMPLE_LENGTH, _EXAMPLE_TARGETS = 7, 5


class _Encode(nn.Module):
    def __init__(self, model: STCA) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.model.encode(features)


class _Score(nn.Module):
    def __init__(self, model: STCA) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Tensor], keys: Tensor, values: Tensor) -> Tensor:
        return torch.sigmoid(self.model.score(features, keys, values))


def export_graphs(model: STCA, encode_path: Path, score_path: Path) -> None:
    """Writes both graphs, fp32, weights inside, from a model on the CPU."""
    settings = model.features
    head = HistoryHead(newest_ms=0, seq_no=_EXAMPLE_LENGTH)
    history = np.zeros(_EXAMPLE_LENGTH, dtype=HISTORY_DTYPE)
    ids = np.arange(1, _EXAMPLE_TARGETS + 1, dtype=np.uint64)
    history_features = tensors(featurise_history(history, 1, head, settings))
    target_features = tensors(featurise_targets(ids, ids, 0, head, settings))

    length = torch.export.Dim("L", min=0, max=1 << 20)
    targets = torch.export.Dim("m", min=1, max=1 << 20)
    with _inference(model), _quiet(), torch.no_grad():
        keys, values = model.encode(history_features)
        _export(
            _Encode(model),
            {"features": history_features},
            encode_path,
            inputs=list(history_features),
            outputs=list(ENCODE_OUTPUTS),
            dynamic={"features": {name: {0: length} for name in history_features}},
        )
        by_target = {name: {0: targets} if name.startswith("target_") else {} for name in target_features}
        _export(
            _Score(model),
            {"features": target_features, "keys": keys, "values": values},
            score_path,
            inputs=[*target_features, *ENCODE_OUTPUTS],
            outputs=[SCORE_OUTPUT],
            dynamic={"features": by_target, "keys": {1: length}, "values": {1: length}},
        )
    _require_free(encode_path, dict.fromkeys(history_features, 0))
    _require_free(
        score_path,
        {name: 0 for name in target_features if name.startswith("target_")} | dict.fromkeys(ENCODE_OUTPUTS, 1),
    )


def tensors(features: dict[str, Any]) -> dict[str, Tensor]:
    """Feature arrays as torch tensors, sharing memory."""
    return {name: torch.from_numpy(array) for name, array in features.items()}


def _export(
    module: nn.Module, inputs_by_name: dict[str, Any], path: Path, inputs: list[str], outputs: list[str], dynamic: Any
) -> None:
    torch.onnx.export(
        module.eval(),
        (),
        str(path),
        kwargs=inputs_by_name,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=dynamic,
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _require_free(path: Path, expected: dict[str, int]) -> None:
    """torch.export takes a size for a constant where the model's code forces it to; then the graph fails in serving."""
    graph = onnx.load(str(path)).graph
    for value in graph.input:
        if value.name in expected and not value.type.tensor_type.shape.dim[expected[value.name]].dim_param:
            raise AssertionError(f"{path.name}: axis {expected[value.name]} of {value.name} became a constant")


@contextmanager
def _inference(model: STCA) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecated calls and logs every pass; neither is ours to act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
