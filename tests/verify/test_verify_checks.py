"""verify on a small world that is right, and on the same world with one planted fault each."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from infra.verify.checks import check_examples, check_responses, check_snapshots, check_updates
from infra.verify.findings import Findings
from infra.verify.histories import Histories
from schemas.digest import extend_digest, make_epoch, origin_digest
from schemas.history import decode_events, encode_event
from schemas.packing import pack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, RequestRef
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_OK,
    Candidates,
    Impression,
    RankingRequest,
    RankingResponse,
    Stamp,
    TaskScores,
)
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from scorer.landing.bounded import Landed

USER = 42
EPOCH = make_epoch(1, 0)
START_MS = 1_700_000_000_000
WINDOW_MS = 600_000


def column(*ids: int) -> bytes:
    return struct.pack(f"<{len(ids)}Q", *ids)


@dataclass
class World:
    """Ten events of one user, a request after the sixth, its response, impression, feedback and example."""

    events: list[BehaviourEvent] = field(default_factory=list)
    updates: list[SequenceUpdate] = field(default_factory=list)
    snapshots: list[SequenceSnapshot] = field(default_factory=list)
    requests: list[RankingRequest] = field(default_factory=list)
    responses: list[RankingResponse] = field(default_factory=list)
    impressions: list[Impression] = field(default_factory=list)
    examples: list[TrainingExample] = field(default_factory=list)
    rows: dict[int, bytes] = field(default_factory=dict)
    #: What the trainer's store would hand out for (seq_no).
    resolve_override: bytes | str | None = None

    def resolve(self, user: int, stamp: Stamp) -> bytes | str:
        if self.resolve_override is not None:
            return self.resolve_override
        assert user == USER
        return b"".join(self.rows[n] for n in range(stamp.first_seq_no, stamp.seq_no + 1))

    def check(self) -> Findings:
        findings, histories = Findings(), Histories(generation=1, dedupe_window=256)
        events = landed("behaviour.events.v1", self.events)
        histories.add_all(events, (), findings)
        check_updates(histories, landed("sequence.updates.v1", self.updates), findings)
        check_snapshots(histories, landed("sequence.snapshots.v1", self.snapshots), findings)
        served = check_responses(
            histories,
            landed("ranking.requests.v1", self.requests),
            landed("ranking.responses.v1", self.responses),
            findings,
            self.resolve,
            serving_length=5,
        )
        check_examples(
            histories,
            served,
            events,
            landed("ranking.impressions.v1", self.impressions),
            landed("training.examples.v1", self.examples),
            findings,
            self.resolve,
            label_window_ms=WINDOW_MS,
            task_actions={"touch": frozenset()},
            watermark_ms=START_MS + 10 * WINDOW_MS,
        )
        return findings


def landed(topic: str, messages: list[object]) -> list[Landed]:
    def time(message: object) -> int:
        return getattr(message, "event_time_ms", START_MS)

    return [
        Landed(topic, 3, offset, time(message), b"42", message.SerializeToString())  # type: ignore[attr-defined]
        for offset, message in enumerate(messages)
    ]


@pytest.fixture
def world() -> World:
    world = World()
    reference = RequestRef(request_id="r-1", response_id="shown", request_time_ms=START_MS + 5_500)
    digest, base, offset = origin_digest(USER, EPOCH), origin_digest(USER, EPOCH), 0
    for n in range(1, 11):
        event = BehaviourEvent(
            schema_version=1,
            user_id=USER,
            event_id=n.to_bytes(16, "big"),
            event_time_ms=START_MS + n * 1_000,
            interaction=Interaction(item_id=100 + n % 4, action=1, group_id=7),
        )
        if n > 6:
            event.request.CopyFrom(reference)
        world.events.append(event)
        row = encode_event(event.event_time_ms, event.interaction)
        previous, digest = digest, extend_digest(digest, row)
        world.rows[n] = row
        world.updates.append(
            SequenceUpdate(
                schema_version=1,
                user_id=USER,
                epoch=EPOCH,
                seq_no=n,
                digest_version=1,
                prev_digest=previous,
                digest=digest,
                event_id=event.event_id,
                event_time_ms=event.event_time_ms,
                interaction=event.interaction,
                source_partition=3,
                source_offset=offset,
            )
        )
        offset += 1
        if n == 4:
            # A duplicate takes an offset and no number.
            world.events.append(event)
            offset += 1
    rows = decode_events(b"".join(world.rows.values()))
    world.snapshots.append(
        SequenceSnapshot(
            schema_version=1,
            user_id=USER,
            epoch=EPOCH,
            first_seq_no=1,
            seq_no=10,
            digest_version=1,
            base_digest=base,
            digest=digest,
            packed=pack_history(rows),
        )
    )
    candidates = Candidates(item_id=column(100, 101, 102, 999), group_id=column(7, 7, 7, 0))
    time = START_MS + 5_500
    stamp = Stamp(
        epoch=EPOCH,
        first_seq_no=2,
        seq_no=6,
        length=5,
        digest_version=1,
        digest=world.updates[5].digest,
        model_version="m",
    )
    world.requests.append(RankingRequest(request_id="r-1", user_id=USER, request_time_ms=time, candidates=candidates))
    world.responses.append(
        RankingResponse(
            request_id="r-1",
            response_id="shown",
            user_id=USER,
            request_time_ms=time,
            status=RESPONSE_STATUS_OK,
            candidates=candidates,
            scores=[TaskScores(task="touch", scores=struct.pack("<4f", 0.1, 0.2, 0.3, 0.4))],
            stamp=stamp,
        )
    )
    shown = column(999, 102, 101, 100)
    world.impressions.append(
        Impression(
            user_id=USER,
            request_id="r-1",
            response_id="shown",
            request_time_ms=time,
            impression_time_ms=time,
            item_id=shown,
        )
    )
    # Events 7..10 touch items 103, 100, 101, 102.
    world.examples.append(
        TrainingExample(
            request_id="r-1",
            response_id="shown",
            user_id=USER,
            request_time_ms=time,
            label_version=1,
            targets=Candidates(item_id=shown),
            labels=[TaskLabels(task="touch", labels=b"\0\1\1\1")],
            stamp=stamp,
        )
    )
    return world


def test_a_right_world_has_no_mismatch(world: World) -> None:
    findings = world.check()
    assert findings.mismatches == []
    assert findings.checked == {"updates": 10, "snapshots": 1, "responses": 1, "examples": 1}


def test_repeated_deltas_and_responses_are_no_mismatch(world: World) -> None:
    world.updates += world.updates[3:]
    world.responses += world.responses
    findings = world.check()
    assert findings.mismatches == []
    assert findings.repeated == {"updates": 7, "responses": 1}


def test_a_stamp_from_before_an_erase_is_counted_not_a_mismatch(world: World) -> None:
    erase = BehaviourEvent(user_id=USER, event_id=bytes(16), event_time_ms=START_MS + 20_000, erase=Erase())
    world.resolve_override = "erased"
    assert {mismatch.kind for mismatch in world.check().mismatches} == {"stamp_unresolved"}
    world.events.append(erase)
    findings = world.check()
    assert findings.mismatches == []
    assert findings.repeated["stamps_of_erased_users"] == 2


def _flip(world: World) -> None:
    world.updates[4].interaction.item_id ^= 1


def _lose(world: World) -> None:
    del world.updates[5]


def _lose_the_last(world: World) -> None:
    del world.updates[9]


def _swap(world: World) -> None:
    world.updates[4], world.updates[5] = world.updates[5], world.updates[4]


def _double(world: World) -> None:
    world.examples.append(world.examples[0])


def _short_stamp(world: World) -> None:
    world.responses[0].stamp.seq_no -= 1
    world.responses[0].stamp.length -= 1


def _snapshot_digest(world: World) -> None:
    world.snapshots[0].digest ^= 1


def _snapshot_events(world: World) -> None:
    rows = decode_events(b"".join(world.rows.values())).copy()
    rows["item_id"][3] += 1
    world.snapshots[0].packed = pack_history(rows)


def _label(world: World) -> None:
    world.examples[0].labels[0].labels = b"\1\1\1\1"


def _nobodys_example(world: World) -> None:
    world.examples[0].request_id = "r-2"


def _unshown_order(world: World) -> None:
    world.examples[0].targets.item_id = column(100, 101, 102, 999)


def _no_example(world: World) -> None:
    world.examples.clear()


def _unanswered(world: World) -> None:
    world.requests.append(RankingRequest(request_id="r-3", user_id=USER, candidates=world.requests[0].candidates))


def _other_candidates(world: World) -> None:
    world.responses[0].candidates.item_id = column(100, 101, 102, 998)


def _trainer_sees_other_bytes(world: World) -> None:
    world.resolve_override = b"".join(world.rows[n] for n in (3, 2, 4, 5, 6))


def _trainer_cannot_resolve(world: World) -> None:
    world.resolve_override = "evicted"


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


def _refused_response_to_nobody(world: World) -> None:
    world.responses[0].user_id += 1


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (_flip, {"update_event"}),
        (_lose, {"update_order"}),
        (_lose_the_last, {"update_missing"}),
        (_swap, {"update_order"}),
        (_double, {"example_doubled"}),
        (_short_stamp, {"stamp_digest", "example_stamp"}),
        (_snapshot_digest, {"snapshot_digest"}),
        (_snapshot_events, {"snapshot_events"}),
        (_label, {"example_labels"}),
        (_nobodys_example, {"example_of_no_request", "example_missing"}),
        (_unshown_order, {"example_targets"}),
        (_no_example, {"example_missing"}),
        (_unanswered, {"response_missing"}),
        (_other_candidates, {"response_candidates"}),
        (_trainer_sees_other_bytes, {"stamp_bytes"}),
        (_trainer_cannot_resolve, {"stamp_unresolved"}),
        (_truncated_history, {"response_length"}),
        (_empty_history, {"response_behind"}),
        (_wrong_origin, {"stamp_digest"}),
        (_refused_response_to_nobody, {"response_to_no_request", "response_missing", "example_of_no_request"}),
    ],
)
def test_a_planted_fault_is_caught(world: World, plant: Callable[[World], None], kinds: set[str]) -> None:
    plant(world)
    mismatches = world.check().mismatches
    assert {mismatch.kind for mismatch in mismatches} >= kinds
    assert all(mismatch.user_id in (USER, USER + 1) and mismatch.where for mismatch in mismatches)


def test_a_record_that_no_letter_excuses_is_a_mismatch_not_a_crash() -> None:
    findings, histories = Findings(), Histories(generation=1, dedupe_window=256)
    noise = Landed("behaviour.events.v1", 3, 9, START_MS, b"42", b"\xff")
    histories.add_all([noise], (), findings)
    served = check_responses(histories, [noise], [], findings, lambda *_: "evicted", serving_length=5)
    assert served.requests == {}
    assert [m.kind for m in findings.mismatches] == ["undecodable_without_letter"] * 2
    histories.add_all([noise], {("behaviour.events.v1", 3, 9)}, findings)
    assert (len(findings.mismatches), histories.refused) == (2, 1)


def test_rebuild_counts_and_restarts_at_an_erase() -> None:
    def event(n: int, **body: object) -> BehaviourEvent:
        return BehaviourEvent(user_id=USER, event_id=n.to_bytes(16, "big"), event_time_ms=START_MS - n, **body)  # type: ignore[arg-type]

    messages = [
        event(1, interaction=Interaction(item_id=1)),
        event(2, interaction=Interaction(item_id=2)),
        event(2, interaction=Interaction(item_id=2)),
        event(3, erase=Erase()),
        event(3, erase=Erase()),
        event(4, interaction=Interaction(item_id=9)),
        event(5, interaction=Interaction(item_id=9)),
    ]
    histories = Histories(generation=1, dedupe_window=256)
    histories.add_all(landed("behaviour.events.v1", messages), {("behaviour.events.v1", 3, 6)}, Findings())  # type: ignore[arg-type]
    assert (histories.accepted, histories.duplicates, histories.erased, histories.refused, histories.late) == (
        3,
        2,
        1,
        1,
        1,
    )
    after = histories.find(USER, EPOCH + 1)
    assert after is not None
    assert after.digests == [extend_digest(origin_digest(USER, EPOCH + 1), after.row_bytes(1, 1))]
