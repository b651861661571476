"""Waiting by looking: a condition, an alarm that ends the wait early, a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from infra.errors import InfraError

#: Longer than any recovery on a busy machine; what takes longer is stuck.
PATIENCE_S: Final = 180.0
_POLL_S: Final = 0.05
#: The alarm asks other processes, which have better things to do.
_ALARM_EVERY_LOOKS: Final = 20
_T = TypeVar("_T")


def wait_until(
    look: Callable[[], _T | None],
    what: str,
    *,
    alarm: Callable[[], None] | None = None,
    timeout_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """What `look` sees as soon as that is true.

    Args:
        alarm: raises when there is nothing to wait for any more.

    Raises:
        InfraError: `timeout_s` seconds went by.
    """
    deadline = clock() + timeout_s
    looks = 0
    while True:
        seen = look()
        if seen:
            return seen
        looks += 1
        if alarm is not None and looks % _ALARM_EVERY_LOOKS == 0:
            alarm()
        if clock() > deadline:
            raise InfraError(f"waited {timeout_s:.0f} s for {what}")
        sleep(_POLL_S)
