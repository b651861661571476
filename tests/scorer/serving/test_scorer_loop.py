"""The scorer's loop without Kafka: who is answered when, with what, and what is committed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason
from schemas.topics import HEARTBEAT_KEY, PARTITIONS, REQUESTS, RESPONSES
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_BEHIND,
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Candidates,
    FeatureColumn,
)
from scorer.serving.settings import ServingSettings
from scorer.serving.transport import TransportError

USER = 7
HOME = partition_of(user_key(USER), PARTITIONS)
#: Of the same partition, and of another.
NEIGHBOUR = next(u for u in range(8, 999) if partition_of(user_key(u), PARTITIONS) == HOME)
STRANGER = 10
AWAY = partition_of(user_key(STRANGER), PARTITIONS)
SERVED = (HOME, AWAY)


def names(scorer) -> list[str]:
    return [response.request_id for response in scorer.responses]


def test_a_response_is_what_the_model_makes_of_the_stamped_history(scorer, log, job):
    chain = job.chain(USER)
    log.add(job.snapshot(chain, 80))
    scorer.start()
    scorer.ask(USER, "r1")
    scorer.turns()
    (response,) = scorer.responses
    assert (response.request_id, response.user_id, response.status) == ("r1", USER, RESPONSE_STATUS_OK)
    stamp = response.stamp
    assert (stamp.epoch, stamp.first_seq_no, stamp.seq_no, stamp.length) == (chain.epoch, 31, 80, 50)
    assert (stamp.digest, stamp.model_version) == (chain.digests[80], "toy-1")
    assert [scores.task for scores in response.scores] == ["touch", "like"]
    assert [scores.scores for scores in response.scores] == [scorer.expected(response, task) for task in (0, 1)]
    assert (response.source_partition, response.source_offset) == (HOME, 0)
    (record,) = scorer.outlet.sent
    assert (record.partition, record.key, record.timestamp_ms) == (HOME, user_key(USER), response.request_time_ms)


def test_tasks_come_in_the_order_asked_for(scorer):
    scorer.start().ask(USER, "r", tasks=["like"])
    scorer.turns()
    (response,) = scorer.responses
    assert [scores.task for scores in response.scores] == ["like"]
    assert response.scores[0].scores == scorer.expected(response, 1)


def test_a_user_without_history_is_scored_with_an_empty_one(scorer):
    scorer.start().ask(USER, "r", many=1)
    scorer.turns()
    (response,) = scorer.responses
    assert response.status == RESPONSE_STATUS_OK
    assert (response.stamp.epoch, response.stamp.seq_no, response.stamp.length) == (0, 0, 0)
    assert response.scores[0].scores == scorer.expected(response, 0)


def test_features_and_context_come_back_as_they_were_sent(scorer):
    items, ages = np.array([10, 20], "<u8").tobytes(), np.array([0.5, 2.0], "<f4").tobytes()
    candidates = Candidates(item_id=items, features=[FeatureColumn(name="age", float32=ages)])
    context = [FeatureColumn(name="hour", int64=np.array([7], "<i8").tobytes())]
    scorer.start().ask(USER, "r", candidates=candidates, context=context)
    scorer.turns()
    (response,) = scorer.responses
    assert response.candidates == candidates
    assert list(response.context) == context


def test_a_request_waits_for_its_history_and_blocks_no_other(scorer, log, job):
    chain = job.chain(USER)
    log.add(job.update(chain, 1))
    scorer.start()
    scorer.ask(USER, "early", min_seq_no=3, max_wait_ms=5_000)
    scorer.ask(USER, "now")
    scorer.ask(NEIGHBOUR, "neighbour")
    scorer.turns()
    assert names(scorer) == ["now", "neighbour"]
    log.add(job.update(chain, 2))
    scorer.turns()
    assert len(scorer.responses) == 2
    log.add(job.update(chain, 3))
    scorer.turns()
    response = scorer.responses[-1]
    assert (response.request_id, response.status, response.stamp.seq_no) == ("early", RESPONSE_STATUS_OK, 3)


def test_a_history_that_does_not_come_in_time_is_scored_as_it_is(scorer, log, job):
    log.add(job.update(job.chain(USER), 1))
    scorer.settings = ServingSettings(max_wait_ms=2_000)
    scorer.start()
    scorer.ask(USER, "patient", min_seq_no=2, max_wait_ms=1_000_000)
    scorer.ask(USER, "hasty", min_seq_no=2, max_wait_ms=500)
    scorer.ask(USER, "at once", min_seq_no=2)
    scorer.turns()
    assert names(scorer) == ["at once"]
    scorer.time += 0.6
    scorer.turns(1)
    assert names(scorer) == ["at once", "hasty"]
    scorer.time += 1.5
    scorer.turns(1)
    assert names(scorer) == ["at once", "hasty", "patient"]
    assert {response.status for response in scorer.responses} == {RESPONSE_STATUS_BEHIND}
    assert {response.stamp.seq_no for response in scorer.responses} == {1}


def test_requests_of_one_user_share_the_encoding_within_a_turn(scorer, log, job):
    log.add(job.snapshot(job.chain(USER), 5))
    scorer.start()
    for number in range(5):
        scorer.ask(USER, f"r{number}", many=number + 1)
    scorer.ask(NEIGHBOUR, "n")
    scorer.turns()
    assert scorer.model.encodes == 2
    assert len(scorer.responses) == 6
    assert all(r.scores[0].scores == scorer.expected(r, 0) for r in scorer.responses)


def test_a_partition_serves_only_when_its_histories_are_caught_up(scorer, log, job):
    chain = job.chain(USER)
    log.add(*(job.update(chain, n) for n in range(1, 11)))
    scorer.settings = ServingSettings(follow_records=3)
    scorer.start()
    scorer.ask(USER, "r")
    for _ in range(3):
        scorer.loop.turn()
        assert not scorer.loop.ready
        assert scorer.responses == []
    scorer.turns()
    assert scorer.loop.ready
    assert scorer.responses[0].stamp.seq_no == 10


def test_heartbeats_follow_everything_that_was_asked_before_them(scorer, log, job):
    scorer.start()
    scorer.beat(HOME, 1)
    scorer.ask(USER, "waits", min_seq_no=1, max_wait_ms=60_000)
    scorer.ask(NEIGHBOUR, "before")
    scorer.beat(HOME, 2)
    scorer.beat(HOME, 3)
    scorer.ask(NEIGHBOUR, "after")
    scorer.turns()
    sent = [(record.key, record.value) for record in scorer.outlet.sent if record.key == HEARTBEAT_KEY]
    assert sent == [(HEARTBEAT_KEY, b"beat 1")]
    assert names(scorer) == ["before", "after"]
    log.add(job.update(job.chain(USER), 1))
    scorer.turns()
    assert names(scorer)[-1] == "waits"
    assert [(b.topic, b.partition, b.key, b.value, b.timestamp_ms) for b in scorer.outlet.sent[-2:]] == [
        (RESPONSES.name, HOME, HEARTBEAT_KEY, b"beat %d" % time, time) for time in (2, 3)
    ]
    assert scorer.intake.committed[HOME] == 6


def test_offsets_are_committed_up_to_the_first_unacknowledged_answer(scorer, log, job):
    scorer.outlet.by_hand = True
    scorer.start()
    scorer.ask(NEIGHBOUR, "a")
    scorer.ask(USER, "waits", min_seq_no=1, max_wait_ms=60_000)
    scorer.ask(NEIGHBOUR, "b")
    scorer.turns()
    assert len(scorer.responses) == 2
    assert scorer.intake.committed[HOME] == 0
    scorer.outlet.acknowledge()
    scorer.turns(1)
    assert scorer.intake.committed[HOME] == 1
    log.add(job.update(job.chain(USER), 1))
    scorer.turns(2)
    assert scorer.intake.committed[HOME] == 1
    scorer.outlet.acknowledge()
    scorer.turns(1)
    assert scorer.intake.committed[HOME] == 3


def test_a_commit_that_fails_is_tried_again(scorer):
    scorer.start().ask(USER, "r")
    scorer.intake.commit_error = OSError("coordinator moved")
    scorer.turns()
    assert scorer.intake.committed[HOME] == 0
    scorer.intake.commit_error = None
    scorer.turns(1)
    assert scorer.intake.committed[HOME] == 1


def test_after_a_crash_the_same_history_and_model_give_the_same_response_id(scorer, log, job):
    log.add(job.snapshot(job.chain(USER), 5))
    scorer.outlet.by_hand = True
    scorer.start().ask(USER, "r")
    scorer.turns()
    scorer.crash()
    scorer.start().turns()
    first, second = scorer.responses
    assert first == second
    scorer.crash()
    log.add(job.update(job.chain(USER), 6))
    scorer.start().turns()
    third = scorer.responses[2]
    assert third.response_id != first.response_id
    assert third.stamp.seq_no == 6


def test_a_response_that_kafka_refuses_ends_the_scorer(scorer):
    scorer.outlet.by_hand = True
    scorer.start().ask(USER, "r")
    scorer.turns()
    scorer.outlet.acknowledge(OSError("disk full"))
    with pytest.raises(TransportError, match=rf"{REQUESTS.name}/{HOME}/0 led to .* disk full"):
        scorer.turns(1)
    assert scorer.intake.committed[HOME] == 0


def test_what_moves_to_another_scorer_is_dropped_and_what_stays_goes_on(scorer, log, job):
    scorer.start()
    scorer.ask(USER, "stays", min_seq_no=1, max_wait_ms=60_000)
    scorer.ask(NEIGHBOUR, "answered")
    scorer.ask(STRANGER, "goes", min_seq_no=1, max_wait_ms=60_000)
    scorer.turns()
    scorer.intake.rebalance([HOME])
    log.add(job.update(job.chain(USER), 1), job.update(job.chain(STRANGER), 1))
    scorer.turns()
    assert names(scorer) == ["answered", "stays"]
    assert scorer.store.partitions == (HOME,)
    assert (scorer.intake.committed[HOME], scorer.intake.committed[AWAY]) == (2, 0)
    scorer.intake.rebalance(SERVED)
    scorer.turns()
    assert names(scorer) == ["answered", "stays", "goes"]
    assert scorer.intake.committed[AWAY] == 1


def test_records_polled_before_a_partition_left_and_came_back_are_not_answered_twice(scorer):
    scorer.start().turns()
    scorer.ask(USER, "r")
    poll = scorer.intake.poll

    def rebalanced_meanwhile(timeout_ms, max_records):
        records = poll(timeout_ms, max_records)
        scorer.intake.rebalance([AWAY])
        scorer.intake.rebalance(SERVED)
        scorer.intake.poll = poll
        return records

    scorer.intake.poll = rebalanced_meanwhile
    scorer.turns()
    assert names(scorer) == ["r"]


def test_between_revocation_and_assignment_nothing_is_answered(scorer):
    scorer.start().turns()
    scorer.ask(USER, "r")
    scorer.loop.on_revoke()
    scorer.turns()
    assert scorer.responses == []
    assert not scorer.loop.ready
    scorer.intake.rebalance(SERVED)
    scorer.turns()
    assert names(scorer) == ["r"]


def test_a_lost_membership_commits_nothing_and_begins_again(scorer, log, job):
    scorer.start()
    scorer.ask(USER, "r", min_seq_no=1, max_wait_ms=60_000)
    scorer.turns()
    scorer.intake.lose()
    log.add(job.update(job.chain(USER), 1))
    scorer.turns()
    assert scorer.responses == []
    scorer.intake.rebalance([HOME])
    scorer.turns()
    assert names(scorer) == ["r"]


def test_a_new_model_answers_from_the_next_batch_on(scorer):
    scorer.start().ask(USER, "old", tasks=["like"])
    scorer.turns()
    scorer.model = type(scorer.model)("toy-2", tasks=("touch",))
    scorer.ask(USER, "new")
    scorer.ask(USER, "gone", tasks=["like"])
    scorer.turns()
    assert [r.stamp.model_version for r in scorer.responses] == ["toy-1", "toy-2", ""]
    gone = scorer.responses[2]
    assert (gone.status, gone.error) == (
        RESPONSE_STATUS_INVALID,
        "unknown_task: tasks like of a model that has touch",
    )
    assert [letter.reason for letter in scorer.letters] == [Reason.UNKNOWN_TASK]


def test_what_names_no_request_becomes_a_dead_letter_alone(scorer):
    scorer.start()
    offset = scorer.intake.add(user_key(USER), b"\xff\xff", 5, HOME)
    scorer.turns()
    assert scorer.responses == []
    (letter,) = scorer.letters
    assert (letter.reason, letter.stage) == (Reason.MALFORMED_VALUE, "scorer")
    assert (letter.source_topic, letter.source_partition, letter.source_offset, letter.source_timestamp_ms) == (
        REQUESTS.name,
        HOME,
        offset,
        5,
    )
    assert (letter.key, letter.value) == (user_key(USER), b"\xff\xff")
    assert scorer.intake.committed[HOME] == 1


def test_a_request_that_cannot_be_scored_is_answered_with_why_and_kept_as_a_dead_letter(scorer):
    scorer.outlet.by_hand = True
    scorer.start().ask(USER, "r", candidates=Candidates())
    scorer.turns()
    (response,), (letter,) = scorer.responses, scorer.letters
    assert (response.status, response.error) == (
        RESPONSE_STATUS_INVALID,
        "no_candidates: candidates.item_id is empty",
    )
    assert len(response.response_id) == 32
    assert letter.reason == Reason.NO_CANDIDATES
    scorer.outlet.unacknowledged.pop()(None)
    scorer.turns(1)
    assert scorer.intake.committed[HOME] == 0
    scorer.outlet.acknowledge()
    scorer.turns(1)
    assert scorer.intake.committed[HOME] == 1


def test_no_more_is_taken_than_may_be_pending(scorer, log, job):
    scorer.settings = ServingSettings(max_pending=2, commit_interval_ms=0)
    scorer.start()
    for number in range(5):
        scorer.ask(USER, f"r{number}", min_seq_no=1, max_wait_ms=60_000)
    scorer.turns()
    assert scorer.intake.positions[HOME] == 2
    log.add(job.update(job.chain(USER), 1))
    scorer.turns(8)
    assert sorted(names(scorer)) == [f"r{number}" for number in range(5)]
    assert scorer.intake.committed[HOME] == 5


def test_stopping_answers_what_is_ready_and_commits_it(scorer):
    scorer.start().turns()
    scorer.settings = ServingSettings(max_batch=2)
    scorer.loop._settings = scorer.settings
    stop = threading.Event()
    poll = scorer.intake.poll

    def then_stop(timeout_ms, max_records):
        stop.set()
        scorer.intake.now = scorer.time
        return poll(timeout_ms, max_records)

    scorer.intake.poll = then_stop
    for number in range(5):
        scorer.ask(USER, f"r{number}")
    scorer.ask(USER, "waits", min_seq_no=9, max_wait_ms=60_000)
    scorer.loop.run(stop)
    assert len(scorer.responses) == 5
    assert scorer.intake.committed[HOME] == 5


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from([USER, NEIGHBOUR, STRANGER]), st.integers(0, 2)),
        st.tuples(st.just("event"), st.sampled_from([USER, NEIGHBOUR, STRANGER]), st.just(0)),
        st.tuples(st.sampled_from(["beat", "bad", "turn", "turn", "ack", "crash", "later"]), st.just(USER), st.just(0)),
        st.tuples(st.just("rebalance"), st.just(USER), st.integers(0, 3)),
    ),
    max_size=40,
)


@given(steps)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_every_request_is_answered_and_no_heartbeat_overtakes(
    make_scorer, make_job, make_log, tmp_path_factory, program
):
    job, log = make_job(), make_log()
    scorer = make_scorer(tmp_path_factory.mktemp("loop"), log)
    scorer.outlet.by_hand = True
    scorer.start()
    chains = {user: job.chain(user) for user in (USER, NEIGHBOUR, STRANGER)}
    heads = dict.fromkeys(chains, 0)
    asked: dict[str, tuple[int, int]] = {}
    beats: dict[bytes, tuple[int, int]] = {}
    for kind, user, amount in program:
        partition = partition_of(user_key(user), PARTITIONS)
        if kind == "ask":
            name = f"r{len(asked)}"
            offset = scorer.ask(user, name, min_seq_no=heads[user] + amount, max_wait_ms=1_000)
            asked[name] = partition, offset
        elif kind == "event":
            heads[user] += 1
            log.add(job.update(chains[user], heads[user]))
        elif kind == "beat":
            offset = scorer.beat(partition, 1_000 + len(beats))
            beats[scorer.intake.records[partition][offset].value] = partition, offset
        elif kind == "bad":
            scorer.intake.add(user_key(user), b"\xff", 5, partition)
        elif kind == "turn":
            scorer.turns(1)
        elif kind == "ack":
            scorer.outlet.acknowledge()
        elif kind == "later":
            scorer.time += 0.7
        elif kind == "crash":
            scorer.crash()
            scorer.start()
        else:
            scorer.outlet.acknowledge()
            scorer.intake.rebalance([SERVED, (HOME,), (AWAY,), ()][amount])
    scorer.outlet.acknowledge()
    scorer.outlet.by_hand = False
    scorer.intake.rebalance(SERVED)
    scorer.turns()
    scorer.time += 100
    scorer.turns()
    sent: dict[str | bytes, int] = {}
    for at, record in enumerate(scorer.outlet.sent):
        if record.topic == RESPONSES.name:
            name = record.value if record.key == HEARTBEAT_KEY else None
            sent.setdefault(name or record_name(record), at)
    assert sent.keys() == asked.keys() | beats.keys()
    for beat, (partition, offset) in beats.items():
        for name, (of_partition, before) in asked.items():
            assert of_partition != partition or before > offset or sent[name] < sent[beat]
    for response in scorer.responses:
        assert response.scores[0].scores == scorer.expected(response, 0)
    ends = {partition: len(records) for partition, records in scorer.intake.records.items()}
    assert {partition: scorer.intake.committed[partition] for partition in ends} == ends
    scorer.store.close()


def record_name(record) -> str:
    from schemas.v1.ranking_pb2 import RankingResponse

    return RankingResponse.FromString(record.value).request_id
