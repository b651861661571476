"""The join against an oracle that sees all records at once; any arrival order gives the same examples."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.partitioner import user_key
from schemas.reasons import Reason
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Candidates,
    Impression,
    RankingResponse,
    Stamp,
)
from schemas.v1.training_pb2 import TrainingExample
from streaming.dead_letters import Source
from streaming.examples.join import ExampleJoin, ExampleSettings, JoinOutcome
from streaming.examples.labels import LabelRule
from streaming.examples.pending import EntryKey, pack_pending, unpack_pending
from streaming.sequence.state import StateError

USER = 9
START_MS = 1_750_000_000_000
WINDOW_MS = 1_000
NEVER_MS = -(1 << 63)
RULES = (LabelRule(task="touch"), LabelRule(task="share", actions=frozenset({3, 4})))
SETTINGS = ExampleSettings(label_window_ms=WINDOW_MS, labels=RULES, impressions_topic="ranking.impressions.v1")


@dataclass
class DictState:
    entries: dict[int, bytes] = field(default_factory=dict)

    def get(self, due_ms: int) -> bytes | None:
        return self.entries.get(due_ms)

    def put(self, due_ms: int, pending: bytes) -> None:
        self.entries[due_ms] = pending

    def remove(self, due_ms: int) -> None:
        del self.entries[due_ms]


def column(items: list[int]) -> bytes:
    return np.asarray(items, dtype="<u8").tobytes()


@dataclass(frozen=True)
class Response:
    request: int
    number: int
    items: tuple[int, ...]
    groups: bool = True
    invalid: bool = False


@dataclass(frozen=True)
class Shown:
    request: int
    response: int
    items: tuple[int, ...]
    first_position: int = 0
    after_ms: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Feedback:
    request: int
    response: int
    event: int
    item: int
    action: int = 1
    after_ms: int = 5


Record = Response | Shown | Feedback


def time_of(request: int) -> int:
    # Two requests share a millisecond.
    return START_MS + request // 2 * 10


class World:
    """A user's join over a dict, with event-time timers."""

    def __init__(self) -> None:
        self.join = ExampleJoin(SETTINGS)
        self.state = DictState()
        self.timers: set[int] = set()
        self.watermark_ms = NEVER_MS
        self.examples: list[TrainingExample] = []
        self.dead_letters: list[DeadLetter] = []
        self.counts: Counter[str] = Counter()

    def book(self, outcome: JoinOutcome) -> None:
        self.examples += outcome.examples
        self.dead_letters += outcome.dead_letters
        self.counts += outcome.counts
        if outcome.timer_ms is not None:
            self.timers.add(outcome.timer_ms)

    def take(self, record: Record) -> None:
        time = time_of(record.request)
        name = f"q{record.request}"
        if isinstance(record, Response):
            message = RankingResponse(
                schema_version=1,
                request_id=name,
                response_id=f"s{record.number}",
                user_id=USER,
                request_time_ms=time,
                status=RESPONSE_STATUS_INVALID if record.invalid else RESPONSE_STATUS_OK,
                candidates=Candidates(
                    item_id=column(list(record.items)),
                    group_id=column([item * 10 for item in record.items]) if record.groups else b"",
                ),
                stamp=Stamp(epoch=1, seq_no=record.number + 1, digest=7, model_version="m"),
            )
            self.book(self.join.on_response(self.state, message, self.watermark_ms))
        elif isinstance(record, Shown):
            shown = Impression(
                schema_version=1,
                user_id=USER,
                request_id=name,
                response_id=f"s{record.response}",
                request_time_ms=time,
                impression_time_ms=time + record.after_ms,
                item_id=column(list(record.items)),
                first_position=record.first_position,
            )
            source = Source("ranking.impressions.v1", 3, record.offset, time + record.after_ms)
            value = shown.SerializeToString(deterministic=True)
            self.book(self.join.on_impression(self.state, shown, source, value, self.watermark_ms))
        else:
            event = BehaviourEvent(
                schema_version=1,
                user_id=USER,
                event_id=record.event.to_bytes(16, "big"),
                event_time_ms=time,
                interaction=Interaction(item_id=record.item, action=record.action),
                request=RequestRef(request_id=name, response_id=f"s{record.response}", request_time_ms=time),
            )
            self.book(self.join.on_feedback(self.state, event, time + record.after_ms, self.watermark_ms))

    def advance(self, watermark_ms: int) -> None:
        self.watermark_ms = watermark_ms
        for due_ms in sorted(timer for timer in self.timers if timer <= watermark_ms):
            self.timers.discard(due_ms)
            self.book(self.join.on_timer(self.state, USER, due_ms, now_ms=42))

    def finish(self) -> tuple[list[bytes], list[bytes], Counter[str]]:
        self.advance(START_MS + 1_000 * WINDOW_MS)
        assert not self.state.entries
        return (
            [example.SerializeToString(deterministic=True) for example in self.examples],
            [letter.SerializeToString(deterministic=True) for letter in self.dead_letters],
            self.counts,
        )


