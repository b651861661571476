"""A subtask's alarms in Flink's state, by key group: they go where the group's users go.

A group's are one value under a key of the group that is no user's. One of Flink's timers stands at the earliest of
them: after a restore it is what calls the function when no record comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import count

from pyflink.common.typeinfo import Types
from pyflink.datastream import RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor
from pyflink.datastream.timerservice import TimerService

from streaming.examples.alarms import Alarm, pack_alarms, unpack_alarms
from streaming.flink.internals import KeySwitch


class SavedAlarms:
    """What `save` was given last, in this process or before a restore.

    Args:
        remembered: users of whom the group is kept; to ask for it is a call into Java.
    """

    def __init__(self, context: RuntimeContext, keys: KeySwitch, remembered: int) -> None:
        self._keys = keys
        self._state = context.get_state(ValueStateDescriptor("alarms", Types.PICKLED_BYTE_ARRAY()))
        self._group_of = lru_cache(maxsize=remembered)(keys.key_group)
        self._key_of = _keys_of_groups(keys)
        #: Groups that have a value.
        self._there: set[int] = set()

    def load(self) -> list[Alarm]:
        """All of them. Raises StateError: they are not what this code wrote."""
        alarms: list[Alarm] = []
        for group, key in self._key_of.items():
            self._keys.enter(key)
            packed = self._state.value()
            if packed is not None:
                self._there.add(group)
                alarms += unpack_alarms(packed)
        return alarms

    def save(self, alarms: Iterable[Alarm], timers: TimerService) -> None:
        """Replaces them."""
        of_group: dict[int, list[Alarm]] = {}
        for alarm in alarms:
            of_group.setdefault(self._group_of(alarm[1]), []).append(alarm)
        for group in self._there - of_group.keys():
            self._keys.enter(self._key_of[group])
            self._state.clear()
        for group, its_alarms in of_group.items():
            self._keys.enter(self._key_of[group])
            self._state.update(pack_alarms(its_alarms))
            timers.register_event_time_timer(min(its_alarms)[0])
        self._there = set(of_group)


def is_user(key: int) -> bool:
    """Whether a timer is a user's; else it is of `SavedAlarms`, and says that some of them are due."""
    return key >= 0


def _keys_of_groups(keys: KeySwitch) -> dict[int, int]:
    """group -> the first negative number that belongs to it."""
    found: dict[int, int] = {}
    missing = set(keys.key_groups())
    for number in count(1):
        if not missing:
            return found
        group = keys.key_group(-number)
        if group in missing:
            found[group] = -number
            missing.remove(group)
    raise AssertionError("unreachable")
