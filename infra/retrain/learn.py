"""The model of a run: where it begins, its training, and reading it back."""

from __future__ import annotations

import shutil
from typing import Final

import numpy as np
import torch

from infra.errors import InfraError
from infra.retrain.outcome import Outcome, StoppedError
from infra.retrain.plan import Plan
from infra.retrain.runs import WEIGHTS_NAME, Run
from infra.retrain.settings import GpuSettings, RetrainSettings
from schemas.settings import from_mapping
from scorer.export import load_weights
from scorer.features import FeatureSettings
from scorer.model import STCA, model_settings
from scorer.registry.registry import Bundle
from scorer.training.dataset import RankingDataset
from scorer.training.flat_train import Report
from scorer.training.recipe import Recipe, fit
from scorer.training.train import CurvePoint, OnStep, new_model, save_curve, set_base_rates, train

_CURVE: Final = "curve.csv"
_CHECKPOINTS: Final = "checkpoints"


def is_warm(plan: Plan, parent: Bundle) -> bool:
    """Whether training goes on from the parent's weights; one that was never trained is an initialisation."""
    return not plan.cold and bool(parent.manifest.training.requests)


def preset_of(plan: Plan, parent: Bundle, settings: RetrainSettings) -> str:
    """The size of the run's model."""
    return parent.manifest.preset if is_warm(plan, parent) else settings.preset


def untrained(plan: Plan, parent: Bundle, settings: RetrainSettings) -> STCA:
    """The run's model with fresh weights.

    Raises:
        InfraError: a warm start from a model with other tasks.
    """
    warm = is_warm(plan, parent)
    if warm and parent.manifest.tasks != settings.tasks:
        raise InfraError(
            f"{parent.manifest.version} has the tasks {', '.join(parent.manifest.tasks)}, the settings say "
            f"{', '.join(settings.tasks)}: start afresh with --cold"
        )
    features = from_mapping(FeatureSettings, parent.manifest.features) if warm else settings.features
    size = model_settings(preset_of(plan, parent, settings))
    return new_model(size, features, settings.tasks, settings.training.seed)


def learn(
    run: Run, parent: Bundle, settings: RetrainSettings, older: RankingDataset, on_step: OnStep | None = None
) -> None:
    """Train on the requests before the holdout; leaves weights and curve.

    Raises:
        InfraError: the parent's weights are those of another release's model, or there is no GPU for the settings.
        StoppedError: the loss or a weight is not finite; the same data would do it again.
    """
    model = untrained(run.plan, parent, settings)
    if is_warm(run.plan, parent):
        try:
            model.load_state_dict(load_weights(parent.path))
        except RuntimeError as error:
            raise InfraError(
                f"the weights of {parent.manifest.version} do not fit the model of this release: start afresh with "
                "--cold"
            ) from error
    else:
        set_base_rates(model, older)
    try:
        if settings.gpu is None:
            curve = train(model, older, settings.training, on_step)
        else:
            model, curve = _learn_flat(run, parent, settings, settings.gpu, model, older, on_step)
    except ValueError as error:
        raise InfraError(f"training: {error}") from error
    except FloatingPointError as error:
        raise StoppedError(Outcome.REFUSED, f"training: {error}") from error
    broken = [name for name, weights in model.state_dict().items() if not torch.isfinite(weights.float()).all()]
    if broken:
        raise StoppedError(Outcome.REFUSED, f"training: not finite: {', '.join(broken)}")
    with run.replacing(_CURVE) as path:
        save_curve(curve, path)
    with run.replacing(WEIGHTS_NAME) as path, path.open("wb") as file:
        # To a file, not to a path: torch writes a path's name into the file.
        torch.save(model.state_dict(), file)
    if (run.path / _CHECKPOINTS).exists():
        shutil.rmtree(run.path / _CHECKPOINTS)


def _learn_flat(
    run: Run,
    parent: Bundle,
    settings: RetrainSettings,
    gpu: GpuSettings,
    start: STCA,
    older: RankingDataset,
    on_step: OnStep | None,
) -> tuple[STCA, list[CurvePoint]]:
    """Over flat batches, with checkpoints in the run's directory; the model comes back on the CPU."""
    if gpu.device == "cuda" and not torch.cuda.is_available():
        raise InfraError("settings: gpu.device is cuda, and torch sees no CUDA device here")
    recipe = Recipe(
        model=start.settings,
        features=start.features,
        training=settings.training,
        distill=gpu.distill,
        rowwise_tables=gpu.rowwise_tables,
        compiled=gpu.compiled,
    )

    def on_progress(_name: str, report: Report) -> None:
        if on_step is not None:
            on_step(report.point, report.steps)

    fitted = fit(
        older,
        np.arange(len(older)),
        recipe,
        settings.training.seed,
        device=torch.device(gpu.device),
        weights=start.state_dict() if is_warm(run.plan, parent) else None,
        checkpoints=run.path / _CHECKPOINTS,
        on_progress=on_progress,
    )
    return fitted.model.cpu(), fitted.curve


def learnt(run: Run, parent: Bundle, settings: RetrainSettings) -> STCA:
    """What `learn` made."""
    model = untrained(run.plan, parent, settings)
    model.load_state_dict(torch.load(run.path / WEIGHTS_NAME, map_location="cpu", weights_only=True))
    return model.eval()


def loss_curve(run: Run) -> list[float]:
    """The losses of the steps; none where training did not end."""
    path = run.path / _CURVE
    if not path.exists():
        return []
    header, *lines = path.read_text().splitlines()
    column = header.split(",").index("loss")
    return [float(line.split(",")[column]) for line in lines]
