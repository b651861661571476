"""Steps of training timed: ragged and equal lengths, many targets a request and one, and the loader alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from infra.bench.training.workload import made_up
from scorer.features import FeatureSettings
from scorer.model import ModelSettings
from scorer.model.flops import forward_flops
from scorer.training.ceilings import copied_bytes, gemm_flops
from scorer.training.columns import Columns
from scorer.training.flat_predict import stca_forward
from scorer.training.flat_train import FlatTrainer, Throughput, stca_tables
from scorer.training.settings import TrainingSettings
from scorer.training.train import new_model

#: Compilation, the captured graph and the allocator's first blocks are behind the run by then.
_WARM_UP_STEPS: Final = 8
#: Requests are drawn for this many steps more than are timed, so that the last is as full as the others.
_SPARE_STEPS: Final = 24


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured."""

    model: ModelSettings
    features: FeatureSettings
    device: torch.device
    #: Mean, and longest, history length in tokens; step size in tokens.
    mean: int
    longest: int
    step_tokens: int
    #: Targets of a request.
    targets: int
    few_targets: int
    #: Of the log that the histories are cut from.
    events: int
    steps: int
    repeats: int
    compiled: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians over the repeats."""

    targets_per_second: float
    requests_per_second: float
    tokens_per_second: float
    flops_per_second: float
    step_ms: float
    loader_tokens_per_second: float
    waited_share: float
    #: None on a processor.
    peak_memory_gb: float | None


def measure(work: Work, say: Callable[[str], None]) -> dict[str, Any]:
    """The bench's figures, limits and ratios.

    Args:
        say: takes a line after each part.
    """
    gemm = gemm_flops(work.device, 8192 if work.device.type == "cuda" else 1024)
    copied = copied_bytes(work.device, 1 << 30 if work.device.type == "cuda" else 1 << 26)
    say(f"matrix product {gemm / 1e12:.1f} TFLOP/s, copy {copied / 1e9:.0f} GB/s")
    parts = {
        "ragged": _measure(work, work.targets, ragged=True),
        "equal": _measure(work, work.targets, ragged=False),
        "few": _measure(work, work.few_targets, ragged=True),
        "pointwise": _measure(work, 1, ragged=True),
    }
    for name, part in parts.items():
        say(f"{name}: {part}")
    ragged, equal, few, pointwise = parts.values()
    figures = {f"{name}.{key}": value for name, part in parts.items() for key, value in vars(part).items()}
    return {
        "figures": figures,
        "limits": {"gemm_flops_per_second": gemm, "copied_bytes_per_second": copied},
        "ratios": {
            "share_of_gemm": ragged.flops_per_second / gemm,
            "equal_share_of_gemm": equal.flops_per_second / gemm,
            "ragged_to_equal": ragged.flops_per_second / equal.flops_per_second,
            "targets_to_pointwise": ragged.targets_per_second / pointwise.targets_per_second,
            "few_targets_to_pointwise": few.targets_per_second / pointwise.targets_per_second,
            "loader_to_training": ragged.loader_tokens_per_second / ragged.tokens_per_second,
        },
    }


def _measure(work: Work, targets: int, *, ragged: bool) -> Measured:
    # A U-shaped Beta of the wanted mean; of equal lengths, the mean itself.
    share = work.mean / work.longest
    lengths = (8, work.longest) if ragged else (work.mean, work.mean)
    steps = _WARM_UP_STEPS + work.steps * work.repeats + _SPARE_STEPS
    requests = -(-steps * work.step_tokens // work.mean)
    # Room for half as many requests again as a step has on average: short ones come in crowds.
    at_once = -(-3 * work.step_tokens // (2 * work.mean)) if ragged else work.step_tokens // work.mean
    settings = TrainingSettings(
        epochs=1,
        min_history=lengths[0],
        max_history=lengths[1],
        length_beta=(share, 1 - share),
        step_tokens=work.step_tokens,
        step_requests=at_once,
        step_targets=at_once * targets,
        learning_rate=1e-4,
        seed=work.seed,
    )
    columns = Columns.of(made_up(requests, targets, work.longest, work.seed, work.events), work.features)
    model = new_model(work.model, work.features, columns.tasks, work.seed).to(work.device)
    if work.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = FlatTrainer(
        model,
        columns,
        np.arange(requests),
        settings,
        device=work.device,
        forward=stca_forward(model),
        tables=stca_tables(model),
        compiled=work.compiled,
    )
    trainer.run(until=_WARM_UP_STEPS)
    runs = [trainer.run(until=trainer.step + work.steps)[1] for _ in range(work.repeats)]
    flops = forward_flops(work.model, work.features, len(columns.tasks))
    run = sorted(runs, key=lambda one: one.seconds / one.tokens)[len(runs) // 2]
    return Measured(
        targets_per_second=run.targets / run.seconds,
        requests_per_second=run.requests / run.seconds,
        tokens_per_second=run.tokens / run.seconds,
        flops_per_second=flops.training(run.tokens, run.targets, run.pairs) / run.seconds,
        step_ms=1e3 * run.seconds / run.steps,
        loader_tokens_per_second=_loader_rate(trainer, run),
        waited_share=run.waited_seconds / run.seconds,
        peak_memory_gb=torch.cuda.max_memory_allocated() / 1e9 if work.device.type == "cuda" else None,
    )


def _loader_rate(trainer: FlatTrainer, run: Throughput) -> float:
    """Tokens per second of the loader alone, into the buffers that training reads."""
    started, tokens = time.perf_counter(), 0
    for batch in trainer.batches(run.steps):
        # The last of the offsets is the step's end, the one before it where its requests end.
        tokens += int(batch.token_offsets[-2])
    return tokens / (time.perf_counter() - started)


def tiny(work: Work) -> Work:
    """The same bench in seconds on a processor: for tests."""
    small = replace(work, mean=64, longest=256, step_tokens=1_024, targets=8, few_targets=2, events=5_000)
    return replace(small, steps=2, repeats=1)
