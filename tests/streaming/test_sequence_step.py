"""The step over a dict against an oracle that keeps everything, under random programs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_oracle import DictState, Oracle

from schemas.digest import make_epoch
from schemas.packing import PACKING_VERSION, PACKING_VERSIONS, unpack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from streaming.sequence.state import HEADER_VERSION, Header, StateError
from streaming.sequence.step import Outcome, SequenceSettings, SequenceStep

USER = 77
GENERATION = 3


def rules(**changes: int | float) -> SequenceSettings:
    values: dict[str, int | float] = {
        "generation": GENERATION,
        "capacity": 5,
        "as_of_events": 2,
        "dedupe_window_events": 4,
        "snapshot_every_events": 6,
        "snapshot_max_age_ms": 1_000,
        "snapshot_jitter": 0.5,
        "chunk_events": 3,
    }
    return SequenceSettings(**(values | changes))  # type: ignore[arg-type]


@dataclass
class Op:
    """An event id and time; a restore from the last copy; or processing time that passes."""

    kind: str
    number: int = 0
    time_ms: int = 0


OPS = st.lists(
    st.one_of(
        st.builds(Op, st.just("event"), st.integers(0, 40), st.integers(0, 50)),
        st.builds(Op, st.just("event"), st.integers(0, 40), st.integers(0, 50)),
        st.builds(Op, st.just("event"), st.integers(0, 40), st.integers(0, 50)),
        st.builds(Op, st.just("erase"), st.integers(30, 45), st.just(9)),
        st.builds(Op, st.sampled_from(["copy", "restore"])),
        st.builds(Op, st.just("pass"), st.integers(1, 1_500)),
    ),
    max_size=60,
)
RULES = st.builds(
    rules,
    capacity=st.integers(1, 9),
    as_of_events=st.integers(0, 5),
    dedupe_window_events=st.integers(1, 6),
    snapshot_every_events=st.integers(1, 12),
    snapshot_jitter=st.floats(0, 1),
    chunk_events=st.integers(1, 5),
    chunk_version=st.sampled_from(PACKING_VERSIONS),
    packing_version=st.sampled_from(PACKING_VERSIONS),
)


def message(op: Op) -> BehaviourEvent:
    event = BehaviourEvent(
        schema_version=1,
        user_id=USER,
        event_id=op.number.to_bytes(16, "big"),
        event_time_ms=1_700_000_000_000 + op.time_ms,
    )
    if op.kind == "erase":
        event.erase.CopyFrom(Erase())
    else:
        event.interaction.CopyFrom(Interaction(item_id=op.number + 1, action=op.time_ms % 3, watch_ms=op.time_ms))
    return event


def check_snapshot(snapshot: SequenceSnapshot, oracle: Oracle) -> None:
    first = oracle.first_seq_no()
    assert (snapshot.user_id, snapshot.epoch) == (USER, oracle.epoch)
    assert (snapshot.first_seq_no, snapshot.seq_no) == (first, len(oracle.events))
    assert snapshot.base_digest == oracle.digest(first - 1)
    assert snapshot.digest == oracle.digest(len(oracle.events))
    assert unpack_history(snapshot.packed).tobytes() == b"".join(oracle.events[first - 1 :])


@dataclass
class World:
    """Step, oracle, timers and clock together."""

    rules: SequenceSettings
    state: DictState = field(default_factory=DictState)
    timers: set[int] = field(default_factory=set)
    now_ms: int = 10_000
    newest_snapshot: tuple[int, int] = (0, 0)
    updates: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.oracle = Oracle(USER, self.rules)
        self.step = SequenceStep(self.rules)
        #: When the oldest uncovered update was written; None when all are covered.
        self.uncovered_since: int | None = None

    def book(self, outcome: Outcome) -> None:
        if outcome.timer_ms is not None:
            self.timers.add(outcome.timer_ms)
        if outcome.update is not None:
            self.updates.append(outcome.update.SerializeToString(deterministic=True))
            if self.uncovered_since is None:
                self.uncovered_since = self.now_ms
        if outcome.snapshot is not None:
            check_snapshot(outcome.snapshot, self.oracle)
            self.uncovered_since = None

    def take(self, event: BehaviourEvent, offset: int) -> Outcome:
        times = [int.from_bytes(encoded[:8], "little") for encoded in self.oracle.events]
        verdict = self.oracle.take(event)
        outcome = self.step.on_event(self.state, event, 5, offset, self.now_ms)
        assert outcome.duplicate == (verdict == "duplicate")
        assert outcome.erased == (verdict == "erased")
        if verdict == "accepted":
            count = len(self.oracle.events)
            update = outcome.update
            assert isinstance(update, SequenceUpdate)
            assert (update.epoch, update.seq_no) == (self.oracle.epoch, count)
            assert (update.prev_digest, update.digest) == (self.oracle.digest(count - 1), self.oracle.digest(count))
            assert (update.event_id, update.interaction) == (event.event_id, event.interaction)
            assert (update.event_time_ms, update.source_partition, update.source_offset) == (
                event.event_time_ms,
                5,
                offset,
            )
            assert outcome.late == (bool(times) and event.event_time_ms < max(times))
        else:
            assert outcome.update is None
        if verdict == "erased":
            assert outcome.snapshot is not None
            assert outcome.snapshot.erased
            assert not self.state.chunks
        self.book(outcome)
        return outcome

    def let_pass(self, until_ms: int) -> None:
        while self.timers and min(self.timers) <= until_ms:
            self.now_ms = min(self.timers)
            self.timers.discard(self.now_ms)
            self.book(self.step.on_timer(self.state, USER, self.now_ms))
        self.now_ms = until_ms


@settings(max_examples=300)
@given(rules=RULES, program=OPS)
def test_step_equals_oracle(rules: SequenceSettings, program: list[Op]) -> None:
    world = World(rules)
    saved = copy.deepcopy(world)
    for offset, op in enumerate(program):
        if op.kind == "copy":
            saved = copy.deepcopy(world)
        elif op.kind == "restore":
            world = copy.deepcopy(saved)
        elif op.kind == "pass":
            world.let_pass(world.now_ms + op.number)
        else:
            world.take(message(op), offset)
        # At most one timer per user waits, and no update stays uncovered longer than allowed.
        assert len(world.timers) <= 1
        if world.uncovered_since is not None:
            assert world.now_ms - world.uncovered_since <= rules.snapshot_max_age_ms
            assert world.timers
        kept_chunks = -(-rules.kept_events // rules.chunk_events) + 1
        assert len(world.state.chunks) <= kept_chunks


@settings(max_examples=100)
@given(rules=RULES, program=OPS, cut=st.integers(0, 60))
def test_a_replay_from_any_copy_gives_the_same_bytes(rules: SequenceSettings, program: list[Op], cut: int) -> None:
    events = [(offset, op) for offset, op in enumerate(program) if op.kind in ("event", "erase")]
    whole = World(rules)
    copied = None
    for at, (offset, op) in enumerate(events):
        if at == min(cut, len(events) - 1):
            copied = copy.deepcopy(whole)
        whole.take(message(op), offset)
    if copied is None:
        return
    copied.now_ms += 12_345  # The clock is another one; numbers, digests and bytes are not.
    for offset, op in events[min(cut, len(events) - 1) :]:
        copied.take(message(op), offset)
    assert copied.updates == whole.updates
    assert copied.state.chunks == whole.state.chunks


def feed(world: World, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        world.step.on_event(world.state, message(Op("event", number, number)), 0, number, 0)


def test_an_append_costs_the_same_at_any_length() -> None:
    world = World(rules(capacity=100, as_of_events=20, chunk_events=10, snapshot_every_events=10_000))
    sizes = []
    for number in range(600):
        before = world.state.touched_chunks
        feed(world, 1, number)
        assert world.state.touched_chunks - before <= 2
        assert world.state.header is not None
        sizes.append(len(world.state.header))
    assert max(sizes[300:]) <= max(sizes[:20])


def test_other_capacity_after_a_restore() -> None:
    world = World(rules(capacity=40, as_of_events=0, snapshot_every_events=1))
    feed(world, 60)
    for capacity in (10, 80):
        step = SequenceStep(rules(capacity=capacity, as_of_events=0, snapshot_every_events=1))
        outcome = step.on_event(world.state, message(Op("event", 1_000 + capacity, 0)), 0, 0, 0)
        snapshot = outcome.snapshot
        assert snapshot is not None
        held = snapshot.seq_no - snapshot.first_seq_no + 1
        assert held == len(unpack_history(snapshot.packed))
        # What was evicted does not come back; nothing is promised that is not there.
        assert 10 <= held <= 13


def test_a_user_who_only_erases_opens_the_epoch_after_the_first() -> None:
    world = World(rules())
    world.take(message(Op("erase", 1)), 0)
    assert world.oracle.epoch == make_epoch(GENERATION, 1)
    assert world.take(message(Op("erase", 1)), 1).duplicate


def test_ids_match_whole_only() -> None:
    header = Header.open(USER, make_epoch(1, 0), 64)
    header.remember(bytes([1] * 16), 4)
    header.remember(bytes([2] * 16), 4)
    assert not header.remembers(bytes([1] * 8 + [2] * 8))
    assert header.remembers(bytes([2] * 16))


def test_jitter_is_a_pure_function_within_bounds() -> None:
    step = SequenceStep(rules(snapshot_max_age_ms=1_000_000))
    ages = [step.snapshot_age_ms(user) for user in range(1, 2_000)]
    assert min(ages) >= 500_000
    assert max(ages) <= 1_000_000
    assert len(set(ages)) > 1_900
    assert step.snapshot_age_ms(1) == 716_719  # SplitMix64 seeded with 1 gives 0x910A2DEC89025CC1.


def test_foreign_state_is_refused_with_its_place() -> None:
    world = World(rules(snapshot_every_events=100))
    feed(world, 7)
    assert world.state.header is not None
    good = world.state.header
    for damaged in (bytes([HEADER_VERSION + 1]) + good[1:], good[:-1], b""):
        world.state.header = damaged
        with pytest.raises(StateError):
            feed(world, 1, 7)
    world.state.header = good
    eager = SequenceStep(rules(snapshot_every_events=1))
    for chunk in (bytes([PACKING_VERSION + 1]) + world.state.chunks[1][1:], world.state.chunks[1][:-1]):
        world.state.chunks[1] = chunk
        with pytest.raises(StateError, match="chunk 1"):
            eager.on_event(copy.deepcopy(world.state), message(Op("event", 99, 0)), 0, 0, 0)
    del world.state.chunks[1]
    with pytest.raises(StateError, match="chunk 1 is missing"):
        eager.on_event(world.state, message(Op("event", 99, 0)), 0, 0, 0)
