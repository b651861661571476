"""How a run ended, its exit code, and the report that is kept of it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from infra.errors import InfraError


class Outcome(StrEnum):
    """How a run ended."""

    PROMOTED = "promoted"
    #: Could not run, or was broken off; run it again.
    ERROR = "error"
    #: Too few new requests to train on.
    TOO_LITTLE = "too_little"
    #: Trained, and kept out of service: labels, gate, parity or shadow.
    REFUSED = "refused"
    #: Another run holds the lock.
    LOCKED = "locked"
    #: Killed, and too long ago or under other settings to go on with; another run took its place.
    ABANDONED = "abandoned"


#: 2 is the command line's own: a wrong option.
EXIT_CODES: Final = {
    Outcome.PROMOTED: 0,
    Outcome.ERROR: 1,
    Outcome.TOO_LITTLE: 3,
    Outcome.REFUSED: 4,
    Outcome.LOCKED: 5,
}


class LockedError(InfraError):
    """Another run is at work in the same place."""

    exit_code = EXIT_CODES[Outcome.LOCKED]


class StoppedError(Exception):
    """A run that ends without a model in service, for reasons that running it again does not change."""

    def __init__(self, outcome: Outcome, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.outcome, self.reasons = outcome, reasons


@dataclass
class RetrainReport:
    """What a run did; `report.json` in its directory, beside the page."""

    outcome: Outcome = Outcome.ERROR
    version: str = ""
    parent: str | None = None
    reasons: list[str] = field(default_factory=list)
    #: How often it was begun; more than 1 after a kill.
    attempts: int = 0
    examples_read: int = 0
    requests: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    #: "task.metric" on the holdout, of the new model and of the one in service.
    metrics: dict[str, float] = field(default_factory=dict)
    in_service: dict[str, float] = field(default_factory=dict)
    #: Largest difference of a probability from torch in float32: ONNX, torch in bfloat16.
    parity: float = math.nan
    parity_bf16: float = math.nan
    shadow: dict[str, float] = field(default_factory=dict)
    #: By stage; of the attempt that finished it.
    seconds: dict[str, float] = field(default_factory=dict)
    #: The page, or empty.
    page: str = ""

    def line(self) -> str:
        """One line for alerting: `retrain: outcome=.. key=value ..`, values with a space in them as JSON strings."""
        fields: dict[str, Any] = {"outcome": self.outcome.value, "version": self.version, "parent": self.parent}
        fields |= {"requests": self.requests or None, "attempts": self.attempts if self.attempts > 1 else None}
        for name, value in self.metrics.items():
            if name.endswith((".gauc", ".auc", ".calibration")):
                fields[name] = f"{value:.4f}"
        for name, value in self.in_service.items():
            if name.endswith(".gauc"):
                fields[f"in_service.{name}"] = f"{value:.4f}"
        fields["seconds"] = f"{sum(self.seconds.values()):.1f}" if self.seconds else None
        fields |= {"reason": "; ".join(self.reasons), "report": self.page}
        return "retrain: " + " ".join(f"{name}={_shown(value)}" for name, value in fields.items() if value)

    def as_json(self) -> str:
        """One object; what is not a number is null."""
        return json.dumps(_finite(asdict(self)))


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text.isprintable() or {" ", '"'} & set(text) else text


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(of) for name, of in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