def run(records: list[Record]) -> World:
    world = World()
    for record in records:
        world.take(record)
    world.finish()
    return world


def expected_example(records: list[Record], request: int) -> dict[str, object] | None:
    """Straight from the contract, by filtering the whole list."""
    responses = {
        record.number: record
        for record in records
        if isinstance(record, Response) and record.request == request and not record.invalid
    }
    good = [
        record
        for record in records
        if isinstance(record, Shown)
        and record.request == request
        and record.response in responses
        and set(record.items) <= set(responses[record.response].items)
    ]
    if not good:
        return None
    first = min(good, key=lambda record: (record.after_ms, record.first_position, blake(record)))
    targets: dict[int, int] = {}
    for record in sorted(good, key=lambda record: (record.first_position, record.after_ms, blake(record))):
        if record.response == first.response:
            for index, item in enumerate(record.items):
                targets.setdefault(item, record.first_position + index)
    feedback = {
        (record.item, record.action)
        for record in records
        if isinstance(record, Feedback)
        and record.request == request
        and record.response == first.response
        and 0 <= record.after_ms <= WINDOW_MS
    }
    return {
        "response": f"s{first.response}",
        "items": list(targets),
        "positions": list(targets.values()),
        "groups": [item * 10 for item in targets] if responses[first.response].groups else [],
        "touch": [int(any(one == item for one, _ in feedback)) for item in targets],
        "share": [int(any(one == item and action in (3, 4) for one, action in feedback)) for item in targets],
        "superseded": len(responses) - 1,
    }


def blake(record: Shown) -> bytes:
    """The tie-breaker that two impressions at one time and position get."""
    world = World()
    world.take(record)
    (packed,) = world.state.entries.values()
    (key,) = unpack_pending(packed)
    return key.identity


def contents(example: TrainingExample) -> dict[str, object]:
    labels = {one.task: list(one.labels) for one in example.labels}
    return {
        "response": example.response_id,
        "items": np.frombuffer(example.targets.item_id, "<u8").tolist(),
        "positions": np.frombuffer(example.position, "<u2").tolist(),
        "groups": np.frombuffer(example.targets.group_id, "<u8").tolist(),
        "touch": labels["touch"],
        "share": labels["share"],
        "superseded": example.superseded_responses,
    }


REQUESTS = st.integers(0, 3)
ITEMS = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)
# An id names one content: what a response or an event says follows from its number.
RESPONSES = st.tuples(REQUESTS, st.integers(0, 2)).map(
    lambda pair: Response(*pair, items=tuple(range(1, 4 + pair[1])), groups=pair[1] != 1, invalid=sum(pair) == 5)
)
SHOWN = st.builds(
    Shown, REQUESTS, st.integers(0, 2), ITEMS, st.integers(0, 6), st.integers(0, 3), offset=st.integers(0, 2)
)
FEEDBACK = st.tuples(REQUESTS, st.integers(0, 12)).map(
    lambda pair: Feedback(
        pair[0], pair[1] % 3, pair[1], item=pair[1] % 5 + 1, action=pair[1] % 4, after_ms=pair[1] * 100 - 100
    )
)
RECORDS = st.lists(st.one_of(RESPONSES, RESPONSES, SHOWN, FEEDBACK), max_size=25)


@settings(max_examples=300)
@given(records=RECORDS)
def test_examples_equal_the_oracle(records: list[Record]) -> None:
    world = run(records)
    got = {example.request_id: contents(example) for example in world.examples}
    wanted = {f"q{request}": expected_example(records, request) for request in range(4)}
    assert got == {name: example for name, example in wanted.items() if example is not None}
    assert len(world.examples) == len(got)
    for example in world.examples:
        assert (example.label_version, example.produced_at_ms, example.user_id) == (1, 42, USER)
        assert example.stamp.model_version == "m"


@settings(max_examples=200)
@given(records=RECORDS, seed=st.integers(0, 1 << 20))
def test_any_arrival_order_and_any_duplicates_give_the_same(records: list[Record], seed: int) -> None:
    rng = random.Random(seed)
    scrambled = records + [record for record in records if rng.random() < 0.3]
    rng.shuffle(scrambled)
    first, second = run(records).finish(), run(scrambled).finish()
    assert first[:2] == second[:2]
    different = {name for name in first[2] | second[2] if first[2][name] != second[2][name]}
    # How often a thing came is counted as it came.
    counted_as_they_come = {"feedback_outside_window", "invalid_responses"}
    assert {name for name in different if not name.startswith("duplicate_")} <= counted_as_they_come


