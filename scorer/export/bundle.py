"""Stage a bundle: graphs, weights, checked parity, manifest. Publishing it atomically is the registry's job."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from scorer.export.graphs import export_graphs
from scorer.export.parity import ParityCase, ParityError, measure_parity, synthetic_cases
from scorer.model.stca import STCA
from scorer.registry.manifest import ENCODE_GRAPH, MANIFEST_NAME, SCORE_GRAPH, Manifest, Tolerance, TrainingRange

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
) -> Manifest:
    """Writes a whole bundle, its manifest last, into `directory`, which is made and must be empty.

    Args:
        parity_cases: real requests to compare on, beside the synthetic ones.

    Raises:
        ParityError: a probability differs by more than `tolerance`.
        FileExistsError: `directory` has something in it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; stage every bundle in a directory of its own")
    export_graphs(model, directory / ENCODE_GRAPH, directory / SCORE_GRAPH)
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
        features=model.features.model_dump(mode="json"),
        training=training or TrainingRange(),
        metrics=metrics or {},
        tolerance=Tolerance(absolute=tolerance, measured=measured),
        files={path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())},
    )
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


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
