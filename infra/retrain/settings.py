"""How a retrain runs; one YAML file, every key with its default here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import InfraError
from scorer.features import FeatureSettings
from scorer.serving.engine import Device
from scorer.training.distill import DistillSettings
from scorer.training.gate import GateSettings
from scorer.training.settings import TrainingSettings


class ParitySettings(BaseModel):
    """What three ways to compute the same may differ by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Requests of the holdout on which the exported graphs are compared with torch.
    requests: int = Field(default=16, ge=1)
    #: The same for torch in bfloat16 against float32; also what the change of gAUC rests on.
    bf16_requests: int = Field(default=128, ge=1)
    #: Largest difference of a probability, bfloat16 against float32.
    max_bf16: float = Field(default=0.05, gt=0, le=1)
    #: How much lower the gAUC may be in bfloat16.
    max_bf16_gauc_drop: float = Field(default=0.005, ge=0, le=1)


class ShadowSettings(BaseModel):
    """Requests that the new bundle answers beside the one in service before it is promoted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Of the holdout, whole users, the newest.
    requests: int = Field(default=200, ge=1)
    #: Where the two engines run.
    device: Device = "cpu"
    #: Largest difference of a score from what the evaluation computed.
    max_difference: float = Field(default=1e-3, gt=0, le=1)
    #: The mean score may differ by this factor from that of the model in service.
    max_mean_change: float = Field(default=3.0, gt=1)
    #: Largest distance between the two distributions of scores (Kolmogorov-Smirnov, 0 to 1).
    max_distance: float = Field(default=0.6, gt=0, le=1)


class KeepSettings(BaseModel):
    """What stays of old runs and old bundles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Reports of the newest runs.
    runs: int = Field(default=60, ge=1)
    #: Newest bundles, promoted or not.
    bundles: int = Field(default=10, ge=1)
    #: Bundles that were in service before the current one stay beyond that: rollbacks go there.
    rollbacks: int = Field(default=3, ge=1)


class GpuSettings(BaseModel):
    """Training over flat batches, goes on at the step where it was killed; the step's size is in `training`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cuda", "cpu"] = "cuda"
    #: Teachers first, then the student that is exported; none: one model on the labels alone.
    distill: DistillSettings | None = None
    #: Row-wise Adagrad for the id tables: their gradients are never as large as they are.
    rowwise_tables: bool = True
    #: torch.compile: half a minute at the start, a third of the time afterwards.
    compiled: bool = True


class RetrainSettings(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Size of a model that starts afresh; a warm start keeps its parent's, features too.
    preset: str = "tiny"
    #: Label columns, each a task of the model.
    tasks: tuple[str, ...] = ("touch",)
    #: Newest events of a history that the exported graphs encode.
    max_history: int = Field(default=10_000, ge=1)
    #: A run that was killed is gone on with for so long after its start; then the next run takes a new cut, ms.
    resume_ms: int = Field(default=43_200_000, ge=0)
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
    #: Without it training runs on the CPU, where requests of one user share the encoding of their history.
    gpu: GpuSettings | None = None
    gate: GateSettings = GateSettings()
    parity: ParitySettings = ParitySettings()
    shadow: ShadowSettings = ShadowSettings()
    keep: KeepSettings = KeepSettings()

    @model_validator(mode="after")
    def _a_step_holds_a_history(self) -> RetrainSettings:
        if self.gpu is not None and self.training.step_tokens < self.training.max_history:
            raise ValueError(
                f"training.step_tokens {self.training.step_tokens} is less than max_history {self.training.max_history}"
            )
        return self


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
