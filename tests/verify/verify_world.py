"""A small world that is right: what `verify` reads of one user, record by record, to be changed by tests."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field, replace

from infra.verify.records import Light, Slice
from infra.verify.rules import ExampleRules, TaskRule, rule_of
from infra.verify.selection import Selection
from infra.verify.slices import Contract, Totals, check_slice
from schemas.digest import extend_digest, make_epoch, origin_digest
from schemas.history import decode_events, encode_event
from schemas.packing import pack_history
from schemas.partitioner import partition_of, user_key
from schemas.topics import (
    EVENTS,
    EXAMPLES,
    IMPRESSIONS,
    LATE_FEEDBACK,
    PARTITIONS,
    REQUESTS,
    RESPONSES,
    SNAPSHOTS,
    UPDATES,
    Topic,
)
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_OK,
    Candidates,
    FeatureColumn,
    Impression,
    RankingRequest,
    RankingResponse,
    Stamp,
    TaskScores,
)
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from schemas.v1.training_pb2 import LateFeedback, TaskLabels, TrainingExample

USER = 42
PARTITION = partition_of(user_key(USER), PARTITIONS)
EPOCH = make_epoch(1, 0)
START_MS = 1_700_000_000_000
WINDOW_MS = 600_000
REVISION_MS = 3_600_000
REQUEST_MS = START_MS + 6_500
RULES = ExampleRules(
    tasks=(
        TaskRule(name="touch", holds=rule_of({"actions": "any"}), window_ms=WINDOW_MS, weight=1.0),
        TaskRule(name="like", holds=rule_of({"actions": [3]}), window_ms=WINDOW_MS // 2, weight=0.25),
    ),
    revision_window_ms=REVISION_MS,
)
CONTRACT = Contract(generation=1, dedupe_window=256, kept_events=14_000, serving_length=5, rules=RULES)


def column(*ids: int) -> bytes:
    return struct.pack(f"<{len(ids)}Q", *ids)


def int64s(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


@dataclass
class World:
    """Twelve events of one user, a request after the sixth, its response, impression, example and one revision."""

    user: int = USER
    events: list[BehaviourEvent] = field(default_factory=list)
    #: Of the records by offset; where there is none, the message's own time.
    published: dict[Topic, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    updates: list[SequenceUpdate] = field(default_factory=list)
    snapshots: list[SequenceSnapshot] = field(default_factory=list)
    requests: list[RankingRequest] = field(default_factory=list)
    responses: list[RankingResponse] = field(default_factory=list)
    impressions: list[Impression] = field(default_factory=list)
    examples: list[TrainingExample] = field(default_factory=list)
    late: list[LateFeedback] = field(default_factory=list)
    rows: dict[int, bytes] = field(default_factory=dict)
    letters: dict[str, dict[int, str]] = field(default_factory=dict)
    #: What the trainer's store would hand out; None: no store is asked.
    resolved: bytes | str | None = None

    def resolve(self, user: int, stamp: Stamp) -> bytes | str:
        assert stamp.epoch == EPOCH
        assert user == self.user
        assert self.resolved is not None
        return self.resolved

    def records(self, topic: Topic) -> list[Light]:
        """What the partition of a topic holds."""
        messages: list[object] = {
            EVENTS: self.events,
            UPDATES: self.updates,
            SNAPSHOTS: self.snapshots,
            REQUESTS: self.requests,
            RESPONSES: self.responses,
            IMPRESSIONS: self.impressions,
            EXAMPLES: self.examples,
            LATE_FEEDBACK: self.late,
        }[topic]  # type: ignore[assignment]
        key, records = user_key(self.user), []
        for offset, message in enumerate(messages):
            time_ms = next(
                (
                    getattr(message, name)
                    for name in ("impression_time_ms", "request_time_ms", "event_time_ms")
                    if hasattr(message, name)
                ),
                START_MS,
            )
            time_ms = self.published[topic].get(offset, time_ms)
            records.append((offset, time_ms, key, message.SerializeToString(deterministic=True)))  # type: ignore[attr-defined]
        return records

    def check(
        self,
        *,
        contract: Contract = CONTRACT,
        selection: Selection | None = None,
        watermark_ms: int = START_MS + 10 * REVISION_MS,
    ) -> Totals:
        """Everything, in one pass."""
        return check_worlds([self], contract=contract, selection=selection, watermark_ms=watermark_ms)


def check_worlds(
    worlds: list[World],
    *,
    passes: int = 1,
    begin: int = 0,
    contract: Contract = CONTRACT,
    selection: Selection | None = None,
    watermark_ms: int = START_MS + 10 * REVISION_MS,
) -> Totals:
    """The users' records, one user after the other in every topic.

    Args:
        begin: offset of the first event.
    """
    records: dict[Topic, list[Light]] = defaultdict(list)
    for topic in (EVENTS, UPDATES, SNAPSHOTS, REQUESTS, RESPONSES, IMPRESSIONS, EXAMPLES, LATE_FEEDBACK):
        for world in worlds:
            at = len(records[topic]) + (begin if topic is EVENTS else 0)
            records[topic] += [(at + offset, *record) for offset, *record in world.records(topic)]  # type: ignore[misc]
    totals = Totals()
    for number in range(passes):
        check_slice(
            PARTITION,
            lambda topic: [records[topic][at : at + 3] for at in range(0, len(records[topic]), 3)],
            contract,
            totals,
            letters=worlds[0].letters,
            users=Slice(number, passes),
            selection=selection or Selection(),
            resolve=worlds[0].resolve if worlds[0].resolved is not None else None,
        )
    totals.findings.settle(watermark_ms)
    return totals


def kinds(totals: Totals) -> set[str]:
    """Of the mismatches."""
    return set(totals.findings.kinds)


def event(n: int, user: int = USER, **more: object) -> BehaviourEvent:
    """The n-th event: items 101, 102, 103, 100, 101 .."""
    return BehaviourEvent(
        schema_version=1,
        user_id=user,
        event_id=(user * 1_000 + n).to_bytes(16, "big"),
        event_time_ms=START_MS + n * 1_000,
        interaction=Interaction(item_id=100 + n % 4, action=1, group_id=7),
        **more,  # type: ignore[arg-type]
    )


def right_world(user: int = USER, offset: int = 0, before: tuple[BehaviourEvent, ...] = ()) -> World:
    """What faultless jobs and a faultless scorer make of it.

    Args:
        offset: of the user's first event.
        before: events ahead of all others.
    """
    world = World(user=user)
    reference = RequestRef(request_id=f"r-{user}", response_id="shown", request_time_ms=REQUEST_MS)
    events = [*before, *(event(n, user) for n in range(1, 11))]
    for one in events[len(before) + 6 :]:
        one.request.CopyFrom(reference)
    # A like comes when the label window has closed; but the user acted in time for the task `touch` only.
    like = event(11, user, request=reference)
    like.event_time_ms = REQUEST_MS + WINDOW_MS - 1
    like.interaction.item_id, like.interaction.action = 999, 3
    events.append(like)
    digest = base = origin_digest(user, EPOCH)
    for n, one in enumerate(events, 1):
        world.events.append(one)
        row = encode_event(one.event_time_ms, one.interaction)
        previous, digest = digest, extend_digest(digest, row)
        world.rows[n] = row
        world.updates.append(
            SequenceUpdate(
                schema_version=1,
                user_id=user,
                epoch=EPOCH,
                seq_no=n,
                digest_version=1,
                prev_digest=previous,
                digest=digest,
                event_id=one.event_id,
                event_time_ms=one.event_time_ms,
                interaction=one.interaction,
                source_partition=PARTITION,
                source_offset=offset + len(world.events) - 1,
            )
        )
        if n == 4:
            # A duplicate takes an offset and no number.
            world.events.append(one)
    world.published[EVENTS][len(world.events) - 1] = REQUEST_MS + WINDOW_MS + 500
    rows = decode_events(b"".join(world.rows.values()))
    world.snapshots.append(
        SequenceSnapshot(
            schema_version=1,
            user_id=user,
            epoch=EPOCH,
            first_seq_no=1,
            seq_no=len(events),
            digest_version=1,
            base_digest=base,
            digest=digest,
            packed=pack_history(rows),
        )
    )
    _ask(world, len(before) + 6)
    return world


def _ask(world: World, served: int) -> None:
    user, request_id = world.user, f"r-{world.user}"
    candidates = Candidates(
        item_id=column(100, 101, 102, 999),
        group_id=column(7, 7, 7, 0),
        features=[FeatureColumn(name="shows", int64=int64s(1, 2, 3, 4))],
    )
    context = [FeatureColumn(name="hour", int64=int64s(17))]
    first = served - CONTRACT.serving_length + 1
    stamp = Stamp(
        epoch=EPOCH,
        first_seq_no=first,
        seq_no=served,
        length=CONTRACT.serving_length,
        digest_version=1,
        digest=world.updates[served - 1].digest,
        model_version="m",
    )
    world.requests.append(
        RankingRequest(
            schema_version=1,
            request_id=request_id,
            user_id=user,
            request_time_ms=REQUEST_MS,
            candidates=candidates,
            context=context,
        )
    )
    world.responses.append(
        RankingResponse(
            schema_version=1,
            request_id=request_id,
            response_id="shown",
            user_id=user,
            request_time_ms=REQUEST_MS,
            status=RESPONSE_STATUS_OK,
            candidates=candidates,
            context=context,
            scores=[TaskScores(task="touch", scores=struct.pack("<4f", 0.1, 0.2, 0.3, 0.4))],
            stamp=stamp,
        )
    )
    shown = column(999, 102, 101, 100)
    world.impressions.append(
        Impression(
            schema_version=1,
            user_id=user,
            request_id=request_id,
            response_id="shown",
            request_time_ms=REQUEST_MS,
            impression_time_ms=REQUEST_MS,
            item_id=shown,
            first_position=2,
        )
    )
    # Events 7 .. 10 touch items 103, 100, 101, 102.
    example = TrainingExample(
        schema_version=1,
        request_id=request_id,
        response_id="shown",
        user_id=user,
        request_time_ms=REQUEST_MS,
        label_version=1,
        targets=Candidates(
            item_id=shown,
            group_id=column(0, 7, 7, 7),
            features=[FeatureColumn(name="shows", int64=int64s(4, 3, 2, 1))],
        ),
        position=struct.pack("<4H", 2, 3, 4, 5),
        labels=[
            TaskLabels(task="touch", labels=b"\0\1\1\1", weight=1.0),
            TaskLabels(task="like", labels=b"\0\0\0\0", weight=0.25),
        ],
        stamp=stamp,
        context=context,
    )
    revision = TrainingExample()
    revision.CopyFrom(example)
    revision.label_version = 2
    revision.labels[0].labels = b"\1\1\1\1"
    revision.labels[0].changed_targets.append(0)
    revision.caused_by.append(world.events[-1].event_id)
    world.examples += [example, revision]


def with_rules(**changed: object) -> Contract:
    """The contract with other rules of the examples."""
    return replace(CONTRACT, rules=replace(RULES, **changed))  # type: ignore[arg-type]
