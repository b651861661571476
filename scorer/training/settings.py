"""How a model is trained; everything that changes the result is here, beside the data and the warm start."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingSettings(BaseModel):
    """Frozen. The defaults are those of the `tiny` preset on two CPU cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=2, ge=1)
    #: Requests of one user that share one encoding of their common history.
    group_size: int = Field(default=8, ge=1)
    #: Groups in an optimiser step.
    groups_per_step: int = Field(default=4, ge=1)
    #: AdamW's peak learning rate, and that of the id tables.
    learning_rate: float = Field(default=2e-3, gt=0)
    table_learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    #: Share of the steps over which the rate rises; it then falls along a cosine to `final_rate` of the peak.
    warmup: float = Field(default=0.05, ge=0, lt=1)
    final_rate: float = Field(default=0.02, ge=0, le=1)
    gradient_norm: float = Field(default=1.0, gt=0)
    #: Weight of the listwise term beside the binary cross-entropy.
    listwise_weight: float = Field(default=0.3, ge=0)
    #: A request's history length is min + (max - min) * Beta(a, b), rounded up to a multiple of 8; the newest are kept.
    min_history: int = Field(default=64, ge=1)
    max_history: int = Field(default=1_000, ge=1)
    length_beta: tuple[float, float] = (0.5, 0.3)
    seed: int = Field(default=0, ge=0)
    #: Threads that share a step's groups; the result depends on it in the last bits.
    workers: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _lengths_are_in_order(self) -> TrainingSettings:
        if self.min_history > self.max_history or min(self.length_beta) <= 0:
            raise ValueError("min_history must not exceed max_history, and length_beta must be positive")
        return self
