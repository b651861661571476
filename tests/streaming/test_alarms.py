"""The queue of timers against a set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.examples.alarms import Alarm, Alarms, pack_alarms, unpack_alarms
from streaming.sequence.state import StateError

ALARM = st.tuples(st.integers(0, 30), st.integers(1, 3))
STEP = st.one_of(ALARM, st.integers(0, 30), st.none())


@given(steps=st.lists(STEP, max_size=60), most=st.integers(2, 9))
def test_every_alarm_rings_in_order_or_is_handed_over(steps: list[Alarm | int | None], most: int) -> None:
    alarms, wanted = Alarms(most), set[Alarm]()
    for step in steps:
        if isinstance(step, tuple):
            alarms.add(step)
            wanted.add(step)
            assert alarms.full == (len(wanted) > most)
        elif step is None:
            later = sorted(wanted)[len(wanted) // 2 :]
            assert alarms.hand_over() == later
            wanted.difference_update(later)
        else:
            due = {alarm for alarm in wanted if alarm[0] <= step}
            assert list(alarms.ring(step)) == sorted(due)
            wanted -= due
        assert set(alarms) == wanted
        assert len(alarms) == len(wanted)
        assert set(unpack_alarms(pack_alarms(alarms))) == wanted


def test_an_alarm_added_while_others_ring_rings_if_it_is_due() -> None:
    alarms, rung = Alarms(10), []
    alarms.add((1, 7))
    for alarm in alarms.ring(5):
        rung.append(alarm)
        if alarm == (1, 7):
            alarms.add((5, 7))
            alarms.add((6, 7))
    assert rung == [(1, 7), (5, 7)]
    assert len(alarms) == 1


def test_foreign_alarms_are_refused() -> None:
    packed = pack_alarms([(7, 1)])
    for damaged in (b"", b"\x02" + packed[1:], packed[:-1], packed + b"\0"):
        with pytest.raises(StateError):
            unpack_alarms(damaged)
