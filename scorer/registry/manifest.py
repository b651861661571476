"""What a model bundle says about itself: `manifest.json` in a directory named by its version."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_NAME: Final = "manifest.json"
ENCODE_GRAPH: Final = "encode.onnx"
SCORE_GRAPH: Final = "score.onnx"
#: Raised when the graphs' inputs or the features' meaning change; a scorer refuses what it does not know.
INPUT_SCHEMA_VERSION: Final = 1


class Tolerance(BaseModel):
    """Largest |torch fp32 - ONNX| that the export allows, on probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    absolute: float
    measured: float


class TrainingRange(BaseModel):
    """What a bundle was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: "topic/partition" -> [first offset, end offset) of the examples.
    offsets: dict[str, tuple[int, int]] = Field(default_factory=dict)
    #: Requests with request_time_ms in [from_ms, cut_ms).
    from_ms: int = 0
    cut_ms: int = 0
    requests: int = 0
    #: Version whose weights training began from; None for a fresh initialisation.
    parent: str | None = None


class Manifest(BaseModel):
    """A bundle's contents and provenance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    input_schema_version: int = INPUT_SCHEMA_VERSION
    created_ms: int
    code_version: str
    preset: str
    tasks: tuple[str, ...]
    #: Newest events of a history that are encoded.
    max_history: int
    #: `scorer.features` settings, as its `FeatureSettings.model_dump()` gives them.
    features: dict[str, Any]
    training: TrainingRange = TrainingRange()
    #: Metrics on the holdout.
    metrics: dict[str, float] = Field(default_factory=dict)
    tolerance: Tolerance
    #: File name -> sha256, every file of the bundle but the manifest.
    files: dict[str, str]
