"""The step over a dict against an oracle that keeps everything, under random programs."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_oracle import DictState, Oracle

from schemas.digest import make_epoch
from schemas.history import HISTORY_DTYPE, decode_events, encode_event
from schemas.packing import PACKING_VERSION, PACKING_VERSIONS, pack_history, unpack_history
from schemas.reasons import Rejected
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, Seed
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
        st.builds(Op, st.just("seed"), st.integers(0, 5), st.integers(0, 3)),
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
        event_id=(op.number + 1).to_bytes(16, "big"),
        event_time_ms=1_700_000_000_000 + op.time_ms,
    )
    if op.kind == "part":
        # Seed `number` of 1 .. 3 parts; its parts differ in length, some name their events' ids, one is a rebuild.
        event.event_id = (1_000 + op.number).to_bytes(16, "big")
        parts = op.number % 3 + 1
        rows = np.zeros(op.time_ms + op.number + 1, dtype=HISTORY_DTYPE)
        rows["item_id"], rows["event_time_ms"] = 900 + np.arange(len(rows)), 1_600_000_000_000 + op.time_ms
        event.seed.CopyFrom(Seed(part=op.time_ms, parts=parts, packed=pack_history(rows), rebuild=op.number == 4))
        if op.time_ms + 1 == parts and op.number % 2:
            event.seed.event_ids = b"".join(
                number.to_bytes(16, "big") for number in range(op.number + 1, op.number + 4)
            )
    elif op.kind == "erase":
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
    cached_users: int = 0

    def __post_init__(self) -> None:
        self.oracle = Oracle(USER, self.rules)
        self.step = SequenceStep(self.rules, self.cached_users)
        #: When the oldest uncovered update was written; None when all are covered.
        self.uncovered_since: int | None = None

    def book(self, outcome: Outcome) -> None:
        if outcome.timer_ms is not None:
            self.timers.add(outcome.timer_ms)
        if outcome.update is not None:
            self.updates.append(outcome.update)
            if self.uncovered_since is None:
                self.uncovered_since = self.now_ms
        if outcome.snapshot is not None:
            check_snapshot(outcome.snapshot, self.oracle)
            self.uncovered_since = None

    def seed(self, op: Op, offset: int) -> None:
        """The seed's parts from 0 up to, not including, part `time_ms`; or that part alone, out of order or not."""
        for part in range(op.time_ms) if op.time_ms <= op.number % 3 + 1 else [op.number % 3]:
            self.take(message(Op("part", op.number, part)), offset)

    def take(self, event: BehaviourEvent, offset: int) -> Outcome:
        times = [int.from_bytes(encoded[:8], "little") for encoded in self.oracle.events]
        verdict = self.oracle.take(event)
        before = copy.deepcopy(self.state)
        try:
            outcome = self.step.on_event(self.state, event, 5, offset, self.now_ms)
        except Rejected:
            assert (verdict, self.state) == ("refused", before)
            return Outcome()
        assert verdict != "refused"
        assert outcome.seeded == (verdict == "seeded")
        assert outcome.seed_part == (verdict == "part")
        assert outcome.duplicate == (verdict == "duplicate")
        assert outcome.erased == (verdict == "erased")
        if verdict == "accepted":
            count = len(self.oracle.events)
            assert outcome.update is not None
            update = SequenceUpdate.FromString(outcome.update)
            assert update.SerializeToString(deterministic=True) == outcome.update
            assert (update.epoch, update.seq_no) == (self.oracle.epoch, count)
            assert (update.prev_digest, update.digest) == (self.oracle.digest(count - 1), self.oracle.digest(count))
            assert (update.event_id, update.interaction) == (event.event_id, event.interaction)
            assert (update.event_time_ms, update.source_partition, update.source_offset) == (
                event.event_time_ms,
                5,
                offset,
            )
            assert outcome.late_ms == max(0, max(times, default=0) - event.event_time_ms)
        else:
            assert outcome.update is None
        if verdict == "erased":
            assert outcome.snapshot is not None
            assert outcome.snapshot.erased
            assert all(number == -1 for number in self.state.chunks)
        self.book(outcome)
        return outcome

    def let_pass(self, until_ms: int) -> None:
        while self.timers and min(self.timers) <= until_ms:
            self.now_ms = min(self.timers)
            self.timers.discard(self.now_ms)
            self.book(self.step.on_timer(self.state, USER, self.now_ms, self.now_ms))
        self.now_ms = until_ms


