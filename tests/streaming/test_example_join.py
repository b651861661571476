"""The join against an oracle that sees all records at once; any arrival order gives the same examples."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from join_world import (
    END_MS,
    FULL,
    LABEL_MS,
    PLAIN,
    REVISION_MS,
    START_MS,
    TASKS,
    Feedback,
    Input,
    Response,
    Shown,
    World,
    contents,
    expected,
    limited,
    run,
)

from schemas.reasons import Reason
from streaming.examples.pending import (
    DueRequests,
    Given,
    Phase,
    Request,
    UserPending,
    Waiting,
)
from streaming.examples.pending import Shown as Impressed
from streaming.examples.settings import ExampleSettings
from streaming.sequence.state import StateError

REQUESTS = st.integers(0, 3)
ITEMS = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)
# An id names one content: what a response or an event says follows from its number.
RESPONSES = st.tuples(REQUESTS, st.integers(0, 2)).map(
    lambda pair: Response(*pair, items=tuple(range(1, 4 + pair[1])), groups=pair[1] != 1, invalid=sum(pair) == 5)
)
SHOWN = st.builds(
    Shown,
    REQUESTS,
    st.integers(0, 2),
    ITEMS,
    st.integers(0, 6),
    st.sampled_from([0, 1, 2, 250, 300, 600]),
    offset=st.integers(0, 2),
)
EVENTS = st.integers(0, 1 << 20)


def feedback(number: int) -> Feedback:
    """What event `number` says: all kinds of times, every fourth without a request."""
    rng = random.Random(number)
    named = rng.random() < 0.6
    return Feedback(
        request=rng.randrange(4) if named else None,
        response=rng.randrange(2),
        event=number + 1,
        item=rng.randrange(1, 6),
        action=rng.randrange(5),
        after_ms=rng.choice([-1, 0, 1, 100, 300, 399, 700, 999, 1000, 1001, 1300, 1800, 2500, 3000, 3001, 3600]),
        age_ms=rng.choice([0, 0, 0, 5, 350, 800, 2000, -40]),
        watch_ms=rng.choice([None, 0, 200, 499, 500, 900]),
    )


INPUTS = st.lists(st.one_of(RESPONSES, RESPONSES, SHOWN, SHOWN, EVENTS.map(feedback)), max_size=30)


@settings(max_examples=500)
@given(inputs=INPUTS, rules=st.sampled_from([FULL, PLAIN]))
def test_examples_equal_the_oracle(inputs: list[Input], rules: ExampleSettings) -> None:
    world = run(inputs, rules)
    got: dict[str, list[dict[str, object]]] = {}
    for example in world.examples:
        got.setdefault(example.request_id, []).append(contents(example))
        assert example.stamp.model_version == "m"
        assert not example.produced_at_ms
    wanted = {f"q{request}": expected(inputs, request, rules) for request in range(4)}
    assert got == {name: versions for name, versions in wanted.items() if versions}


@settings(max_examples=400)
@given(inputs=INPUTS, seed=st.integers(0, 1 << 20), kept=st.sampled_from([0, 1, 2, 100]))
def test_any_arrival_order_duplicates_and_restarts_give_the_same(inputs: list[Input], seed: int, kept: int) -> None:
    rng = random.Random(seed)
    scrambled = inputs + [one for one in inputs if rng.random() < 0.3]
    rng.shuffle(scrambled)
    world = World(FULL, kept)
    for place, one in enumerate(scrambled):
        world.take(one)
        if rng.random() < 0.3:
            # The watermark may be anywhere before what is still to come.
            earliest = min((later.published_ms for later in scrambled[place + 1 :]), default=END_MS)
            world.advance(rng.randrange(START_MS - 10, max(earliest, START_MS - 9)))
        if rng.random() < 0.2:
            world.restart()
    examples, unusable, late = world.finish()
    wanted = run(inputs).finish()
    # One after the other, the labels' times decide which comes first; at one time, the request's name.
    assert sorted(examples) == sorted(wanted[0])
    assert (unusable, late) == wanted[1:]


@pytest.mark.parametrize("seed", range(400))
def test_dense_traffic_equals_the_oracle_in_any_order(seed: int) -> None:
    """Few requests and items, so that feedback finds impressions, competes for them and revises."""
    rng = random.Random(seed)
    inputs: list[Input] = [
        Response(request, number, (1, 2, 3, 4), lag_ms=number * rng.choice([0, 1_500]))
        for request in range(4)
        for number in range(2)
    ]
    for request in range(4):
        for _ in range(rng.randrange(3)):
            items = tuple(rng.sample(range(1, 5), rng.randrange(1, 4)))
            after_ms = rng.choice([0, 1, 250, 300, 600, 900])
            lag_ms = rng.choice([0, 0, 0, 50, 150, 1_200])
            inputs.append(Shown(request, rng.choice([0, 0, 1]), items, rng.randrange(4), after_ms, lag_ms=lag_ms))
    inputs += (feedback(rng.randrange(1 << 20)) for _ in range(30))
    rng.shuffle(inputs)
    world = World(FULL, rng.choice([0, 1, 2, 100]))
    for place, one in enumerate(inputs):
        world.take(one)
        if rng.random() < 0.3:
            earliest = min((later.published_ms for later in inputs[place + 1 :]), default=END_MS)
            world.advance(rng.randrange(START_MS - 10, max(earliest, START_MS - 9)))
    world.finish()
    got: dict[str, list[dict[str, object]]] = {}
    for example in world.examples:
        got.setdefault(example.request_id, []).append(contents(example))
    wanted = {f"q{request}": expected(inputs, request) for request in range(4)}
    assert got == {name: versions for name, versions in wanted.items() if versions}


@settings(max_examples=200)
@given(inputs=INPUTS, cut=st.integers(0, 30))
def test_what_comes_after_the_end_is_counted_and_brings_nothing_back(inputs: list[Input], cut: int) -> None:
    world = run(inputs[:cut])
    before = len(world.examples), len(world.unusable), world.counts.total()
    for one in inputs[cut:]:
        world.take(one)
    assert not world.state.entries
    assert not world.timers
    assert (len(world.examples), len(world.unusable)) == before[:2]
    assert world.counts.total() == before[2] + len(inputs[cut:])


def test_the_label_time_itself_is_too_late_and_the_moment_before_is_not() -> None:
    for watermark_ms, late in ((START_MS + LABEL_MS - 1, 0), (START_MS + LABEL_MS, 1)):
        world = World()
        world.advance(watermark_ms)
        world.take(Response(0, 0, (1,)))
        assert world.counts["late_response"] == late
        assert bool(world.timers) == (not late)


def test_every_unusable_impression_has_its_coordinates_and_its_reason() -> None:
    world = run(
        [
            Response(0, 0, (1, 2)),
            Response(0, 1, (1, 2, 3)),
            Shown(0, 0, (2, 1), after_ms=1, offset=10),
            Shown(0, 0, (2, 5), after_ms=1, offset=11),
            Shown(0, 1, (3,), after_ms=2, offset=12),
            Shown(0, 2, (3,), after_ms=0, offset=13),
            Feedback(0, 2, 1, item=3),
        ]
    )
    assert [(each.refused.reason, each.record.offset, each.record.partition) for each in world.unusable] == [
        (Reason.RESPONSE_MISSING, 13, 3),
        (Reason.UNKNOWN_CANDIDATE, 11, 3),
        (Reason.CONFLICTING_IMPRESSION, 12, 3),
    ]
    assert all("q0" in each.refused.detail for each in world.unusable)
    assert "s0, s1, 1 feedback" in world.unusable[0].refused.detail
    assert [contents(example)["items"] for example in world.examples] == [[2, 1]]


def test_requests_without_an_impression_are_counted_and_dropped_or_written() -> None:
    inputs: list[Input] = [
        Response(0, 1, (3, 1, 3)),
        Response(0, 0, (2, 1, 2)),
        Feedback(0, 0, 1, item=1),
        Feedback(3, 0, 2, item=1),
    ]
    world = run(inputs)
    assert not world.examples
    assert not world.unusable
    assert world.counts["without_impression"] == 2
    (example,) = run(inputs, ExampleSettings(tasks=TASKS, emit_unshown=True)).examples
    assert contents(example)["items"] == [2, 1]
    assert contents(example)["positions"] == []
    assert contents(example)["labels"] == {"touch": [0, 1], "share": [0, 0], "bored": [0, 0]}


def test_feedback_that_cannot_count_is_counted() -> None:
    shown: list[Input] = [Response(0, 0, (1, 2)), Response(0, 1, (1, 2)), Shown(0, 0, (1,))]
    world = run(
        [
            *shown,
            Feedback(0, 0, 1, item=2),
            Feedback(0, 1, 2, item=1),
            Feedback(0, 0, 3, item=1, after_ms=-1),
            Feedback(None, 0, 4, item=6),
            Feedback(1, 0, 5, item=1, after_ms=LABEL_MS + 5),
            Feedback(0, 0, 6, item=1, after_ms=REVISION_MS + 1),
        ]
    )
    assert contents(world.examples[0])["labels"]["touch"] == [0]  # type: ignore[index]
    for name in (
        "feedback_to_unshown_item",
        "feedback_to_other_response",
        "feedback_before_request",
        "feedback_unattributed",
        "feedback_to_no_example",
        "feedback_after_revision_window",
        "superseded_responses",
    ):
        assert world.counts[name] == 1, name
    (late,) = world.late
    assert (late.event_id, late.reason) == (Feedback(0, 0, 6, item=1).event_id, "after_revision_window")
    assert (late.request.request_id, late.published_ms) == ("q0", START_MS + REVISION_MS + 1)
    assert (late.source_partition, late.source_offset, late.interaction.item_id) == (3, 6, 1)


def test_a_revision_names_what_changed_and_why() -> None:
    # Done in time, published late: the phone was offline.
    late = [
        Feedback(0, 0, 7, item=2, after_ms=1_500, age_ms=1_400, action=2),
        Feedback(0, 0, 8, item=2, after_ms=1_600, age_ms=1_400, action=2),
        Feedback(0, 0, 9, item=1, after_ms=1_700, age_ms=1_400, action=4),
        Feedback(0, 0, 10, item=1, after_ms=1_800, age_ms=100, action=4),
    ]
    world = run([Response(0, 0, (1, 2)), Shown(0, 0, (1, 2)), *late])
    assert [
        (each.label_version, contents(each)["changed"], contents(each)["caused_by"]) for each in world.examples
    ] == [
        (1, {}, []),
        (2, {"touch": [1]}, [7]),
        (3, {"touch": [0], "share": [0]}, [8, 9]),
    ]
    assert world.counts["revisions"] == 2


def test_feedback_without_a_request_belongs_to_the_newest_impression_of_its_item() -> None:
    inputs: list[Input] = [
        Response(0, 0, (1, 2)),
        Response(2, 0, (1, 2)),
        Shown(0, 0, (1, 2), after_ms=10),
        Shown(2, 0, (1,), after_ms=20),
        Feedback(None, 0, 1, item=1, after_ms=500),  # Shown by both: the later one's.
        Feedback(None, 0, 2, item=2, after_ms=500),  # The earlier one's.
        Feedback(None, 0, 3, item=1, after_ms=600, age_ms=350, action=3),  # Done before the later one was shown.
    ]
    first, second = (contents(example)["labels"] for example in run(inputs).examples)
    assert first == {"touch": [1, 1], "share": [1, 0], "bored": [0, 0]}
    assert second == {"touch": [1], "share": [0], "bored": [0]}


@pytest.mark.parametrize(
    "changed",
    [
        ExampleSettings(tasks=(replace(TASKS[0], window_ms=2 * LABEL_MS),), revision_window_ms=10 * LABEL_MS),
        ExampleSettings(tasks=(replace(TASKS[0], window_ms=LABEL_MS // 2),)),
    ],
    ids=["longer", "shorter, without revisions and attribution"],
)
@pytest.mark.parametrize("written", [False, True])
def test_requests_under_way_outlast_a_change_of_windows(changed: ExampleSettings, written: bool) -> None:
    world = World(FULL, kept=10)
    for one in (Response(0, 0, (1, 2)), Shown(0, 0, (1, 2), after_ms=5), Feedback(None, 0, 1, item=1, after_ms=20)):
        world.take(one)
    if written:
        world.advance(START_MS + LABEL_MS)
    world.settings = changed
    world.restart()
    world.finish()  # Which looks for what is left.
    (example,) = world.examples
    assert example.request_time_ms == START_MS


def test_too_much_feedback_names_its_request_after_a_change_of_windows() -> None:
    world = World(limited(feedback_per_request=1), kept=10)
    world.take(Response(0, 0, (1, 2)))
    world.take(Shown(0, 0, (1, 2), after_ms=5))
    for event in (1, 2):
        world.take(Feedback(None, 0, event, item=1, after_ms=20))
    world.settings = replace(world.settings, tasks=(replace(TASKS[0], window_ms=2 * LABEL_MS),))
    world.restart()
    world.finish()
    (late,) = world.late
    assert (late.request.request_id, late.request.request_time_ms) == ("q0", START_MS)


def test_more_than_people_do_is_refused_and_kept() -> None:
    rules = limited(responses_per_request=1, impressions_per_request=1, feedback_per_request=1, unattributed_per_user=1)
    world = run(
        [
            Response(0, 0, (1, 2)),
            Response(0, 1, (1, 2)),
            Shown(0, 0, (1, 2)),
            Shown(0, 0, (2, 1)),
            Feedback(0, 0, 1, item=1),
            Feedback(0, 0, 2, item=1),
            Feedback(None, 0, 3, item=6),
            Feedback(None, 0, 4, item=6),
            Feedback(0, 0, 5, item=1, after_ms=1_500),
        ],
        rules,
    )
    assert [refused.reason for refused in world.refused] == [Reason.OVER_LIMIT] * 2
    assert [int.from_bytes(late.event_id, "big") for late in world.late] == [2, 4, 5]
    assert {late.reason for late in world.late} == {"over_limit"}
    assert world.counts["feedback_over_limit"] == 3
    assert len(world.examples) == 1


ID = st.binary(min_size=16, max_size=16)
NAME = st.text("abc-9", min_size=1, max_size=64)
TIME = st.integers(0, 1 << 62)
#: Or -1: absent.
NUMBER = st.integers(-1, (1 << 32) - 1)
GIVEN = st.builds(
    Given,
    TIME,
    ID,
    st.integers(0, 7),
    TIME,
    TIME,
    st.integers(1, (1 << 64) - 1),
    st.integers(0, 65_535),
    NUMBER,
    NUMBER,
    NUMBER,
    st.integers(-1, (1 << 64) - 1),
    NAME | st.just(""),
)
GIVENS = st.lists(GIVEN, max_size=3, unique_by=lambda given: given.event_id)
REQUEST = st.builds(
    Request,
    st.sampled_from(Phase),
    st.dictionaries(NAME, st.binary(max_size=300), max_size=2),
    st.dictionaries(ID, st.binary(max_size=300), max_size=2),
    GIVENS.map(lambda givens: {given.event_id: given for given in givens}),
    st.binary(max_size=200),
    st.lists(ID, max_size=2),
)


def loose(givens: list[Given]) -> dict[int, dict[bytes, Given]]:
    found: dict[int, dict[bytes, Given]] = {}
    for each in givens:
        found.setdefault(each.item_id, {})[each.event_id] = each
    return found


def impressed(*fields: object) -> Impressed:
    *times_and_names, items = fields
    column = b"".join(item.to_bytes(8, "little") for item in items)  # type: ignore[attr-defined]
    return Impressed(*times_and_names, frozenset(items), column)  # type: ignore[arg-type]


@given(st.builds(DueRequests, TIME, st.dictionaries(NAME, REQUEST, max_size=3), st.just(True)))
def test_requests_round_trip(due: DueRequests) -> None:
    assert DueRequests.unpack(due.pack()) == due


@given(
    st.builds(
        UserPending,
        st.dictionaries(TIME, TIME, max_size=3),
        GIVENS.map(loose),
        st.lists(
            st.builds(Waiting, GIVEN, TIME, NAME | st.just("")), max_size=3, unique_by=lambda w: w.given.event_id
        ).map(lambda waiting: {(one.request_id, one.given.event_id): one for one in waiting}),
        st.lists(st.builds(impressed, TIME, TIME, TIME, NAME, NAME, TIME, st.lists(TIME, max_size=4)), max_size=3),
        TIME,
        st.just(True),
    )
)
def test_users_round_trip(user: UserPending) -> None:
    assert UserPending.unpack(user.pack()) == user


def test_foreign_pending_state_is_refused() -> None:
    due = DueRequests(7, {"q": Request(responses={"s": b"payload"})}).pack()
    for damaged in (b"", b"\x01" + due[1:], due[:-1], due[:5], due + b"\0"):
        with pytest.raises(StateError):
            DueRequests.unpack(damaged)
    user = UserPending(shown=[impressed(1, 2, 3, "q", "s", 4, [1])]).pack()
    for damaged in (b"", b"\x01" + user[1:], user[:-1], user[:5], user + b"\0"):
        with pytest.raises(StateError):
            UserPending.unpack(damaged)
