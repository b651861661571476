"""Fuzzed records through acceptance and step, and the account that must balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from infra.bench.fuzz.account import account
from infra.bench.fuzz.records import fuzzed_records
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason, Rejected
from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, HEARTBEAT_KEY, PARTITIONS, SNAPSHOTS, UPDATES
from scorer.landing.bounded import Landed
from streaming.config import SequenceJobConfig, load_config
from streaming.dead_letters import Source, dead_letter
from streaming.sequence.accept import accept_event
from streaming.sequence.memory import MemoryUserState
from streaming.sequence.step import SequenceStep

CONFIG = load_config(SequenceJobConfig, None, ["sequence.capacity=20", "sequence.as_of_events=5"])
RULES = CONFIG.settings()


def processed(count: int, seed: int) -> dict[str, list[Landed]]:
    """What the topics would hold."""
    topics: dict[str, list[Landed]] = {"events": [], "updates": [], "snapshots": [], "dead_letters": []}
    offsets: Counter[int] = Counter()
    states: dict[int, MemoryUserState] = {}
    step, limits = SequenceStep(RULES), CONFIG.record_limits()
    for record in fuzzed_records(count, seed):
        key, value, timestamp_ms, partition = record
        offset = offsets[partition]
        offsets[partition] += 1
        topics["events"].append(Landed(EVENTS.name, partition, offset, timestamp_ms, key, value))
        if key == HEARTBEAT_KEY:
            continue
        try:
            event = accept_event(key, value, partition, timestamp_ms, limits)
            outcome = step.on_event(states.setdefault(event.user_id, MemoryUserState()), event, partition, offset, 0)
        except Rejected as refused:
            letter = dead_letter(refused, "test", Source(EVENTS.name, partition, offset, timestamp_ms), key, value)
            topics["dead_letters"].append(written(DEAD_LETTER_TOPICS[EVENTS.name].name, key or b"", letter, 0))
            continue
        home = partition_of(user_key(event.user_id), PARTITIONS)
        if outcome.update is not None:
            topics["updates"].append(written(UPDATES.name, key, outcome.update, home))
        if outcome.snapshot is not None:
            topics["snapshots"].append(written(SNAPSHOTS.name, key, outcome.snapshot, home))
    return topics


def written(topic: str, key: bytes, message, partition: int) -> Landed:
    value = message if isinstance(message, bytes) else message.SerializeToString()
    return Landed(topic, partition, 0, 0, key, value)


def judge(topics: dict[str, list[Landed]]):
    return account(
        **topics,
        generation=RULES.generation,
        dedupe_window=RULES.dedupe_window_events,
        kept_events=RULES.kept_events,
    )


@pytest.fixture(scope="module")
def topics() -> dict[str, list[Landed]]:
    return processed(8_000, seed=3)


def test_every_record_is_accounted_for(topics) -> None:
    found = judge(topics)
    assert found.balanced, found.mismatches[:5]
    assert found.records + found.heartbeats == 8_000
    # All that can happen to a record of this topic has happened.
    assert min(found.accepted, found.duplicates, found.erased, found.seed_parts, found.seeded, found.heartbeats) > 0
    never_events = {"no_candidates", "too_many_candidates", "malformed_columns", "unknown_candidate", "unknown_task"}
    never_events |= {"response_missing", "digest_mismatch", "conflicting_impression", "over_limit"}
    assert found.by_reason.keys() == {reason.value for reason in Reason} - never_events


def test_the_same_seed_gives_the_same_records() -> None:
    assert list(fuzzed_records(300, 5)) == list(fuzzed_records(300, 5))
    assert list(fuzzed_records(300, 5)) != list(fuzzed_records(300, 6))


@pytest.mark.parametrize("topic", ["updates", "snapshots", "dead_letters"])
def test_what_is_changed_or_missing_is_noticed(topics, topic: str) -> None:
    middle = len(topics[topic]) // 2
    record = topics[topic][middle]
    changed = record._replace(value=bytes(byte ^ (at == len(record.value) - 1) for at, byte in enumerate(record.value)))
    for altered in ([*topics[topic][:middle], changed, *topics[topic][middle + 1 :]],):
        assert not judge(topics | {topic: altered}).balanced
    if topic != "snapshots":
        missing = topics[topic][:middle] + topics[topic][middle + 1 :]
        assert not judge(topics | {topic: missing}).balanced


def test_a_record_that_went_nowhere_is_missed(topics) -> None:
    found = judge(topics)
    assert not replace(found, dead_letters=found.dead_letters - 1).balanced
