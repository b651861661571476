"""verify on a small world that is right, and on the same world with one planted fault each."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from verify_world import (
    EPOCH,
    PARTITION,
    REQUEST_MS,
    START_MS,
    USER,
    WINDOW_MS,
    World,
    check_worlds,
    column,
    event,
    int64s,
    kinds,
    right_world,
)

from infra.verify.findings import Findings
from infra.verify.histories import Histories
from infra.verify.selection import Selection, sample_users
from schemas.digest import extend_digest, origin_digest
from schemas.history import decode_events
from schemas.packing import pack_history
from schemas.topics import EVENTS, EXAMPLES, RESPONSES, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction
from schemas.v1.ranking_pb2 import RankingRequest
from schemas.v1.sequence_pb2 import SequenceUpdate
from schemas.v1.training_pb2 import TaskLabels


@pytest.fixture
def world() -> World:
    return right_world()


def test_a_right_world_has_no_mismatch(world: World) -> None:
    totals = world.check()
    assert totals.findings.mismatches == []
    assert +totals.findings.checked == {"updates": 11, "snapshots": 1, "responses": 1, "examples": 2}
    assert totals.findings.unmatched.total() == 0
    assert (totals.events["records"], totals.events["accepted"], totals.events["duplicates"]) == (12, 11, 1)


def test_repeated_deltas_and_responses_are_no_mismatch(world: World) -> None:
    world.updates += world.updates[3:]
    world.responses += world.responses
    totals = world.check()
    assert totals.findings.mismatches == []
    assert +totals.findings.repeated == {"updates": 8, "responses": 1}


def test_a_stamp_from_before_an_erase_is_counted_not_a_mismatch(world: World) -> None:
    erase = BehaviourEvent(
        schema_version=1, user_id=USER, event_id=b"e" * 16, event_time_ms=START_MS + 20_000, erase=Erase()
    )
    world.resolved = "erased"
    assert kinds(world.check()) == {"stamp_unresolved"}
    world.events.append(erase)
    for resolved in ("erased", None):
        world.resolved = resolved
        totals = world.check()
        assert totals.findings.mismatches == []
        assert totals.findings.repeated["stamps_of_erased_users"] == 3


def _flip(world: World) -> None:
    world.updates[4].interaction.item_id ^= 1


def _flip_version(world: World) -> None:
    world.updates[4].digest_version ^= 3


def _lose(world: World) -> None:
    del world.updates[5]


def _lose_the_last(world: World) -> None:
    del world.updates[-1]


def _swap(world: World) -> None:
    world.updates[4], world.updates[5] = world.updates[5], world.updates[4]


def _double(world: World) -> None:
    world.examples.append(world.examples[0])


def _short_stamp(world: World) -> None:
    world.responses[0].stamp.seq_no -= 1
    world.responses[0].stamp.first_seq_no -= 1


def _snapshot_digest(world: World) -> None:
    world.snapshots[0].digest ^= 1


def _snapshot_events(world: World) -> None:
    rows = decode_events(b"".join(world.rows.values())).copy()
    rows["item_id"][3] += 1
    world.snapshots[0].packed = pack_history(rows)


def _label(world: World) -> None:
    world.examples[0].labels[0].labels = b"\1\1\1\1"


def _label_of_a_shorter_window(world: World) -> None:
    world.examples[1].labels[1].labels = b"\1\0\0\0"


def _nobodys_example(world: World) -> None:
    world.examples[0].request_id = "r-2"


def _unshown_order(world: World) -> None:
    world.examples[0].targets.item_id = column(100, 101, 102, 999)


def _no_example(world: World) -> None:
    world.examples.clear()


def _no_revision(world: World) -> None:
    del world.examples[1]


def _revision_of_nothing(world: World) -> None:
    world.examples.append(world.examples[1])
    world.examples.append(type(world.examples[1])())
    world.examples[-1].CopyFrom(world.examples[1])
    del world.examples[2]
    world.examples[-1].label_version = 3


def _revision_without_its_example(world: World) -> None:
    del world.examples[0]


def _changed_targets(world: World) -> None:
    world.examples[1].labels[0].changed_targets.append(2)


def _caused_by(world: World) -> None:
    world.examples[1].caused_by.append(b"x" * 16)


def _feature(world: World) -> None:
    world.examples[0].targets.features[0].int64 = int64s(4, 3, 2, 2)


def _group(world: World) -> None:
    world.examples[0].targets.group_id = column(0, 7, 7, 8)


def _position(world: World) -> None:
    world.examples[0].position = struct.pack("<4H", 2, 3, 5, 4)


def _weight(world: World) -> None:
    world.examples[0].labels[1].weight = 0.5


def _context(world: World) -> None:
    world.examples[0].context[0].int64 = int64s(18)


def _superseded(world: World) -> None:
    world.examples[0].superseded_responses = 1


def _wall_clock(world: World) -> None:
    world.examples[0].produced_at_ms = START_MS


def _other_task(world: World) -> None:
    world.examples[0].labels.append(TaskLabels(task="share", labels=b"\0\0\0\0", weight=1.0))


def _unanswered(world: World) -> None:
    world.requests.append(
        RankingRequest(
            request_id="r-3", user_id=USER, request_time_ms=REQUEST_MS, candidates=world.requests[0].candidates
        )
    )


def _other_candidates(world: World) -> None:
    world.responses[0].candidates.item_id = column(100, 101, 102, 998)


def _other_context(world: World) -> None:
    world.responses[0].context[0].name = "minute"


def _trainer_sees_other_bytes(world: World) -> None:
    world.resolved = b"".join(world.rows[n] for n in (3, 2, 4, 5, 6))


def _trainer_cannot_resolve(world: World) -> None:
    world.resolved = "evicted"


def _nobody_can_resolve(world: World) -> None:
    # seq_no 4 is in no update and in no snapshot.
    del world.updates[3]
    world.snapshots.clear()


def _truncated_history(world: World) -> None:
    for stamp in (world.responses[0].stamp, world.examples[0].stamp):
        stamp.first_seq_no, stamp.length = 4, 3


def _empty_history(world: World) -> None:
    world.requests[0].min_seq_no = 6
    for stamp in (world.responses[0].stamp, world.examples[0].stamp):
        stamp.first_seq_no, stamp.seq_no, stamp.length = 1, 0, 0
        stamp.digest = origin_digest(USER, EPOCH)


def _wrong_origin(world: World) -> None:
    for stamp in (world.responses[0].stamp, world.examples[0].stamp):
        stamp.first_seq_no, stamp.seq_no, stamp.length, stamp.digest = 1, 0, 0, 12345


def _response_of_another_user(world: World) -> None:
    world.responses[0].user_id += 1


def _unknown_candidate_without_letter(world: World) -> None:
    world.impressions.append(type(world.impressions[0])())
    world.impressions[1].CopyFrom(world.impressions[0])
    world.impressions[1].item_id = column(5)


def _good_impression_refused(world: World) -> None:
    world.letters = {"ranking.impressions.v1": {0: "unknown_candidate"}}


@pytest.mark.parametrize(
    ("plant", "wanted"),
    [
        (_flip, {"update_event"}),
        (_flip_version, {"update_version"}),
        (_lose, {"update_order", "update_missing"}),
        (_lose_the_last, {"update_missing"}),
        (_swap, {"update_order"}),
        (_double, {"example_doubled"}),
        (_short_stamp, {"stamp_digest", "example_stamp"}),
        (_snapshot_digest, {"snapshot_digest"}),
        (_snapshot_events, {"snapshot_events"}),
        (_label, {"example_labels"}),
        (_label_of_a_shorter_window, {"example_labels"}),
        (_nobodys_example, {"example_of_no_request", "example_gap"}),
        (_unshown_order, {"example_targets"}),
        (_no_example, {"example_missing"}),
        (_no_revision, {"revision_missing"}),
        (_revision_of_nothing, {"revision_of_nothing"}),
        (_revision_without_its_example, {"example_gap"}),
        (_changed_targets, {"example_changed_targets"}),
        (_caused_by, {"example_caused_by"}),
        (_feature, {"example_features"}),
        (_group, {"example_groups"}),
        (_position, {"example_positions"}),
        (_weight, {"example_weight"}),
        (_context, {"example_context"}),
        (_superseded, {"example_superseded"}),
        (_wall_clock, {"example_produced_at"}),
        (_other_task, {"example_task"}),
        (_unanswered, {"response_missing"}),
        (_other_candidates, {"response_candidates"}),
        (_other_context, {"response_context", "example_context"}),
        (_trainer_sees_other_bytes, {"stamp_bytes"}),
        (_trainer_cannot_resolve, {"stamp_unresolved"}),
        (_nobody_can_resolve, {"stamp_unresolved", "update_order", "update_missing"}),
        (_truncated_history, {"response_length"}),
        (_empty_history, {"response_behind"}),
        (_wrong_origin, {"stamp_digest"}),
        (_response_of_another_user, {"response_to_no_request", "response_missing", "example_of_no_request"}),
        (_unknown_candidate_without_letter, {"impression_without_letter"}),
        (_good_impression_refused, {"impression_refused"}),
    ],
)
def test_a_planted_fault_is_caught(world: World, plant: Callable[[World], None], wanted: set[str]) -> None:
    plant(world)
    findings = world.check().findings
    assert set(findings.kinds) >= wanted
    assert all(mismatch.user_id in (USER, USER + 1) and mismatch.where for mismatch in findings.mismatches)


@pytest.mark.parametrize(
    ("plant", "only"),
    [
        (_flip, "update_event"),
        (_lose_the_last, "update_missing"),
        (_double, "example_doubled"),
        (_snapshot_digest, "snapshot_digest"),
        (_label, "example_labels"),
        (_no_revision, "revision_missing"),
        (_feature, "example_features"),
        (_weight, "example_weight"),
        (_context, "example_context"),
    ],
)
def test_a_fault_is_told_once_and_as_what_it_is(world: World, plant: Callable[[World], None], only: str) -> None:
    plant(world)
    assert dict(world.check().findings.kinds) == {only: 1}


def test_the_first_differing_field_is_named_with_what_is_there_and_what_should_be(world: World) -> None:
    _flip(world)
    (mismatch,) = world.check().findings.mismatches
    assert (mismatch.where, mismatch.user_id) == (f"sequence.updates.v1/{PARTITION}/4", USER)
    assert (mismatch.field, mismatch.found, mismatch.wanted) == ("item_id", "100", "101")


def test_a_stamp_that_is_one_event_short_says_where_it_would_be_right(world: World) -> None:
    _short_stamp(world)
    details = [one.detail for one in world.check().findings.mismatches if one.kind == "stamp_digest"]
    assert len(details) == 1
    assert "it is that of seq_no 6" in details[0]


def test_what_is_not_due_is_no_mismatch(world: World) -> None:
    world.examples.clear()
    assert kinds(world.check(watermark_ms=REQUEST_MS + WINDOW_MS)) == set()
    assert kinds(world.check(watermark_ms=REQUEST_MS + WINDOW_MS + 1)) == {"example_missing"}


def test_a_record_that_no_letter_excuses_is_a_mismatch_not_a_crash() -> None:
    findings, histories = Findings(), Histories(generation=1, dedupe_window=256)
    noise = (9, START_MS, b"42", b"\xff")
    histories.add(PARTITION, [[noise]], (), findings)
    assert [one.kind for one in findings.mismatches] == ["undecodable_without_letter"]
    histories.add(PARTITION, [[noise]], {9}, findings)
    assert (len(findings.mismatches), histories.refused) == (1, 1)


def test_rebuild_counts_and_restarts_at_an_erase() -> None:
    def at(n: int, **body: object) -> BehaviourEvent:
        return BehaviourEvent(user_id=USER, event_id=n.to_bytes(16, "big"), event_time_ms=START_MS - n, **body)  # type: ignore[arg-type]

    messages = [
        at(1, interaction=Interaction(item_id=1)),
        at(2, interaction=Interaction(item_id=2)),
        at(2, interaction=Interaction(item_id=2)),
        at(3, erase=Erase()),
        at(3, erase=Erase()),
        at(4, interaction=Interaction(item_id=9)),
        at(5, interaction=Interaction(item_id=9)),
    ]
    histories = Histories(generation=1, dedupe_window=256)
    records = [(offset, START_MS, b"42", message.SerializeToString()) for offset, message in enumerate(messages)]
    histories.add(PARTITION, [records], {6}, Findings())
    counts = histories.accepted, histories.duplicates, histories.erased, histories.refused, histories.late
    assert counts == (3, 2, 1, 1, 1)
    after = histories.find(USER, EPOCH + 1)
    assert after is not None
    assert after.digests.tolist() == [extend_digest(origin_digest(USER, EPOCH + 1), after.row_bytes(1, 1))]


@pytest.mark.parametrize("begin", [0, 120, 127, 128, 300, 1 << 14, (1 << 21) - 5])
@pytest.mark.parametrize(
    ("plant", "wanted"),
    [
        (lambda _: None, {}),
        (_flip, {"update_event": 1}),
        (_flip_version, {"update_version": 1}),
        (_swap, {"update_order": 1}),
        (_lose_the_last, {"update_missing": 1}),
    ],
)
def test_wherever_the_events_stand(plant: Callable[[World], None], wanted: dict[str, int], begin: int) -> None:
    """The bytes of most updates are known before they come, those of events at an offset below 128 are not."""
    world = right_world(offset=begin)
    plant(world)
    assert dict(check_worlds([world], begin=begin).findings.kinds) == wanted


def test_the_bytes_of_an_update_are_known_before_it_comes() -> None:
    """Else verify would still be right, and slow."""
    world = right_world(offset=1_000)
    histories = Histories(generation=1, dedupe_window=256)
    records = [(1_000 + offset, *record) for offset, *record in world.records(EVENTS)]
    histories.add(PARTITION, [records], (), Findings())  # type: ignore[list-item]
    epoch = histories.find(USER, EPOCH)
    assert epoch is not None
    assert epoch.wanted.tolist() == [hash(value) for _, _, _, value in world.records(UPDATES)]


@pytest.mark.parametrize("field", [name for name in SequenceUpdate.DESCRIPTOR.fields_by_name if name != "interaction"])
def test_no_field_of_an_update_may_differ(field: str) -> None:
    world = right_world(offset=1_000)
    found = getattr(world.updates[6], field)
    setattr(world.updates[6], field, b"x" * 16 if isinstance(found, bytes) else found + 1)
    mismatches = check_worlds([world], begin=1_000).findings.mismatches
    assert mismatches
    assert any(one.where == f"{UPDATES.name}/{PARTITION}/6" for one in mismatches)


@pytest.mark.parametrize("plant", [lambda _: None, _flip, _lose, _label, _no_revision, _nobodys_example])
def test_in_several_passes_the_verdict_is_the_same(plant: Callable[[World], None]) -> None:
    worlds, offset = [], 0
    for user in range(42, 62):
        worlds.append(right_world(user, offset))
        offset += len(worlds[-1].events)
    plant(worlds[7])
    whole, sliced = check_worlds(worlds), check_worlds(worlds, passes=3)
    assert sorted(map(repr, sliced.findings.mismatches)) == sorted(map(repr, whole.findings.mismatches))
    assert sliced.findings.checked == whole.findings.checked
    assert sliced.events == whole.events
    assert sliced.freshness.as_json() == whole.freshness.as_json()


def test_only_the_range_is_checked(world: World) -> None:
    world.examples[0].labels[0].labels = b"\1\1\1\1"
    world.responses[0].stamp.seq_no -= 1
    for selection in (
        Selection(from_ms=REQUEST_MS + 1),
        Selection(until_ms=REQUEST_MS),
        Selection(offsets={(RESPONSES.name, PARTITION): (5, 9), (EXAMPLES.name, PARTITION): (5, 9)}),
    ):
        totals = world.check(selection=selection)
        assert kinds(totals) == set()
        assert totals.findings.checked["responses"] == totals.findings.checked["examples"] == 0
    totals = world.check(selection=Selection(from_ms=REQUEST_MS, until_ms=REQUEST_MS + 1))
    assert kinds(totals) >= {"example_labels", "stamp_of_no_history"}


def test_a_sample_of_users_is_checked_whole_and_always_the_same() -> None:
    worlds, offset = [], 0
    for user in range(42, 142):
        worlds.append(right_world(user, offset))
        offset += len(worlds[-1].events)
    some = check_worlds(worlds, selection=Selection(users_share=0.2)).findings
    more = check_worlds(worlds, selection=Selection(users_share=0.4)).findings
    assert some.mismatches == more.mismatches == []
    assert 0 < some.checked["responses"] < more.checked["responses"] < 100
    assert some.checked["updates"] == 11 * some.checked["responses"]
    keys = [b"%d" % world.user for world in worlds]
    few = sample_users(keys + keys, 7)
    assert len(few) == 7
    assert few == sample_users(reversed(keys), 7) < sample_users(keys, 20)
    assert check_worlds(worlds, selection=Selection(users=few)).findings.checked["examples"] == 14


def test_how_far_behind_the_served_history_was(world: World) -> None:
    assert world.check().freshness.as_json() == {
        "responses": 1,
        "fresh": 1,
        "behind_events": {"p50": 0, "p99": 0, "max": 0},
        "behind_ms": {"p50": 0, "p99": 0, "max": 0},
    }
    stamp = world.responses[0].stamp
    stamp.seq_no, stamp.first_seq_no, stamp.length, stamp.digest = 4, 1, 4, world.updates[3].digest
    freshness = world.check().freshness.as_json()
    assert freshness["fresh"] == 0
    # Events 5 and 6 had come, 1,500 and 500 ms before the request.
    assert freshness["behind_events"]["max"] == 2
    assert freshness["behind_ms"]["max"] == 1_500


def test_an_event_under_another_users_key_is_seen(world: World) -> None:
    world.events.append(event(77, USER + 1))
    assert "event_key" in kinds(world.check())
    assert EVENTS.name in world.check().findings.mismatches[0].where
