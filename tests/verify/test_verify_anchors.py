"""A log whose first events retention has eaten: what is there is checked, and what cannot be known is no mismatch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_seeded_histories import RULES, program
from verify_world import PARTITION
from verify_world import RULES as EXAMPLE_RULES

from infra.verify.records import Light
from infra.verify.slices import Begin, Contract, Totals, check_slice
from schemas.partitioner import user_key
from schemas.reasons import Rejected
from schemas.topics import EVENTS, REQUESTS, RESPONSES, SNAPSHOTS, UPDATES, Topic
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_OK, RankingRequest, RankingResponse, Stamp
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from streaming.sequence.memory import MemoryUserState
from streaming.sequence.step import SequenceStep

CONTRACT = Contract(
    generation=RULES.generation,
    dedupe_window=RULES.dedupe_window_events,
    kept_events=RULES.kept_events,
    serving_length=RULES.capacity,
    rules=EXAMPLE_RULES,
)
START_MS = 1_700_000_000_000


@dataclass
class Log:
    """What the topics of a partition hold."""

    records: dict[Topic, list[Light]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    letters: dict[int, str] = field(default_factory=dict)

    def add(self, topic: Topic, user: int, message, time_ms: int = START_MS) -> int:
        offset = len(self.records[topic])
        value = message if isinstance(message, bytes) else message.SerializeToString()
        self.records[topic].append((offset, time_ms, user_key(user), value))
        return offset

    def check(self, events_from: int, updates_from: int) -> Totals:
        """With the first events and updates gone, and of the snapshots only each user's newest."""
        newest = {key: record for record in self.records[SNAPSHOTS] for key in [record[2]]}
        kept = {
            **self.records,
            EVENTS: self.records[EVENTS][events_from:],
            UPDATES: self.records[UPDATES][updates_from:],
            SNAPSHOTS: sorted(newest.values()) if events_from else self.records[SNAPSHOTS],
        }
        totals = Totals()
        check_slice(
            PARTITION,
            lambda topic: [kept.get(topic, [])],
            CONTRACT,
            totals,
            letters={EVENTS.name: self.letters},
            begins={
                topic.name: Begin(first, START_MS)
                for topic, first in ((EVENTS, events_from), (UPDATES, updates_from))
                if first
            },
        )
        return totals


TOPICS = (EVENTS, UPDATES, SNAPSHOTS, REQUESTS, RESPONSES)


def written(seed: int, *, resets: bool, users: int = 3, length: int = 60) -> Log:
    """What the job and a scorer make of several users' events."""
    log, rng, step = Log(), random.Random(seed), SequenceStep(RULES)
    programs = {user: program(seed + user, length) for user in range(42, 42 + users)}
    states = {user: MemoryUserState() for user in programs}
    while programs:
        user = rng.choice(sorted(programs))
        if not programs[user]:
            del programs[user]
            continue
        event: BehaviourEvent = programs[user].pop(0)
        event.user_id = user
        if not resets and event.WhichOneof("body") != "interaction":
            continue
        offset = log.add(EVENTS, user, event)
        try:
            outcome = step.on_event(states[user], event, PARTITION, offset, 0)
        except Rejected as refused:
            log.letters[offset] = str(refused.reason)
            continue
        if outcome.update:
            log.add(UPDATES, user, outcome.update)
            if rng.random() < 0.2:
                _serve(log, user, SequenceUpdate.FromString(outcome.update))
        if outcome.snapshot:
            log.add(SNAPSHOTS, user, outcome.snapshot)
    return log


def _serve(log: Log, user: int, head: SequenceUpdate) -> None:
    name, length = f"r-{len(log.records[REQUESTS])}", min(head.seq_no, CONTRACT.serving_length)
    common = {"schema_version": 1, "request_id": name, "user_id": user, "request_time_ms": START_MS}
    stamp = Stamp(
        epoch=head.epoch,
        first_seq_no=head.seq_no - length + 1,
        seq_no=head.seq_no,
        length=length,
        digest_version=1,
        digest=head.digest,
    )
    log.add(REQUESTS, user, RankingRequest(**common))
    log.add(RESPONSES, user, RankingResponse(**common, response_id="s", status=RESPONSE_STATUS_OK, stamp=stamp))


@pytest.mark.parametrize("resets", [False, True])
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), more=st.floats(0, 1))
def test_a_right_log_is_right_without_its_beginning(resets: bool, seed: int, share: float, more: float) -> None:
    log = written(seed, resets=resets)
    events_from = int(share * len(log.records[EVENTS]))
    # Updates are kept for less time than events.
    gone = sum(SequenceUpdate.FromString(value).source_offset < events_from for *_, value in log.records[UPDATES])
    updates_from = gone + int(more * (len(log.records[UPDATES]) - gone) / 2)
    assert log.check(events_from, updates_from).findings.mismatches == []
    assert log.check(events_from, 0).findings.mismatches == []


def _flip(update: SequenceUpdate) -> None:
    update.interaction.item_id ^= 1


def _other_source(update: SequenceUpdate) -> None:
    update.source_offset += 1


def _digest(update: SequenceUpdate) -> None:
    update.digest ^= 1


@pytest.mark.parametrize("change", [_flip, _other_source, _digest, None])
def test_a_fault_after_the_beginning_is_seen(change: Callable[[SequenceUpdate], None] | None) -> None:
    log = written(7, resets=False)
    events_from = len(log.records[EVENTS]) // 2
    assert log.check(events_from, 0).findings.mismatches == []
    at = len(log.records[UPDATES]) * 4 // 5
    offset, time_ms, key, value = log.records[UPDATES][at]
    if change is None:
        del log.records[UPDATES][at]
    else:
        update = SequenceUpdate.FromString(value)
        change(update)
        log.records[UPDATES][at] = (offset, time_ms, key, update.SerializeToString())
    assert log.check(events_from, 0).findings.mismatches


def test_a_snapshot_is_proved_from_its_base_to_what_the_first_update_says() -> None:
    log = written(7, resets=False)
    events_from = len(log.records[EVENTS]) * 3 // 4
    totals = log.check(events_from, 0)
    assert totals.findings.mismatches == []
    assert totals.events["undecided"] < totals.events["records"]
    # The newest snapshots begin before the events that are left, else there would be nothing to prove.
    for at, (offset, time_ms, key, value) in enumerate(log.records[SNAPSHOTS]):
        snapshot = SequenceSnapshot.FromString(value)
        snapshot.base_digest ^= 1
        log.records[SNAPSHOTS][at] = (offset, time_ms, key, snapshot.SerializeToString())
    kinds = set(log.check(events_from, 0).findings.kinds)
    assert kinds == {"snapshot_base_digest"}
