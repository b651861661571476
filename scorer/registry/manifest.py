"""What a model bundle says about itself: `manifest.json` in a directory named by its version."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_NAME: Final = "manifest.json"
ENCODE_GRAPH: Final = "encode.onnx"
SCORE_GRAPH: Final = "score.onnx"
#: Raised when the graphs' inputs or the features' meaning change; a scorer refuses what it does not know.
INPUT_SCHEMA_VERSION: Final = 1


# What a release does not know yet, it passes over: scorers are not all replaced at once, and the older ones must read
# what a newer retrain publishes. What would change the graphs' meaning raises INPUT_SCHEMA_VERSION.
_GROWING: Final = ConfigDict(frozen=True, extra="ignore")


class LowPrecision(BaseModel):
    """torch in bfloat16 against torch in float32, on requests of the holdout."""

    model_config = _GROWING

    requests: int
    #: Largest difference of a probability that is allowed, and the largest found.
    absolute: float
    measured: float
    #: By task: gAUC in bfloat16 less gAUC in float32.
    gauc_change: dict[str, float]


class Tolerance(BaseModel):
    """Largest |torch fp32 - ONNX| that the export allows, on probabilities."""

    model_config = _GROWING

    absolute: float
    measured: float
    #: None: not measured.
    bf16: LowPrecision | None = None


class LabelWindow(BaseModel):
    """Label counts of whole UTC days, by request time."""

    model_config = _GROWING

    #: yyyy-mm-dd, both included.
    first_day: str
    last_day: str
    requests: int
    targets: int
    #: Task -> targets with label 1.
    positives: dict[str, int]


class TrainingRange(BaseModel):
    """What a bundle was trained on."""

    model_config = _GROWING

    #: Kafka's id of the topic that the offsets are of; empty where it is not known.
    topic_id: str = ""
    #: "topic/partition" -> [first offset, end offset) of the examples.
    offsets: dict[str, tuple[int, int]] = Field(default_factory=dict)
    #: Requests with request_time_ms in [from_ms, cut_ms).
    from_ms: int = 0
    cut_ms: int = 0
    requests: int = 0
    #: Version whose weights training began from; None for a fresh initialisation.
    parent: str | None = None
    #: Of the newest days up to the cut, holdout included: what the next run's label rates are compared with.
    labels: tuple[LabelWindow, ...] = ()


class Manifest(BaseModel):
    """A bundle's contents and provenance."""

    model_config = _GROWING

    version: str
    input_schema_version: int = INPUT_SCHEMA_VERSION
    created_ms: int
    code_version: str
    preset: str
    tasks: tuple[str, ...]
    #: Newest events of a history that are encoded.
    max_history: int
    #: `scorer.features` settings, as `to_mapping(FeatureSettings)` gives them.
    features: dict[str, Any]
    training: TrainingRange = TrainingRange()
    #: Metrics on the holdout.
    metrics: dict[str, float] = Field(default_factory=dict)
    tolerance: Tolerance
    #: File name -> sha256, every file of the bundle but the manifest.
    files: dict[str, str]
