"""How a retrain runs; one YAML file, every key with its default here."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import InfraError
from scorer.features import FeatureSettings
from scorer.training.gate import GateSettings
from scorer.training.settings import TrainingSettings


class RetrainSettings(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Size of a model that starts afresh; a warm start keeps its parent's.
    preset: str = "tiny"
    #: Label columns, each a task of the model.
    tasks: tuple[str, ...] = ("touch",)
    #: Newest events of a history that the exported graphs encode.
    max_history: int = Field(default=10_000, ge=1)
    #: Requests younger than this at the start of the run wait for the next one, ms.
    settle_ms: int = Field(default=3_600_000, ge=0)
    #: The newest share of the requests is the holdout that the gate looks at.
    holdout_share: float = Field(default=0.1, gt=0, lt=1)
    #: Fewer requests than this train nothing.
    min_requests: int = Field(default=200, ge=2)
    #: Largest share of stamps that may fail to resolve.
    max_unresolved: float = Field(default=0.0, ge=0, le=1)
    features: FeatureSettings = FeatureSettings()
    training: TrainingSettings = TrainingSettings()
    gate: GateSettings = GateSettings()


def load_settings(path: Path | None) -> RetrainSettings:
    """The settings in a YAML file; the defaults without one.

    Raises:
        InfraError: the file cannot be read, or a key is unknown or out of range, with the key's place.
    """
    if path is None:
        return RetrainSettings()
    try:
        return RetrainSettings.model_validate(yaml.safe_load(path.read_text()) or {})
    except (OSError, yaml.YAMLError) as error:
        raise InfraError(f"{path}: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in error.errors())
        raise InfraError(f"{path}: {problems}") from error
