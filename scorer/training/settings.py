"""How a model is trained, on the processor (groups of a user's requests) or over flat batches; see `Recipe`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from schemas.settings import require


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The defaults are those of the `tiny` preset on two CPU cores.

    Raises:
        ValueError: a field is out of range.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    epochs: int = 2
    #: On the processor: requests of one user that share one encoding of their common history.
    group_size: int = 8
    #: Groups in an optimiser step.
    groups_per_step: int = 4
    #: AdamW's peak learning rate, and that of the id tables.
    learning_rate: float = 2e-3
    table_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    #: Share of the steps over which the rate rises; it then falls along a cosine to `final_rate` of the peak.
    warmup: float = 0.05
    final_rate: float = 0.02
    gradient_norm: float = 1.0
    #: Weight of the listwise term beside the binary cross-entropy.
    listwise_weight: float = 0.3
    #: A request's history length is min + (max - min) * Beta(a, b), rounded up to a multiple of 8; the newest are kept.
    min_history: int = 64
    max_history: int = 1_000
    length_beta: tuple[float, float] = (0.5, 0.3)
    seed: int = 0
    #: On the processor: threads that share a step's groups; the result depends on it in the last bits.
    workers: int = 2
    #: Over flat batches: what a step holds at most, of all requests together.
    step_tokens: int = 131_072
    step_requests: int = 256
    step_targets: int = 8_192
    #: With row-wise tables: decay of the rows that a step touches, times their learning rate.
    table_decay: float = 0.0

    def __post_init__(self) -> None:
        whole = ("epochs", "group_size", "groups_per_step", "min_history", "max_history", "workers")
        for name in (*whole, "step_tokens", "step_requests", "step_targets"):
            require(getattr(self, name) >= 1, f"{name} must be 1 or more")
        for name in ("learning_rate", "table_learning_rate", "gradient_norm"):
            require(0 < getattr(self, name) < math.inf, f"{name} must be positive")
        for name in ("weight_decay", "listwise_weight", "table_decay", "seed"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative")
        require(0 <= self.warmup < 1 and 0 <= self.final_rate <= 1, "warmup is in [0, 1), final_rate in [0, 1]")
        require(
            self.min_history <= self.max_history and min(self.length_beta) > 0,
            "min_history must not exceed max_history, and length_beta must be positive",
        )
