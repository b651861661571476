"""Decoded values between the keyed state and the logic over it. Pure but for the states handed in.

A value is packed and written once for many changes: when `flush` is called, before the state is saved; a few at a time
in `write_some`; or when others push it out. Nothing is lost with a process: what was not written since the state was
saved is made again from the same records.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
P = TypeVar("P")
V = TypeVar("V")


class WriteBack(Generic[K, P, V]):
    """The values that were used last.

    Args:
        kept: how many; with 0, every change is written at once.
        write: puts a value where it belongs.
        together: how many `write_some` writes.
    """

    def __init__(self, kept: int, write: Callable[[P, K, V], None], together: int) -> None:
        self._limit = kept
        self._together = together
        self._write_value = write
        self._kept: OrderedDict[K, V] = OrderedDict()
        #: Those of them that differ from the state, and where they belong; who has waited longest comes first.
        self._unwritten: dict[K, tuple[V, P]] = {}

    def look(self, key: K) -> V | None:
        """The value, if it is here; that it was asked for keeps it no longer."""
        return self._kept.get(key)

    def get(self, key: K) -> V | None:
        """Likewise; it will be kept longer than those that were used before."""
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def keep(self, key: K, value: V) -> None:
        """A value as the state has it."""
        if self._limit:
            self._kept[key] = value
            self._shrink()

    def put(self, place: P, key: K, value: V) -> None:
        """The value has changed. `place` is held on to until it is written."""
        waiting = self._unwritten.get(key)
        if waiting is not None and waiting[0] is value:
            return
        if not self._limit:
            self._write_value(place, key, value)
            return
        self._kept[key] = value
        self._unwritten[key] = value, place
        self._shrink()

    def put_at_once(self, place: P, key: K, value: V) -> None:
        """The value has changed and is written before anything else happens."""
        self._unwritten.pop(key, None)
        self._write_value(place, key, value)

    def settle(self, key: K, value: V) -> None:
        """The value is as the state has it after all."""
        self._unwritten.pop(key, None)
        self.keep(key, value)

    def forget(self, key: K) -> None:
        """The value is no more; the state is the caller's."""
        self._kept.pop(key, None)
        self._unwritten.pop(key, None)

    def write_some(self) -> None:
        """Writes those that have waited longest: called now and then, it leaves less for `flush` to stop for."""
        for key in list(islice(self._unwritten, self._together)):
            self._write(key)

    def flush(self) -> None:
        """Writes all that are not written: before the state is saved, and before anyone else reads it."""
        for key in list(self._unwritten):
            self._write(key)

    def _shrink(self) -> None:
        if len(self._kept) > self._limit:
            oldest, _ = self._kept.popitem(last=False)
            if oldest in self._unwritten:
                self._write(oldest)

    def _write(self, key: K) -> None:
        value, place = self._unwritten.pop(key)
        self._write_value(place, key, value)
