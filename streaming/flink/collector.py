"""Python's cyclic garbage collector in a TaskManager."""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 100_000
_MIDDLE: Final = 50
_OLD: Final = 100


def collect_rarely() -> None:
    """For a function that keeps many values decoded: the collector would look through all of them again and again, a
    fifth of the join's time, and they are in no cycles. What is imported is never looked at again.

    The setting is the process's, which all jobs of a TaskManager share.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
