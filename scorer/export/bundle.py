"""Stage a bundle: graphs, weights, checked parity, manifest. Publishing it atomically is the registry's job."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import onnx
import torch
from torch import Tensor

from schemas.settings import to_mapping
from scorer.export.graphs import export_graphs
from scorer.export.parity import ParityCase, ParityError, measure_parity, synthetic_cases
from scorer.model.stca import STCA
from scorer.registry.manifest import (
    ENCODE_GRAPH,
    MANIFEST_NAME,
    SCORE_GRAPH,
    LowPrecision,
    Manifest,
    Tolerance,
    TrainingRange,
)

#: torch's state dict, for the next warm start; nothing else of torch is in a bundle.
WEIGHTS_NAME: Final = "weights.pt"
#: fp32 on both sides; sums of up to 10,000 terms in another order.
DEFAULT_TOLERANCE: Final = 1e-4
_PARITY_SEED: Final = 7


def export_bundle(
    model: STCA,
    directory: Path,
    *,
    version: str,
    preset: str,
    created_ms: int,
    code_version: str,
    max_history: int,
    training: TrainingRange | None = None,
    metrics: dict[str, float] | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    parity_cases: Sequence[ParityCase] = (),
    bf16: LowPrecision | None = None,
) -> Manifest:
    """Writes a whole bundle, its manifest last, into `directory`, which is made and must be empty.

    Args:
        parity_cases: real requests to compare on, beside the synthetic ones.
        bf16: what was measured of the model in bfloat16, for the manifest.

    The same model gives the same bytes, on the same machine with the same versions.

    Raises:
        ParityError: a probability differs by more than `tolerance`.
        FileExistsError: `directory` has something in it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; stage every bundle in a directory of its own")
    export_graphs(model, directory / ENCODE_GRAPH, directory / SCORE_GRAPH)
    for graph in (ENCODE_GRAPH, SCORE_GRAPH):
        _forget_origin(directory / graph)
    torch.save(model.state_dict(), directory / WEIGHTS_NAME)
    measured = measure_parity(
        model,
        directory / ENCODE_GRAPH,
        directory / SCORE_GRAPH,
        [*synthetic_cases(_PARITY_SEED), *parity_cases],
    )
    if measured > tolerance:
        raise ParityError(f"bundle {version}: ONNX differs from torch by {measured:.2e}, allowed are {tolerance:.2e}")
    manifest = Manifest(
        version=version,
        created_ms=created_ms,
        code_version=code_version,
        preset=preset,
        tasks=model.tasks,
        max_history=max_history,
        features=to_mapping(model.features),
        training=training or TrainingRange(),
        metrics=metrics or {},
        tolerance=Tolerance(absolute=tolerance, measured=measured, bf16=bf16),
        files={path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())},
    )
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _forget_origin(path: Path) -> None:
    """The exporter notes at every node which lines of which files it comes from: in another checkout the same model
    would have other bytes."""
    graph = onnx.load(str(path))
    for node in graph.graph.node:
        node.ClearField("metadata_props")
    for function in graph.functions:
        for node in function.node:
            node.ClearField("metadata_props")
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    onnx.save(graph, str(path))


def load_weights(bundle: Path) -> dict[str, Tensor]:
    """The state dict of a bundle, on the CPU.

    Raises:
        FileNotFoundError: the bundle has no weights.
    """
    path = bundle / WEIGHTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: a bundle without weights can serve but not start a training")
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights
