"""Training that can be killed: a trainer's state in a file now and then, and from there on in another process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from scorer.training.flat_train import FlatTrainer, OnReport, Throughput
from scorer.training.train import CurvePoint

_PLAN: Final = "plan.json"


@dataclass(frozen=True)
class Checkpoints:
    """Files of one run in a directory of its own.

    Raises:
        ValueError: the directory holds another run's, with the first thing that differs.
    """

    directory: Path
    #: What makes the run what it is: a run goes on only from one that was the same. JSON types.
    plan: Mapping[str, Any]
    every_steps: int = 500

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / _PLAN
        wanted = json.loads(json.dumps(self.plan))
        if not path.exists():
            _write(path, lambda part: part.write_text(json.dumps(wanted, indent=2, sort_keys=True) + "\n"))
            return
        found = json.loads(path.read_text())
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if differing:
            key = differing[0]
            raise ValueError(f"{path}: {key} was {found.get(key)!r} when this run began and is {wanted.get(key)!r} now")

    def run(
        self, name: str, trainer: FlatTrainer, on_report: OnReport | None = None
    ) -> tuple[list[CurvePoint], list[Throughput]]:
        """All of the trainer's steps, with what an earlier process did of them; the curve, and this process' rates."""
        path = self.directory / f"{name}.pt"
        curve: list[CurvePoint] = []
        if path.exists():
            saved = torch.load(path, map_location=trainer.device, weights_only=True)
            trainer.restore(saved["trainer"])
            curve = [CurvePoint(**point) for point in saved["curve"]]
        rates: list[Throughput] = []
        while trainer.step < trainer.steps:
            points, throughput = trainer.run(until=trainer.step + self.every_steps, on_report=on_report)
            curve.extend(points)
            rates.append(throughput)
            state = {"trainer": trainer.state(), "curve": [vars(point) for point in curve]}
            _write(path, lambda part, state=state: torch.save(state, part))
        trainer.model.eval()
        return curve, rates

    def array(self, name: str) -> NDArray[np.float32] | None:
        """What `keep` kept under the name; None if nothing."""
        path = self.directory / f"{name}.npy"
        if not path.exists():
            return None
        kept: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return kept

    def keep(self, name: str, array: NDArray[np.float32]) -> None:
        """Keeps an array that took long to make."""

        def save(part: Path) -> None:
            with part.open("wb") as file:
                np.save(file, array, allow_pickle=False)

        _write(self.directory / f"{name}.npy", save)


def _write(path: Path, write: Any) -> None:
    """The whole file or none: a kill leaves what was there."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