def play(world: World, op: Op, offset: int) -> None:
    if op.kind == "seed":
        world.seed(op, offset)
    else:
        world.take(message(op), offset)


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    """Blocks of ids that the small windows here need several of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streaming.sequence.state.IDS_PER_BLOCK", 2)
        yield


@settings(max_examples=300)
@given(rules=RULES, program=OPS, cached_users=st.integers(0, 1))
def test_step_equals_oracle(rules: SequenceSettings, program: list[Op], cached_users: int) -> None:
    world = World(rules, cached_users=cached_users)
    saved = copy.deepcopy(world)
    for offset, op in enumerate(program):
        if op.kind == "copy":
            world.step.headers.flush()
            saved = copy.deepcopy(world)
        elif op.kind == "restore":
            world = copy.deepcopy(saved)
            # Who restores starts with nothing but the state.
            world.step = SequenceStep(rules, cached_users)
        elif op.kind == "pass":
            world.let_pass(world.now_ms + op.number)
        else:
            play(world, op, offset)
        # At most one timer per user waits, and no update stays uncovered longer than allowed.
        assert len(world.timers) <= 1
        if world.uncovered_since is not None:
            assert world.now_ms - world.uncovered_since <= rules.snapshot_max_age_ms
            assert world.timers
        kept_chunks = -(-rules.kept_events // rules.chunk_events) + 1
        assert sum(number >= 0 for number in world.state.chunks) <= kept_chunks


@settings(max_examples=100)
@given(rules=RULES, program=OPS, cut=st.integers(0, 60))
def test_a_replay_from_any_copy_gives_the_same_bytes(rules: SequenceSettings, program: list[Op], cut: int) -> None:
    events = [(offset, op) for offset, op in enumerate(program) if op.kind in ("event", "erase", "seed")]
    whole = World(rules)
    copied = None
    for at, (offset, op) in enumerate(events):
        if at == min(cut, len(events) - 1):
            copied = copy.deepcopy(whole)
        play(whole, op, offset)
    if copied is None:
        return
    copied.now_ms += 12_345  # The clock is another one; numbers, digests and bytes are not.
    for offset, op in events[min(cut, len(events) - 1) :]:
        play(copied, op, offset)
    assert copied.updates == whole.updates
    assert copied.state.chunks == whole.state.chunks


@settings(max_examples=100, deadline=None)
@given(
    rules=RULES,
    program=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12), st.sampled_from(["event", "event", "erase"]))),
)
def test_what_is_cached_changes_nothing(rules: SequenceSettings, program: list[tuple[int, int, str]]) -> None:
    worlds = []
    for cached_users in (0, 2):
        step = SequenceStep(rules, cached_users)
        states: dict[int, DictState] = defaultdict(DictState)
        outcomes = []
        for offset, (user_id, number, kind) in enumerate(program):
            event = message(Op(kind, number, number))
            event.user_id = user_id
            outcomes.append(step.on_event(states[user_id], event, 0, offset, offset))
            if outcomes[-1].timer_ms is not None:
                outcomes.append(step.on_timer(states[user_id], user_id, outcomes[-1].timer_ms, outcomes[-1].timer_ms))
        step.headers.flush()
        worlds.append((outcomes, {user_id: vars(state) for user_id, state in states.items()}))
    assert worlds[0] == worlds[1]


def test_what_fell_due_while_the_job_stood_still_is_covered_little_by_little() -> None:
    per_second, users = 10, range(1, 51)
    some = rules(snapshot_max_per_second=per_second)
    step, states = SequenceStep(some), {user_id: DictState() for user_id in users}
    timers: dict[int, int] = {}
    for user_id in users:
        for number in (0, 1):
            event = message(Op("event", number, number))
            event.user_id = user_id
            outcome = step.on_event(states[user_id], event, 0, number, 0)
        assert outcome.timer_ms is not None
        timers[user_id] = outcome.timer_ms
    # Restored a day later: every timer fires at once, then each when it was told to.
    step, now_ms, covered_at = SequenceStep(some), 86_400_000, []
    while timers:
        for user_id, timer_ms in sorted(timers.items(), key=lambda item: item[1]):
            if timer_ms > now_ms:
                break
            outcome = step.on_timer(states[user_id], user_id, timers.pop(user_id), now_ms)
            if outcome.snapshot is None:
                assert outcome.timer_ms is not None
                assert outcome.timer_ms > now_ms
                timers[user_id] = outcome.timer_ms
            else:
                covered_at.append(now_ms)
                assert outcome.snapshot_age_ms >= 86_000_000
        now_ms = min(timers.values(), default=now_ms)
    assert len(covered_at) == len(users)
    # A burst of a second's, and then as many in every second, none of them put off twice.
    assert covered_at.count(86_400_000) == per_second + 1
    rest = np.array(covered_at[per_second + 1 :])
    assert np.all(np.diff(rest) >= 1_000 // per_second - 1)
    assert rest[-1] - 86_400_000 <= 1_000 * len(users) / per_second


def test_a_foreign_timer_does_not_cost_a_user_the_promised_turn() -> None:
    step = SequenceStep(rules(snapshot_max_per_second=1))
    timers = {}
    states = {user_id: DictState() for user_id in (1, 2, 3)}
    for user_id, state in states.items():
        for number in (0, 1):
            event = message(Op("event", number, number))
            event.user_id = user_id
            outcome = step.on_event(state, event, 0, number, 0)
        assert outcome.timer_ms is not None
        timers[user_id] = outcome.timer_ms
    late_ms = 86_400_000
    outcomes = [step.on_timer(states[user_id], user_id, timers[user_id], late_ms) for user_id in (1, 2, 3)]
    promised_ms = outcomes[2].timer_ms
    assert promised_ms is not None
    assert step.on_timer(states[3], 3, late_ms + 7, late_ms + 7) == Outcome()
    assert step.on_timer(states[3], 3, promised_ms, promised_ms).snapshot is not None


def test_a_timer_that_fired_is_not_waited_for_after_a_restore() -> None:
    world = World(rules(), cached_users=1)
    feed(world, 2)
    world.step.headers.flush()
    (due_ms,) = {world.step.snapshot_age_ms(USER)}
    assert world.step.on_timer(world.state, USER, due_ms, due_ms).snapshot is not None
    # No batch has come since: nobody calls flush before the state is saved.
    world.step = SequenceStep(world.rules, 1)
    assert world.step.on_event(world.state, message(Op("event", 2, 0)), 0, 2, 5_000).timer_ms is not None


@pytest.mark.parametrize(("before", "after"), [(9, 3), (3, 9), (2, 1), (9, 1)])
def test_another_window_after_a_restore(before: int, after: int) -> None:
    world = World(rules(dedupe_window_events=before))
    feed(world, 40)
    world.step = SequenceStep(rules(dedupe_window_events=after))
    feed(world, 1, 40)
    # As many as both windows held are still known; all that the new one holds, once it has filled.
    known = min(before + 1, after)
    assert_remembered(world, range(41 - known, 41), remembered=True)
    feed(world, 20, 41)
    assert_remembered(world, range(61 - after, 61), remembered=True)
    assert_remembered(world, range(61 - after - 1, 61 - after), remembered=False)
    assert len(world.state.ids) <= after


def assert_remembered(world: World, numbers: range, *, remembered: bool) -> None:
    for number in numbers:
        state = copy.deepcopy(world.state)
        outcome = world.step.on_event(state, message(Op("event", number, number)), 0, 0, 0)
        assert outcome.duplicate == remembered, number


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
    header.remember(DictState(), bytes([1] * 16), 4)
    header.remember(DictState(), bytes([2] * 16), 4)
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


def seed(rows: np.ndarray, name: bytes, sizes: list[int], **last: object) -> list[BehaviourEvent]:
    """The records of a seed of so many events per part."""
    ends = np.cumsum(sizes)
    assert ends[-1] == len(rows)
    parts = [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return [
        BehaviourEvent(
            schema_version=1,
            user_id=USER,
            event_id=name,
            event_time_ms=1_700_000_000_000,
            seed=Seed(
                part=part,
                parts=len(parts),
                packed=pack_history(each),
                **(last if part + 1 == len(parts) else {}),  # type: ignore[arg-type]
            ),
        )
        for part, each in enumerate(parts)
    ]


def rows_of(events: list[BehaviourEvent]) -> np.ndarray:
    return decode_events(b"".join(encode_event(event.event_time_ms, event.interaction) for event in events))


@pytest.mark.parametrize("sizes", [[40], [1, 39], [13, 13, 14]])
@pytest.mark.parametrize("live_first", [0, 5, 30])
def test_a_seeded_user_is_the_one_who_was_fed_event_by_event(sizes: list[int], live_first: int) -> None:
    some = rules(capacity=50, as_of_events=30, dedupe_window_events=100)
    events = [message(Op("event", number, number)) for number in range(100)]
    fed, seeded = World(some), World(some)
    for offset, event in enumerate(events):
        fed.take(event, offset)
    early, live = events[:40], events[40:]
    records = seed(rows_of(early), b"s" * 16, sizes, event_ids=b"".join(event.event_id for event in early))
    for offset, event in enumerate([*live[:live_first], *records, *live[live_first:]]):
        seeded.take(event, offset)
    assert seeded.oracle.events == fed.oracle.events
    assert seeded.oracle.ids == fed.oracle.ids
    # Duplicates of what was seeded and of what was live are found, and so is the seed itself.
    for event in [early[-1], live[0], live[-1], *records]:
        assert seeded.take(event, 0).duplicate


@pytest.mark.parametrize("seeded", [9, 10, 11])
@pytest.mark.parametrize("live", [0, 1, 3])
def test_the_snapshot_of_a_seed_about_as_long_as_what_is_kept(seeded: int, live: int) -> None:
    world = World(rules(capacity=6, as_of_events=4))
    for number in range(live):
        world.take(message(Op("event", number, number)), number)
    rows = rows_of([message(Op("event", 20 + number, number)) for number in range(seeded)])
    (record,) = seed(rows, b"s" * 16, [seeded])
    assert world.take(record, 99).seeded  # World holds the snapshot against the oracle.


def test_events_that_came_twice_around_a_seed_are_there_once() -> None:
    some = rules(capacity=50, as_of_events=30, dedupe_window_events=100)
    events = [message(Op("event", number, number)) for number in range(20)]
    world = World(some)
    for offset, event in enumerate(events[5:]):
        world.take(event, offset)
    known = b"".join(event.event_id for event in events[:10])
    (record,) = seed(rows_of(events[:10]), b"s" * 16, [10], event_ids=known)
    assert world.take(record, 99).seeded
    assert world.oracle.events == [encode_event(event.event_time_ms, event.interaction) for event in events]


def test_an_erase_overtakes_a_seed_under_way_and_its_redelivery() -> None:
    world = World(rules())
    first, second = seed(np.zeros(4, dtype=HISTORY_DTYPE), b"s" * 16, [2, 2])
    assert world.take(first, 0).seed_part
    assert world.take(message(Op("erase", 1)), 1).erased
    assert world.take(second, 2).duplicate
    assert world.take(first, 3).duplicate
    assert world.oracle.events == []


def test_a_rebuild_does_not_bring_back_what_was_erased_since() -> None:
    world = World(rules())
    (record,) = seed(np.zeros(4, dtype=HISTORY_DTYPE), b"s" * 16, [4], rebuild=True)
    assert world.take(message(Op("erase", 1)), 0).erased
    with pytest.raises(Rejected, match="seed_superseded"):
        world.step.on_event(world.state, record, 0, 1, 0)


def test_a_seed_of_more_events_than_allowed_is_refused_before_they_are_kept() -> None:
    world = World(rules(max_seed_events=5))
    first, second = seed(np.zeros(6, dtype=HISTORY_DTYPE), b"s" * 16, [3, 3])
    world.step.on_event(world.state, first, 0, 0, 0)
    with pytest.raises(Rejected, match="it may have 5 events"):
        world.step.on_event(world.state, second, 0, 1, 0)


def test_damaged_reset_notes_are_refused() -> None:
    world = World(rules())
    (record,) = seed(np.zeros(1, dtype=HISTORY_DTYPE), b"s" * 16, [1])
    world.state.chunks[-1] = b"\x09"
    with pytest.raises(StateError, match="reset notes"):
        world.step.on_event(world.state, record, 0, 0, 0)
