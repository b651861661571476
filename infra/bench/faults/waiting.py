"""Waiting by looking: a condition, an alarm that ends the wait early, a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from infra.errors import InfraError

#: Longer than any recovery on a busy machine; what takes longer is stuck.
PATIENCE_S: Final = 180.0
_POLL_S: Final = 0.05
_T = TypeVar("_T")


def wait_until(
    look: Callable[[], _T | None],
    what: str,
    *,
    timeout_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """What `look` sees as soon as that is true.

    Raises:
        InfraError: `timeout_s` seconds went by.
    """
    deadline = clock() + timeout_s
    while True:
        seen = look()
        if seen:
            return seen
        if clock() > deadline:
            raise InfraError(f"waited {timeout_s:.0f} s for {what}")
        sleep(_POLL_S)
