"""Which requests make a step together: packed to a budget of tokens, so that all steps are of one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scorer.training.settings import TrainingSettings

#: Steps that are filled at the same time: the next request goes to the first that has room for it.
_OPEN_STEPS: Final = 16


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """What a step holds at most."""

    tokens: int
    requests: int
    targets: int

    @classmethod
    def of(cls, settings: TrainingSettings, longest: int = 0) -> StepSize:
        """As the settings say, and room for a history of `longest` events."""
        tokens = max(settings.step_tokens, longest)
        return cls(tokens=tokens, requests=settings.step_requests, targets=settings.step_targets)


def plan_steps(
    tokens: NDArray[np.int64], targets: NDArray[np.int64], size: StepSize, order: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """The requests of `order`, each in one step, no step over its size.

    Args:
        tokens, targets: of each request, [n].

    Raises:
        ValueError: a request alone is over the size.
    """
    if len(order) and (tokens[order].max() > size.tokens or targets[order].max() > size.targets):
        raise ValueError(
            f"a request has {tokens[order].max()} events and one has {targets[order].max()} targets; "
            f"a step holds {size.tokens} and {size.targets}"
        )
    done: list[NDArray[np.int64]] = []
    steps: list[list[int]] = []
    room: list[list[int]] = []
    for request, t, m in zip(order.tolist(), tokens[order].tolist(), targets[order].tolist(), strict=True):
        for step, left in zip(steps, room, strict=True):
            if left[0] >= t and left[1] >= m and left[2]:
                step.append(request)
                left[0] -= t
                left[1] -= m
                left[2] -= 1
                break
        else:
            if len(steps) == _OPEN_STEPS:
                fullest = min(range(_OPEN_STEPS), key=lambda i: room[i][0])
                done.append(np.array(steps.pop(fullest), dtype=np.int64))
                room.pop(fullest)
            steps.append([request])
            room.append([size.tokens - t, size.targets - m, size.requests - 1])
    return done + [np.array(step, dtype=np.int64) for step in steps]
