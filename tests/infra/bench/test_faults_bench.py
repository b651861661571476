"""The bench's own judgement: each thing that a faulty job could write is seen for what it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from infra.bench.faults.bench import FaultsReport, FaultsSettings
from infra.bench.faults.judgement import Verdict, Written, judge
from infra.bench.faults.kills import Victim, draw_kills
from infra.bench.faults.traffic import Traffic, TrafficSettings
from infra.commands.bench import BENCHES, command
from infra.errors import InfraError
from infra.waiting import wait_until
from schemas.limits import Limits
from schemas.reasons import Rejected
from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, SNAPSHOTS, UPDATES
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.sequence_pb2 import SequenceUpdate
from scorer.landing.bounded import Landed
from streaming.config import SequenceJobConfig, load_config
from streaming.sequence.accept import accept_event
from streaming.sequence.memory import MemoryUserState
from streaming.sequence.step import SequenceStep

SETTINGS = TrafficSettings(events=1_500, seed=3, users=20, erase_share=0.005, seed_share=0.005, malformed_share=0.02)
RULES = load_config(SequenceJobConfig, None, ["sequence.capacity=20", "sequence.as_of_events=5"]).settings()
HABITS = {
    "generation": RULES.generation,
    "dedupe_window": RULES.dedupe_window_events,
    "kept_events": RULES.kept_events,
}


def landed(traffic: Traffic) -> list[Landed]:
    offsets: Counter[int] = Counter()
    records = []
    for record in (record for step in traffic.steps() for record in step):
        offset = offsets[record.partition]
        offsets[record.partition] += 1
        records.append(Landed(EVENTS.name, record.partition, offset, record.timestamp_ms, record.key, record.value))
    return records


def written(traffic: Traffic) -> Written:
    """What a faultless job writes."""
    step, states = SequenceStep(RULES), defaultdict(MemoryUserState)
    events, updates, snapshots, letters = landed(traffic), [], [], []
    for r in events:
        try:
            event = accept_event(r.key, r.value, r.partition, r.timestamp_ms, Limits())
        except Rejected:
            letter = DeadLetter(source_topic=r.topic, source_partition=r.partition, source_offset=r.offset)
            letters.append((b"", 0, letter.SerializeToString()))
            continue
        outcome = step.on_event(states[event.user_id], event, r.partition, r.offset, r.timestamp_ms)
        if outcome.update is not None:
            updates.append((r.key, r.partition, outcome.update))
        if outcome.snapshot is not None:
            snapshots.append((r.key, r.partition, outcome.snapshot.SerializeToString()))
    return Written(
        events=events,
        updates=records(UPDATES.name, updates),
        snapshots=records(SNAPSHOTS.name, snapshots),
        dead_letters=records(DEAD_LETTER_TOPICS[EVENTS.name].name, letters),
    )


def records(topic: str, placed: list[tuple[bytes, int, bytes]]) -> list[Landed]:
    return [Landed(topic, partition, offset, 0, key, value) for offset, (key, partition, value) in enumerate(placed)]


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(SETTINGS, Limits())


@pytest.fixture(scope="module")
def faultless(traffic: Traffic) -> Written:
    return written(traffic)


def judged(traffic: Traffic, what: Written) -> Verdict:
    return judge(what, traffic.malformed, **HABITS)


def counts(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.lost, verdict.doubled, verdict.gaps, verdict.forks


def place_of(written: Written, *, last: bool) -> int:
    """Where the update of a long history stands, one that was not erased: its last one, or one before that."""
    updates = [SequenceUpdate.FromString(record.value) for record in written.updates]
    newest = {update.user_id: update.epoch for update in sorted(updates, key=lambda update: update.epoch)}
    heads = Counter((u.user_id, u.epoch) for u in updates if u.epoch == newest[u.user_id])
    (user, epoch), length = heads.most_common(1)[0]
    wanted = length if last else length // 2
    return next(
        place
        for place, update in enumerate(updates)
        if (update.user_id, update.epoch, update.seq_no) == (user, epoch, wanted)
    )


def changed(record: Landed, **fields: object) -> Landed:
    update = SequenceUpdate.FromString(record.value)
    for name, value in fields.items():
        setattr(update, name, value)
    return record._replace(value=update.SerializeToString())


def test_the_same_seed_sends_the_same_bytes(traffic: Traffic) -> None:
    again = Traffic(SETTINGS, Limits())
    assert [*traffic.steps()] == [*again.steps()]
    assert [*Traffic(replace(SETTINGS, seed=4), Limits()).steps()] != [*traffic.steps()]


def test_the_traffic_is_what_it_says(traffic: Traffic) -> None:
    refused = 0
    for record in landed(traffic):
        try:
            event = accept_event(record.key, record.value, record.partition, record.timestamp_ms, Limits())
        except Rejected:
            refused += 1
            assert (record.key, record.value, record.partition) in traffic.malformed
        else:
            assert traffic.resets[traffic.number_of(event.event_id)] != event.HasField("interaction")
    assert refused == len(traffic.malformed) > 0
    with pytest.raises(ValueError, match="is not of the traffic"):
        traffic.number_of(bytes(16))


def test_a_faultless_job_is_found_faultless(traffic: Traffic, faultless: Written) -> None:
    verdict = judged(traffic, faultless)
    assert verdict.mismatches == []
    assert verdict.faultless
    assert min(verdict.duplicates, verdict.refused, verdict.erased, verdict.seeded) > 0
    assert verdict.accepted == len(faultless.updates)


def test_nothing_at_all_is_faultless() -> None:
    empty = Written(events=[], updates=[], snapshots=[], dead_letters=[])
    assert judge(empty, set(), **HABITS).faultless


def test_an_update_written_again_with_the_same_bytes_is_harmless(traffic: Traffic, faultless: Written) -> None:
    verdict = judged(traffic, replace(faultless, updates=[*faultless.updates, *faultless.updates[-40:]]))
    assert verdict.faultless
    assert verdict.repeated == 40


@pytest.mark.parametrize(("last", "gaps"), [(False, 1), (True, 0)])
def test_a_missing_update_is_a_lost_event(traffic: Traffic, faultless: Written, last: bool, gaps: int) -> None:
    place = place_of(faultless, last=last)
    updates = [*faultless.updates[:place], *faultless.updates[place + 1 :]]
    verdict = judged(traffic, replace(faultless, updates=updates))
    assert counts(verdict) == (1, 0, gaps, 0)
    assert not verdict.faultless
    assert "history" in {mismatch.kind for mismatch in verdict.mismatches}


def test_an_event_with_two_numbers_is_doubled(traffic: Traffic, faultless: Written) -> None:
    record = faultless.updates[place_of(faultless, last=True)]
    head = SequenceUpdate.FromString(record.value).seq_no
    again = changed(record, seq_no=head + 1)
    verdict = judged(traffic, replace(faultless, updates=[*faultless.updates, again]))
    assert counts(verdict) == (0, 1, 0, 0)
    assert not verdict.faultless


def test_a_number_with_two_digests_is_a_fork(traffic: Traffic, faultless: Written) -> None:
    other = changed(faultless.updates[place_of(faultless, last=False)], digest=1)
    verdict = judged(traffic, replace(faultless, updates=[*faultless.updates, other]))
    assert counts(verdict) == (0, 0, 0, 1)
    assert not verdict.faultless


def test_a_refused_record_without_its_letter_is_seen(traffic: Traffic, faultless: Written) -> None:
    verdict = judged(traffic, replace(faultless, dead_letters=faultless.dead_letters[1:]))
    assert [mismatch.kind for mismatch in verdict.mismatches] == ["dead_letter_missing"]


def test_a_letter_for_a_good_record_is_not_believed(traffic: Traffic, faultless: Written) -> None:
    place = place_of(faultless, last=True)
    update = SequenceUpdate.FromString(faultless.updates[place].value)
    letter = DeadLetter(
        source_topic=EVENTS.name, source_partition=update.source_partition, source_offset=update.source_offset
    )
    letters = [*faultless.dead_letters, *records("", [(b"", 0, letter.SerializeToString())])]
    updates = [*faultless.updates[:place], *faultless.updates[place + 1 :]]
    verdict = judged(traffic, replace(faultless, updates=updates, dead_letters=letters))
    assert verdict.lost == 1
    assert "dead_letter_of_good_record" in {mismatch.kind for mismatch in verdict.mismatches}


def test_an_erased_user_who_comes_back_whole_is_seen(traffic: Traffic, faultless: Written) -> None:
    verdict = judged(traffic, replace(faultless, snapshots=[]))
    # Without the erase's snapshot a reader stays in the epoch before it.
    assert {mismatch.kind for mismatch in verdict.mismatches} == {"history"}


@pytest.mark.parametrize("seed", range(5))
def test_kills_fall_within_their_shares_and_take_everything_in_turn(seed: int) -> None:
    kills = draw_kills(9, 20_000, 3, np.random.default_rng(seed))
    assert kills == draw_kills(9, 20_000, 3, np.random.default_rng(seed))
    for first in (0, 4):
        assert {kill.victim for kill in kills[first : first + 4]} == set(Victim)
    begin = 0
    for kill in kills:
        assert begin < kill.at_event < kill.until_event
        assert 0 <= kill.taskmanager < 3
        begin = kill.until_event
    assert begin < 20_000
    assert draw_kills(0, 20_000, 3, np.random.default_rng(seed)) == []


def test_too_little_traffic_for_the_kills_is_refused() -> None:
    with pytest.raises(InfraError, match="ask for 88000 or more"):
        FaultsSettings(kills=109, seed=1, events=1_000, events_per_second=1_000, taskmanagers=2)


def test_the_document_has_every_figure(traffic: Traffic, faultless: Written) -> None:
    report = FaultsReport(
        settings=FaultsSettings(kills=3, seed=1, events=4_000, events_per_second=100, taskmanagers=2),
        verdict=judged(traffic, faultless),
        recovery_seconds={"broker": [4.0], "jobmanager": [8.0, 16.0]},
        start_seconds=4.0,
        traffic_seconds=50.0,
    )
    document = report.document()
    assert document.keys() == {"bench", "figures", "limits", "ratios"}
    assert document["figures"].items() >= {"lost": 0, "doubled": 0, "gaps": 0, "forks": 0, "kills": 3}.items()
    assert document["figures"]["recovery_seconds"]["p50"] == 8.0
    assert document["figures"]["recovery_seconds"]["max"] == 16.0
    assert document["ratios"] == {"recovery_to_start": 2.0, "kept_rate": 0.8}


class Ticking:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_ends_with_what_is_seen() -> None:
    time = Ticking()
    assert wait_until(lambda: time.now > 3 and "there", "it", clock=lambda: time.now, sleep=time.sleep) == "there"
    assert 3 < time.now < 4


def test_waiting_ends_when_there_is_nothing_to_wait_for() -> None:
    time = Ticking()

    def alarm() -> None:
        if time.now > 5:
            raise InfraError("the job is FAILED")

    with pytest.raises(InfraError, match="the job is FAILED"):
        wait_until(lambda: None, "it", alarm=alarm, clock=lambda: time.now, sleep=time.sleep)
    assert time.now < 7


def test_waiting_ends() -> None:
    time = Ticking()
    with pytest.raises(InfraError, match="waited 9 s for the end of the world"):
        wait_until(lambda: None, "the end of the world", timeout_s=9, clock=lambda: time.now, sleep=time.sleep)


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_a_listed_bench_is_a_command(name: str) -> None:
    context = command.make_context("bench", [name], resilient_parsing=True)
    found = command.get_command(context, name)
    assert found is not None
    assert found.help