@settings(max_examples=200)
@given(records=RECORDS, cut=st.integers(0, 25))
def test_late_records_are_counted_and_bring_nothing_back(records: list[Record], cut: int) -> None:
    world = World()
    for record in records[:cut]:
        world.take(record)
    world.advance(START_MS + 1_000 * WINDOW_MS)
    before = len(world.examples), len(world.dead_letters)
    for record in records[cut:]:
        world.take(record)
    assert not world.state.entries
    assert not world.timers
    assert (len(world.examples), len(world.dead_letters)) == before
    late = sum(count for name, count in world.counts.items() if name.startswith("late_"))
    others = sum(
        1
        for record in records[cut:]
        if (isinstance(record, Response) and record.invalid)
        or (isinstance(record, Feedback) and not 0 <= record.after_ms <= WINDOW_MS)
    )
    assert late == len(records[cut:]) - others


def test_the_label_time_itself_is_too_late_and_the_moment_before_is_not() -> None:
    for watermark_ms, late in ((START_MS + WINDOW_MS - 1, 0), (START_MS + WINDOW_MS, 1)):
        world = World()
        world.advance(watermark_ms)
        world.take(Response(0, 0, (1,)))
        assert world.counts["late_response"] == late
        assert len(world.timers) == 1 - late


def test_every_unusable_impression_becomes_a_letter_with_its_coordinates() -> None:
    world = run(
        [
            Response(0, 0, (1, 2)),
            Response(0, 1, (1, 2, 3)),
            Shown(0, 0, (2, 1), after_ms=1, offset=10),
            Shown(0, 0, (2, 5), after_ms=1, offset=11),
            Shown(0, 1, (3,), after_ms=2, offset=12),
            Shown(0, 2, (3,), after_ms=0, offset=13),
        ]
    )
    assert [(letter.reason, letter.source_offset) for letter in world.dead_letters] == [
        (Reason.RESPONSE_MISSING, 13),
        (Reason.UNKNOWN_CANDIDATE, 11),
        (Reason.CONFLICTING_IMPRESSION, 12),
    ]
    for letter in world.dead_letters:
        assert (letter.stage, letter.source_topic, letter.source_partition, letter.key) == (
            "example_job",
            "ranking.impressions.v1",
            3,
            user_key(USER),
        )
        assert Impression.FromString(letter.value).request_id == "q0"
        assert "q0" in letter.detail
    assert "s0, s1" in world.dead_letters[0].detail
    assert [contents(example)["items"] for example in world.examples] == [[2, 1]]


def test_requests_without_an_impression_are_counted_and_dropped() -> None:
    world = run([Response(0, 0, (1,)), Response(2, 0, (1,)), Feedback(2, 0, 1, 1), Feedback(3, 0, 2, 1)])
    assert not world.examples
    assert not world.dead_letters
    assert world.counts["without_impression"] == 3


def test_feedback_that_cannot_count_is_counted() -> None:
    shown = [Response(0, 0, (1, 2)), Response(0, 1, (1, 2)), Shown(0, 0, (1,))]
    feedback = [
        Feedback(0, 0, 1, item=2),
        Feedback(0, 1, 2, item=1),
        Feedback(0, 0, 3, item=1, after_ms=WINDOW_MS + 1),
        Feedback(0, 0, 4, item=1, after_ms=-1),
    ]
    world = run([*shown, *feedback])
    assert contents(world.examples[0])["touch"] == [0]
    assert world.counts["feedback_to_unshown_item"] == 1
    assert world.counts["feedback_to_other_response"] == 1
    assert world.counts["feedback_outside_window"] == 2
    assert world.counts["superseded_responses"] == 1


@given(
    st.dictionaries(
        st.builds(EntryKey, st.integers(1, 3), st.text("abc-9", min_size=1, max_size=64), st.binary(max_size=255)),
        st.binary(max_size=300),
        max_size=8,
    )
)
def test_pending_round_trip(pending: dict[EntryKey, bytes]) -> None:
    assert unpack_pending(pack_pending(pending)) == pending


def test_foreign_pending_state_is_refused() -> None:
    good = pack_pending({EntryKey(1, "q", b"s"): b"payload"})
    for damaged in (b"", b"\x02" + good[1:], good[:-1], good[:5]):
        with pytest.raises(StateError):
            unpack_pending(damaged)
