"""What counts by when it was published: copies, what came after the label time, and what came behind the watermark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import Console
from verify_world import (
    PARTITION,
    REQUEST_MS,
    REVISION_MS,
    USER,
    WINDOW_MS,
    World,
    column,
    kinds,
    right_world,
)

from infra.demo.summary import behind_watermark
from infra.verify.epochs import User, encode_row
from infra.verify.feedback import attributed
from infra.verify.findings import BEHIND_WATERMARK
from infra.verify.report import Verdict
from infra.verify.shown import Choice, Page, page_of
from schemas.topics import EVENTS, IMPRESSIONS, RESPONSES
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction
from schemas.v1.ranking_pb2 import Candidates, Impression, RankingResponse
from schemas.v1.training_pb2 import LateFeedback

DUE_MS = REQUEST_MS + WINDOW_MS


@pytest.fixture
def world() -> World:
    return right_world()


def copied(message):
    return type(message).FromString(message.SerializeToString())


def answer_again(world: World, *published_ms: int) -> None:
    """A second response, which nobody saw."""
    other = copied(world.responses[0])
    other.response_id = "another"
    for time_ms in published_ms:
        world.published[RESPONSES][len(world.responses)] = time_ms
        world.responses.append(other)


def show(world: World, *published_ms: int, items: tuple[int, ...] = (103,)) -> None:
    """A second impression; with its item the request's response has nothing to do."""
    page = copied(world.impressions[0])
    page.item_id, page.impression_time_ms = column(*items), REQUEST_MS + 1
    for time_ms in published_ms:
        world.published[IMPRESSIONS][len(world.impressions)] = time_ms
        world.impressions.append(page)


@pytest.mark.parametrize(
    ("published_ms", "counts"),
    [((DUE_MS,), True), ((DUE_MS + 1,), False), ((DUE_MS, DUE_MS + 9), True), ((DUE_MS + 9, DUE_MS), True)],
)
def test_only_responses_published_up_to_the_label_time_are_superseded(
    world: World, published_ms: tuple[int, ...], counts: bool
) -> None:
    answer_again(world, *published_ms)
    assert kinds(world.check()) == ({"example_superseded"} if counts else set())
    for example in world.examples:
        example.superseded_responses = 1
    assert kinds(world.check()) == (set() if counts else {"example_superseded"})


def test_of_a_response_published_after_the_label_time_nothing_comes(world: World) -> None:
    world.published[RESPONSES][0] = DUE_MS
    assert kinds(world.check()) == set()
    world.published[RESPONSES][0] = DUE_MS + 1
    assert kinds(world.check()) == {"example_of_no_request", "impression_without_letter"}
    world.examples.clear()
    world.letters = {IMPRESSIONS.name: {0: "response_missing"}}
    assert kinds(world.check()) == set()


def test_an_impression_published_after_the_label_time_does_not_count(world: World) -> None:
    """Also where the example says that it did."""
    show(world, DUE_MS + 1, items=(101, 999))
    assert kinds(world.check()) == set()
    # It comes first: then these are other targets.
    world.impressions[1].impression_time_ms = REQUEST_MS
    world.impressions[1].first_position = 0
    assert kinds(world.check()) == set()
    world.published[IMPRESSIONS][1] = DUE_MS
    assert "example_targets" in kinds(world.check())
    world.published[IMPRESSIONS] = {0: DUE_MS + 1, 1: DUE_MS + 1}
    assert kinds(world.check()) == {"example_of_no_request"}
    world.examples.clear()
    assert kinds(world.check()) == set()


def test_an_impression_published_after_the_label_time_gets_no_letter(world: World) -> None:
    show(world, DUE_MS + 1)
    assert kinds(world.check()) == set()
    world.letters = {IMPRESSIONS.name: {1: "unknown_candidate"}}
    (mismatch,) = world.check().findings.mismatches
    assert mismatch.kind == "impression_refused"
    assert "after the label time" in mismatch.detail


@pytest.mark.parametrize("published_ms", [(0, 5), (5, 0), (0, WINDOW_MS + 1), (WINDOW_MS + 1, 0), (0, 0, 0)])
def test_an_impression_that_is_published_twice_is_one(world: World, published_ms: tuple[int, ...]) -> None:
    times = [REQUEST_MS + each for each in published_ms]
    for number, time_ms in enumerate(times):
        world.published[IMPRESSIONS][number] = time_ms
    world.impressions *= len(times)
    assert kinds(world.check()) == set()
    # And one that fits nothing has one letter, of whichever copy.
    first = len(world.impressions)
    show(world, *times)
    assert kinds(world.check()) == {"impression_without_letter"}
    for number in range(len(times)):
        world.letters = {IMPRESSIONS.name: {first + number: "unknown_candidate"}}
        assert kinds(world.check()) == set()
    # Nor does a letter of any copy pass where it fits.
    for number in range(first):
        world.letters = {IMPRESSIONS.name: {number: "unknown_candidate", first: "unknown_candidate"}}
        assert kinds(world.check()) == {"impression_refused"}


