"""Snapshots that all fall due at once are spread out: after a restore, every user's whose time came meanwhile. Pure."""

from __future__ import annotations

from typing import Final

#: So much of unused time may be made up for: a second's snapshots may come together.
_BURST_MS: Final = 1_000.0


class Pacer:
    """Gives every user who asks a time of the user's own, at most `per_second` of them in any second but the burst's.

    What it has promised is forgotten with it: who comes then asks anew.
    """

    def __init__(self, per_second: float) -> None:
        self._every_ms = 1_000 / per_second
        self._free_ms = float("-inf")
        self._promised: dict[int, int] = {}

    def forget(self, user_id: int) -> int | None:
        """The time that this user was promised, and not any more; None when there is none."""
        return self._promised.pop(user_id, None)

    def time_of(self, user_id: int, now_ms: int) -> int:
        """When the user's turn is, ms: now, or the time that is promised to the user from now on."""
        turn_ms = max(self._free_ms, now_ms - _BURST_MS)
        self._free_ms = turn_ms + self._every_ms
        if turn_ms <= now_ms:
            return now_ms
        self._promised[user_id] = promised_ms = int(turn_ms) + 1
        return promised_ms
