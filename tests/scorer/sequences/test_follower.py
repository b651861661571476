"""The follower on an in-memory log: order of a restore, positions, rebuilds, refused records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import TopicPartition

from schemas.partitioner import partition_of, user_key
from schemas.topics import HEARTBEAT_KEY, PARTITIONS, SNAPSHOTS, UPDATES
from scorer.sequences.follower import Follower
from scorer.sequences.records import StoreRecord
from scorer.sequences.store import SequenceStore

HOME = 0
USERS = [user for user in range(1, 400) if partition_of(user_key(user), PARTITIONS) == HOME]


def refuse_none(refused):
    raise AssertionError(f"refused: {[str(entry.rejected) for entry in refused]}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SequenceStore]:
    with SequenceStore(tmp_path / "store") as store:
        yield store


def follow(log, store: SequenceStore, *partitions: int, **options) -> Follower:
    follower = Follower(log.source(), store, options.pop("on_refused", refuse_none), **options)
    follower.follow(partitions or (HOME,))
    return follower


def drain(follower: Follower, max_records: int = 1_000) -> None:
    """Polls until nothing moves; the end of each topic may take an idle poll of its own."""
    idle = 0
    while idle < 3:
        outcome = follower.poll(0, max_records)
        idle = 0 if outcome.records or outcome.changed or outcome.rebuilt else idle + 1


def test_a_restore_takes_all_snapshots_then_the_updates_then_both(log, store, job):
    chains = [job.chain(user) for user in USERS[:3]]
    for n in range(1, 31):
        log.add(*(job.update(chain, n) for chain in chains))
    log.add(*(job.snapshot(chain, 20) for chain in chains))
    follower = follow(log, store)
    assert not follower.caught_up(HOME)
    drain(follower, max_records=7)
    assert follower.caught_up(HOME)
    topics = [topic for topic, _ in follower._source.handed_out]
    assert topics == [SNAPSHOTS.name] * 3 + [UPDATES.name] * 90
    assert follower.progress() == (93, 93)
    log.add(job.update(chains[0], 31), job.snapshot(chains[0], 31))
    drain(follower)
    for chain, head in zip(chains, (31, 30, 30), strict=True):
        assert store.history(chain.user_id, 99).rows.tobytes() == chain.row_bytes(1, head)


def test_an_empty_partition_is_caught_up_at_once(log, store):
    follower = Follower(log.source(), store, refuse_none)
    assert follower.follow([HOME, 1]).caught_up == {HOME, 1}
    assert follower.poll(0).records == 0


def test_ends_that_hold_no_records_are_reached(log, store, job):
    chain = job.chain(USERS[0])
    log.add(job.snapshot(chain, 3), job.update(chain, 4))
    for records in log.records.values():
        records.append(None)
    follower = follow(log, store)
    drain(follower)
    assert follower.caught_up(HOME)


def test_what_arrives_after_the_opening_does_not_move_the_target(log, store, job):
    chain = job.chain(USERS[0])
    log.add(job.update(chain, 1))
    follower = follow(log, store)
    log.add(*(job.update(chain, n) for n in range(2, 100)))
    assert follower.poll(0, max_records=1).caught_up == {HOME}


def test_following_goes_on_from_the_stored_offsets(log, store, job):
    chain = job.chain(USERS[0])
    log.add(*(job.update(chain, n) for n in range(1, 6)))
    drain(follow(log, store))
    store.close()
    log.add(job.update(chain, 6))
    follower = follow(log, store)
    drain(follower)
    assert follower._source.handed_out == [(UPDATES.name, 5)]
    assert store.history(USERS[0], 99).seq_no == 6


def test_a_released_partition_is_closed_and_the_others_go_on(log, store, job):
    users = [next(u for u in range(1, 99) if partition_of(user_key(u), PARTITIONS) == p) for p in (0, 1)]
    chains = [job.chain(user) for user in users]
    log.add(*(job.update(chain, 1) for chain in chains))
    follower = follow(log, store, 0, 1)
    drain(follower)
    follower.follow([1])
    assert store.partitions == (1,)
    log.add(*(job.update(chain, 2) for chain in chains))
    drain(follower)
    assert store.history(users[1], 9).seq_no == 2
    follower.follow([0, 1])
    drain(follower)
    assert store.history(users[0], 9).seq_no == 2


@pytest.mark.parametrize("what", ["aged out", "recreated", "truncated"])
def test_a_partition_whose_log_is_another_is_rebuilt_loudly(log, store, job, caplog, what):
    user = USERS[0]
    old, new = job.chain(user), job.chain(user, generation=2)
    log.add(*(job.update(old, n) for n in range(1, 10)))
    drain(follow(log, store))
    store.close()
    updates = TopicPartition(UPDATES.name, HOME)
    if what == "aged out":
        log.add(*(job.update(new, n) for n in range(1, 21)), job.snapshot(new, 15))
        log.oldest[updates] = 18
    elif what == "recreated":
        log.records.clear()
        log.ids[UPDATES.name] = "u2"
        log.add(*(job.update(new, n) for n in range(1, 21)))
    else:
        log.records[updates].clear()
        log.add(*(job.update(new, n) for n in range(1, 6)))
    follower = Follower(log.source(), store, refuse_none)
    with caplog.at_level(logging.WARNING):
        assert follower.follow([HOME]).rebuilt == {HOME}
    assert "rebuilt from Kafka" in caplog.text
    drain(follower)
    served = store.history(user, 99)
    assert (served.epoch, served.seq_no) == (new.epoch, 5 if what == "truncated" else 20)
    assert not served.stale


def test_offsets_that_vanish_while_following_rebuild_that_partition_alone(log, store, job, caplog):
    users = [next(u for u in range(1, 99) if partition_of(user_key(u), PARTITIONS) == p) for p in (0, 1)]
    chains = [job.chain(user) for user in users]
    log.add(*(job.update(chain, n) for n in range(1, 6) for chain in chains))
    follower = follow(log, store, 0, 1)
    drain(follower)
    log.add(*(job.update(chain, 6) for chain in chains), job.snapshot(chains[0], 6))
    log.oldest[TopicPartition(UPDATES.name, 0)] = 6
    with caplog.at_level(logging.WARNING):
        outcome = follower.poll(0)
    assert outcome.rebuilt == {0}
    assert not follower.caught_up(0)
    assert "partition 0 is rebuilt" in caplog.text
    assert "partition 1" not in caplog.text
    drain(follower)
    assert follower.caught_up(0)
    for user, chain in zip(users, chains, strict=True):
        assert store.history(user, 99).rows.tobytes() == chain.row_bytes(1, 6)


def test_refused_records_are_reported_once_and_the_rest_goes_on(log, store, job):
    chain = job.chain(USERS[0])
    bad = job.record(UPDATES.name, USERS[0], b"\xff\xff")
    log.add(job.update(chain, 1), bad, job.update(chain, 2))
    log.add(StoreRecord(UPDATES.name, HOME, 0, 0, HEARTBEAT_KEY, b""))
    seen = []
    follower = follow(log, store, on_refused=seen.extend)
    drain(follower)
    assert [(entry.record.topic, entry.record.offset) for entry in seen] == [(UPDATES.name, 1)]
    assert store.history(USERS[0], 9).seq_no == 2


def test_dead_letters_that_fail_leave_the_records_to_be_read_again(log, store, job):
    log.add(job.record(UPDATES.name, USERS[0], b"\xff\xff"))

    def unreachable(_refused):
        raise OSError("no broker")

    with pytest.raises(OSError, match="no broker"):
        drain(follow(log, store, on_refused=unreachable))
    store.close()
    seen = []
    drain(follow(log, store, on_refused=seen.extend))
    assert len(seen) == 1


def test_one_key_alone_can_be_followed(log, store, job):
    chains = [job.chain(user) for user in USERS[:2]]
    log.add(*(job.update(chain, 1) for chain in chains))
    follower = follow(log, store, only_key=user_key(USERS[1]))
    drain(follower)
    assert follower.caught_up(HOME)
    assert [store.history(user, 9).seq_no for user in USERS[:2]] == [0, 1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["once", "twice", "snapshot", "poll", "restart", "compact"]), st.integers(0, 2)),
        max_size=40,
    ),
    st.integers(1, 9),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_with_restarts_ends_at_the_truth(tmp_path_factory, make_job, make_log, program, max_records):
    job, log = make_job(), make_log()
    chains = [job.chain(user) for user in USERS[:3]]
    heads = [0, 0, 0]
    with SequenceStore(tmp_path_factory.mktemp("store")) as store:
        follower = follow(log, store)
        for kind, which in program:
            if kind == "poll":
                follower.poll(0, max_records)
            elif kind == "restart":
                store.close()
                follower = follow(log, store)
            elif kind == "compact":
                seen: set[bytes | None] = set()
                records = log.records[TopicPartition(SNAPSHOTS.name, HOME)]
                for at in range(len(records) - 2, -1, -1):
                    later = records[at + 1]
                    seen |= {later.key} if later else set()
                    if (record := records[at]) is not None and record.key in seen:
                        records[at] = None
            elif kind == "snapshot" and heads[which]:
                log.add(job.snapshot(chains[which], heads[which]))
            elif kind != "snapshot":
                heads[which] += 1
                log.add(job.update(chains[which], heads[which]))
                if kind == "twice":
                    log.add(job.update(chains[which], heads[which]))
        drain(follower, max_records)
        assert follower.caught_up(HOME)
        for chain, head in zip(chains, heads, strict=True):
            served = store.history(chain.user_id, 1_000)
            assert (served.seq_no, served.stale) == (head, False)
            assert served.rows.tobytes() == chain.row_bytes(1, head)
