"""Ending a command that has started others."""

from __future__ import annotations

import signal
import sys


def unwind_when_told_to_end() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit, with 128 and the signal's number: what the command started ends
    with it, however it is asked to end, because it unwinds instead of dying where it stands."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