def page(name: str, time_ms: int, published_ms: int) -> Page:
    shown = Impression(request_id=name, response_id="s", impression_time_ms=time_ms, item_id=column(7))
    return page_of(shown, shown.SerializeToString(), published_ms, None, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(("published_ms", "belongs_to"), [(200, "new"), (300, "new"), (301, "old"), (900, "old")])
def test_feedback_belongs_to_no_impression_that_was_published_after_it(published_ms: int, belongs_to: str) -> None:
    touch = BehaviourEvent(event_time_ms=300, interaction=Interaction(item_id=7, action=1))
    user = User(USER, PARTITION)
    user.unnumbered.append((300, b"t" * 16, encode_row(touch), 0))
    response = RankingResponse(response_id="s", candidates=Candidates(item_id=column(7)))
    choice = Choice(response=response, items=(7,), rows=(0,), positions=(0,), pages=())
    pages = {"old": [page("old", 100, 100)], "new": [page("new", 200, published_ms)]}
    found = attributed(user, pages, {"old": choice, "new": choice}, window_ms=1_000)
    assert {name: len(acts) for name, acts in found.items()} == {belongs_to: 1}


def declare_late(world: World, reason: str = "after_revision_window") -> None:
    """All feedback to the request, as if it had come too late."""
    for offset, event in enumerate(world.events):
        if event.HasField("request"):
            late = LateFeedback(
                schema_version=1,
                user_id=USER,
                event_id=event.event_id,
                event_time_ms=event.event_time_ms,
                interaction=event.interaction,
                request=event.request,
                published_ms=world.published[EVENTS].get(offset, event.event_time_ms),
                source_partition=PARTITION,
                source_offset=offset,
                reason=reason,
            )
            # At least once.
            world.late += [late, late]
    del world.examples[1]
    world.examples[0].labels[0].labels = b"\0\0\0\0"


def all_came_too_late(world: World) -> None:
    declare_late(world)


def one_says_another_time(world: World) -> None:
    """What it names cannot be made older than it is."""
    declare_late(world)
    for late in world.late:
        late.request.request_time_ms -= 10 * REVISION_MS


def revised_by_what_came_in_time(world: World) -> None:
    """Event 10 touched item 102, the second of the targets, long before the label time."""
    first, second = world.examples
    first.labels[0].labels = b"\0\0\1\1"
    second.caused_by.insert(0, world.events[10].event_id)
    del second.labels[0].changed_targets[:]
    second.labels[0].changed_targets.extend((0, 1))


@pytest.mark.parametrize(
    ("plant", "wanted"),
    [
        (lambda _: None, (0, 0)),
        (all_came_too_late, (5, 0)),
        (one_says_another_time, (5, 0)),
        (lambda world: declare_late(world, "over_limit"), (0, 0)),
        (revised_by_what_came_in_time, (0, 1)),
    ],
)
def test_feedback_behind_the_watermark_is_counted(
    world: World, plant: Callable[[World], None], wanted: tuple[int, int]
) -> None:
    plant(world)
    findings = world.check().findings
    assert findings.mismatches == []
    assert tuple(findings.repeated[name] for name in BEHIND_WATERMARK) == wanted


def test_feedback_that_did_come_too_late_is_not_behind_the_watermark(world: World) -> None:
    like = len(world.events) - 1
    for published_ms, counted in ((REQUEST_MS + REVISION_MS + 1, 0), (REQUEST_MS + REVISION_MS, 1)):
        world = right_world()
        world.published[EVENTS][like] = published_ms
        touched = world.examples[0].labels[0].labels
        declare_late(world)
        world.late = world.late[-1:]
        world.examples[0].labels[0].labels = touched
        findings = world.check().findings
        assert findings.mismatches == []
        assert findings.repeated[BEHIND_WATERMARK[0]] == counted


@pytest.mark.parametrize("counts", [(0, 0), (3, 0), (0, 2)])
def test_the_demo_and_a_person_see_what_was_behind_the_watermark(counts: tuple[int, int]) -> None:
    verdict = Verdict(
        checked={},
        matched={},
        repeated=dict(zip(BEHIND_WATERMARK, counts, strict=True)),
        events={},
        dead_letters={},
        kinds={},
        mismatches=[],
        waiting=0,
        freshness={"responses": 0},
        seconds=1.0,
        passes=1,
    )
    assert behind_watermark(verdict.as_json()).balances == (sum(counts) == 0)
    console = Console(width=120)
    with console.capture() as captured:
        for table in verdict.tables(9):
            console.print(table)
    lines = captured.get().splitlines()
    for name, count in zip(BEHIND_WATERMARK, counts, strict=True):
        assert any(name in line and str(count) in line for line in lines)
