"""The store equals lists under random programs: duplicates, losses, forks, new epochs, erasures, reopens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.digest import origin_digest
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason
from schemas.topics import PARTITIONS, SNAPSHOTS, UPDATES
from schemas.v1.ranking_pb2 import Stamp
from scorer.sequences.layout import CHUNK_EVENTS
from scorer.sequences.partition import PartitionStore, Position, StoreError, StoreSettings
from scorer.sequences.reads import NotKeptError, Resolution
from scorer.sequences.records import StoreRecord
from scorer.sequences.store import SequenceStore

CAPACITY, AS_OF = 300, 100
SETTINGS = StoreSettings(capacity=CAPACITY, as_of_events=AS_OF)
IDS = {UPDATES.name: "u", SNAPSHOTS.name: "s"}
#: Both of partition 0, so that one database holds them.
USERS = tuple(user for user in range(1, 200) if partition_of(user_key(user), PARTITIONS) == 0)[:2]


def refuse_none(refused):
    raise AssertionError(f"refused: {[str(entry.rejected) for entry in refused]}")


def position(offset: int = 0) -> Position:
    return Position(offsets={UPDATES.name: offset, SNAPSHOTS.name: offset}, topic_ids=IDS)


@contextmanager
def opened(path: Path, partition: int = 0) -> Iterator[PartitionStore]:
    store = PartitionStore.open(path, partition, SETTINGS)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionStore]:
    with opened(tmp_path / "p") as store:
        yield store


def apply(store: PartitionStore, *records: StoreRecord) -> list[str]:
    """Each record in a batch of its own; the verdicts."""
    return [next(iter(store.apply([record], position(), refuse_none).verdicts)) for record in records]


@dataclass
class Oracle:
    """One user's history as plain lists: entry n is event n's row and digest."""

    user: int
    epoch: int = 0
    first: int = 1
    base: int = 0
    events: list[tuple[bytes, int]] = field(default_factory=list)
    known: tuple[int, int] = (0, 0)
    fork: int = 0
    erased_below: int = 0

    def __post_init__(self) -> None:
        self.base = origin_digest(self.user, 0)

    @property
    def head(self) -> int:
        return self.first + len(self.events) - 1

    def digest(self, n: int) -> int:
        return self.base if n < self.first else self.events[n - self.first][1]

    def trim(self) -> None:
        while self.head - (self.first // CHUNK_EVENTS + 1) * CHUNK_EVENTS >= CAPACITY + AS_OF:
            drop = CHUNK_EVENTS - (self.first - 1) % CHUNK_EVENTS
            self.base = self.events[drop - 1][1]
            del self.events[:drop]
            self.first += drop
        self.known = max(self.known, (self.epoch, self.head))

    def take(self, chain, kind: str, first: int, n: int) -> None:
        run = [(chain.row_bytes(i, i), chain.digests[i]) for i in range(first, n + 1)]
        if kind == "erased":
            self.erased_below = max(self.erased_below, chain.epoch)
        if chain.epoch < self.epoch:
            return
        if kind == "update":
            self.known = max(self.known, (chain.epoch, n)) if n > self.head or chain.epoch > self.epoch else self.known
            if chain.epoch > self.epoch and n == 1:
                self.epoch, self.first, self.base, self.fork, self.events = chain.epoch, 1, chain.digests[0], 0, run
            elif chain.epoch > self.epoch or n > self.head + 1 or n < self.first:
                return
            elif n <= self.head or self.digest(self.head) != chain.digests[n - 1]:
                self.fork = max(self.fork, n) if n > self.head or self.digest(n) != chain.digests[n] else self.fork
            else:
                self.events += run
        elif chain.epoch > self.epoch:
            self.epoch, self.first, self.base, self.fork, self.events = (
                chain.epoch,
                first,
                chain.digests[first - 1],
                0,
                run,
            )
        elif n <= self.head:
            if n >= self.first - 1 and self.digest(n) != chain.digests[n]:
                self.fork = max(self.fork, n)
            elif n >= self.first - 1 and n >= self.fork:
                self.fork = 0
            return
        elif first <= self.head + 1 and self.digest(self.head) == chain.digests[self.head]:
            self.events += run[self.head + 1 - first :]
            self.fork = 0
        else:
            self.first, self.base, self.fork, self.events = first, chain.digests[first - 1], 0, run
        self.trim()


operations = st.lists(
    st.tuples(
        st.sampled_from(["next", "next", "run", "again", "skip", "fork", "snapshot", "ahead", "epoch", "erased"]),
        st.sampled_from(USERS),
        st.integers(1, 250),
        st.booleans(),
    ),
    max_size=25,
)


@given(operations, st.integers(1, 4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_store_equals_lists_under_random_programs(make_job, program, batch_size):
    job = make_job()
    oracles = {user: Oracle(user) for user in USERS}
    chains = {user: job.chain(user) for user in USERS}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "p"
        store = PartitionStore.open(path, 0, SETTINGS)
        batch: list[StoreRecord] = []
        written = 0
        for kind, user, amount, reopen in program:
            chain, oracle = chains[user], oracles[user]
            head = oracle.head if oracle.epoch == chain.epoch else 0
            takes: list[tuple[str, object, int, int]] = []
            if kind in ("next", "run"):
                takes = [("update", chain, n, n) for n in range(head + 1, head + 2 + (amount if kind == "run" else 0))]
            elif kind == "again" and head:
                takes = [("update", chain, max(1, head - amount), max(1, head - amount))]
            elif kind == "skip":
                takes = [("update", chain, head + 1 + amount, head + 1 + amount)]
            elif kind == "fork" and head:
                other = job.chain(user, chain.epoch >> 32, chain.epoch & 0xFFFFFFFF, salt=amount, fork_at=head)
                takes = [("update", other, n, n) for n in (head, head + 1)]
                if reopen:
                    chains[user] = other
            elif kind == "snapshot" and head:
                takes = [("snapshot", chain, max(1, head - amount), max(1, head - amount // 2))]
            elif kind == "ahead":
                takes = [("snapshot", chain, max(1, head + 1 - amount if reopen else head + amount), head + amount)]
            elif kind in ("epoch", "erased"):
                old = chain.epoch
                chains[user] = chain = job.chain(user, old >> 32, (old & 0xFFFFFFFF) + 1)
                takes = [("erased", chain, 1, 0)] if kind == "erased" else [("snapshot", chain, 1, amount)]
            for what, source, first, last in takes:
                source.grow(max(last, oracle.head, head))
                if what == "update":
                    batch.append(job.update(source, last))
                else:
                    batch.append(job.snapshot(source, last, first, what == "erased"))
                oracle.take(source, what, first, last)
            while len(batch) >= batch_size:
                written += 1
                store.apply(batch[:batch_size], position(written), refuse_none)
                del batch[:batch_size]
            if reopen:
                store.close()
                store = PartitionStore.open(path, 0, SETTINGS)
        store.apply(batch, position(written + 1), refuse_none)
        store.close()
        store = PartitionStore.open(path, 0, SETTINGS)
        assert store.position() == position(written + 1)
        for user, oracle in oracles.items():
            for limit in (10, CAPACITY + 50):
                served = store.history(user, limit)
                length = min(limit, CAPACITY, len(oracle.events))
                assert served.rows.tobytes() == b"".join(row for row, _ in oracle.events[len(oracle.events) - length :])
                assert (served.epoch, served.seq_no) == (oracle.epoch, oracle.head)
                assert served.first_seq_no == served.seq_no - length + 1
                assert served.digest == oracle.digest(oracle.head)
                assert served.stale == (bool(oracle.fork) or (oracle.epoch, oracle.head) < oracle.known)
                assert store.resolve(user, served.stamp("m")).rows.tobytes() == served.rows.tobytes()
            for n in range(oracle.first - 1, oracle.head + 1, 37):
                past = store.as_of(user, n)
                assert (past.seq_no, past.digest) == (n, oracle.digest(n))
                assert store.resolve(user, past.stamp("m")).resolution == Resolution.OK
                assert store.tail(user, n).rows.tobytes() == b"".join(
                    row for row, _ in oracle.events[n - oracle.first + 1 :]
                )
            if oracle.epoch > 1 << 32:
                gone = Stamp(epoch=oracle.epoch - 1, first_seq_no=1, seq_no=1, length=1, digest_version=1)
                erased = gone.epoch < oracle.erased_below
                wanted = Resolution.ERASED if erased else Resolution.EPOCH_GONE
                assert store.resolve(user, gone).resolution == wanted
        store.close()


def test_a_delta_twice_is_harmless_and_a_gap_waits_for_what_is_missing(store, job):
    chain = job.chain(USERS[0])
    first, second, third = (job.update(chain, n) for n in (1, 2, 3))
    assert apply(store, first, first, third) == ["opened", "known", "gap"]
    assert store.history(USERS[0], 10).stale
    assert store.head_seq_no(USERS[0]) == 1
    assert apply(store, second, third, first) == ["applied", "applied", "known"]
    served = store.history(USERS[0], 10)
    assert not served.stale
    assert served.rows.tobytes() == chain.row_bytes(1, 3)


def test_the_first_delta_seen_of_a_user_may_not_be_his_first(store, job):
    chain = job.chain(USERS[0])
    assert apply(store, job.update(chain, 5)) == ["gap"]
    served = store.history(USERS[0], 10)
    assert (len(served.rows), served.epoch, served.stale) == (0, 0, True)
    assert apply(store, job.snapshot(chain, 4, 2), job.update(chain, 5)) == ["opened", "applied"]
    assert not store.history(USERS[0], 10).stale


def test_a_fork_is_not_applied_and_the_next_snapshot_that_reaches_further_repairs(store, job):
    chain = job.chain(USERS[0])
    apply(store, *(job.update(chain, n) for n in range(1, 5)))
    other = job.chain(USERS[0], salt=9, fork_at=3)
    assert apply(store, job.update(other, 4), job.update(other, 5), job.snapshot(other, 4)) == ["fork"] * 3
    served = store.history(USERS[0], 10)
    assert served.stale
    assert served.rows.tobytes() == chain.row_bytes(1, 4)
    assert apply(store, job.snapshot(other, 6)) == ["repaired"]
    served = store.history(USERS[0], 10)
    assert not served.stale
    assert served.rows.tobytes() == other.row_bytes(1, 6)


def test_old_deltas_of_a_chain_that_replaced_another_are_known(store, job):
    chain, other = job.chain(USERS[0]), job.chain(USERS[0], salt=9, fork_at=2)
    assert apply(store, job.snapshot(chain, 6), job.update(chain, 3)) == ["opened", "known"]
    assert apply(store, job.snapshot(other, 8), job.update(other, 3)) == ["repaired", "known"]


def test_a_snapshot_that_confirms_the_chain_beyond_a_fork_clears_the_doubt(store, job):
    chain = job.chain(USERS[0])
    apply(store, *(job.update(chain, n) for n in range(1, 5)))
    apply(store, job.update(job.chain(USERS[0], salt=9), 2))
    assert store.history(USERS[0], 10).stale
    assert apply(store, job.snapshot(chain, 1)) == ["known"]
    assert store.history(USERS[0], 10).stale
    assert apply(store, job.snapshot(chain, 4)) == ["known"]
    assert not store.history(USERS[0], 10).stale


def test_an_erasure_leaves_nothing_of_older_epochs_and_stamps_resolve_as_erased(store, job):
    chain = job.chain(USERS[0])
    apply(store, job.snapshot(chain, 600))
    stamp = store.history(USERS[0], 10).stamp("m")
    after = job.chain(USERS[0], resets=1)
    assert apply(store, job.snapshot(after, 0, erased=True), job.update(chain, 601)) == ["opened", "superseded"]
    assert store.resolve(USERS[0], stamp).resolution == Resolution.ERASED
    assert len(store.history(USERS[0], 10).rows) == 0
    assert list(store._chunks.keys()) == []


def test_an_erasure_that_arrives_behind_the_deltas_that_follow_it_still_says_so(store, job):
    chain, after = job.chain(USERS[0]), job.chain(USERS[0], resets=1)
    apply(store, job.snapshot(chain, 3))
    stamp = store.history(USERS[0], 10).stamp("m")
    assert apply(store, job.update(after, 1)) == ["opened"]
    assert store.resolve(USERS[0], stamp).resolution == Resolution.EPOCH_GONE
    assert apply(store, job.snapshot(after, 0, erased=True)) == ["known"]
    assert store.resolve(USERS[0], stamp).resolution == Resolution.ERASED
    assert store.history(USERS[0], 10).rows.tobytes() == after.row_bytes(1, 1)


def test_an_erasure_is_known_from_a_later_snapshot_alone(store, job):
    # The erasure's own snapshot was compacted away: only the newest of the user is left.
    chain, after = job.chain(USERS[0]), job.chain(USERS[0], resets=1)
    apply(store, job.snapshot(chain, 3))
    stamp = store.history(USERS[0], 10).stamp("m")
    later = job.snapshot_message(after, 5)
    later.erased_below = after.epoch
    assert apply(store, job.record(SNAPSHOTS.name, USERS[0], later.SerializeToString())) == ["opened"]
    assert store.resolve(USERS[0], stamp).resolution == Resolution.ERASED


def test_every_resolution_of_a_stamp(store, job):
    user = USERS[0]
    chain = job.chain(user)
    apply(store, job.snapshot(chain, 2))
    early = store.history(user, 10).stamp("m")
    apply(store, job.snapshot(chain, 900))
    assert store.resolve(user, early).resolution == Resolution.EVICTED
    stamp = store.history(user, 10).stamp("m")
    resolved = store.resolve(user, stamp)
    assert (resolved.resolution, resolved.rows.tobytes()) == (Resolution.OK, chain.row_bytes(891, 900))

    def changed(**fields) -> str:
        other = Stamp()
        other.CopyFrom(stamp)
        for name, value in fields.items():
            setattr(other, name, value)
        return store.resolve(user, other).resolution

    assert changed(digest=stamp.digest ^ 1) == Resolution.MISMATCH
    assert changed(length=9) == Resolution.MISMATCH
    assert changed(digest_version=2) == Resolution.MISMATCH
    assert changed(seq_no=901, length=11) == Resolution.AHEAD
    assert changed(epoch=stamp.epoch + 1) == Resolution.AHEAD
    assert changed(epoch=stamp.epoch - 1) == Resolution.EPOCH_GONE
    empty = Stamp(epoch=0, first_seq_no=1, seq_no=0, length=0, digest_version=1, digest=origin_digest(user, 0))
    assert store.resolve(user, empty).resolution == Resolution.OK
    empty.digest += 1
    assert store.resolve(user, empty).resolution == Resolution.MISMATCH


def test_as_of_says_what_is_kept(store, job):
    apply(store, job.snapshot(job.chain(USERS[0]), 900))
    kept_from = store.as_of(USERS[0], 899).first_seq_no
    assert kept_from == 899 - CAPACITY + 1
    with pytest.raises(NotKeptError, match="not 901"):
        store.as_of(USERS[0], 901)
    with pytest.raises(NotKeptError, match=f"user {USERS[0]}: events 257..900"):
        store.as_of(USERS[0], 100)


def corrupt(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("topic", "fields", "reason"),
    [
        (UPDATES.name, {"digest": 1}, Reason.DIGEST_MISMATCH),
        (UPDATES.name, {"schema_version": 99}, Reason.UNKNOWN_SCHEMA_VERSION),
        (UPDATES.name, {"digest_version": 2}, Reason.UNKNOWN_SCHEMA_VERSION),
        (UPDATES.name, {"user_id": 12345}, Reason.KEY_MISMATCH),
        (UPDATES.name, {"epoch": 0}, Reason.MALFORMED_VALUE),
        (UPDATES.name, {"seq_no": 0}, Reason.MALFORMED_VALUE),
        (SNAPSHOTS.name, {"digest": 1}, Reason.DIGEST_MISMATCH),
        (SNAPSHOTS.name, {"base_digest": 1}, Reason.DIGEST_MISMATCH),
        (SNAPSHOTS.name, {"first_seq_no": 2}, Reason.MALFORMED_VALUE),
        (SNAPSHOTS.name, {"first_seq_no": 9}, Reason.MALFORMED_VALUE),
        (SNAPSHOTS.name, {"packed": b"\x01\x00garbage"}, Reason.MALFORMED_VALUE),
    ],
)
def test_a_record_that_contradicts_itself_is_refused_and_changes_nothing(store, job, topic, fields, reason):
    user = USERS[0]
    old, new = job.chain(user), job.chain(user, resets=1)
    apply(store, job.snapshot(old, 3))
    before = store.history(user, 10)
    message = job.update_message(new, 1) if topic == UPDATES.name else job.snapshot_message(new, 5)
    record = job.record(topic, user, corrupt(message, **fields))
    seen = []
    applied = store.apply([record, job.update(old, 4)], position(7), seen.extend)
    assert [entry.rejected.reason for entry in seen] == [reason]
    assert seen[0].record is record
    assert applied.verdicts == {"applied": 1}
    after = store.history(user, 10)
    assert (after.epoch, after.seq_no, after.stale) == (before.epoch, 4, False)


def test_foreign_and_broken_keys_are_refused(store, job):
    chain = job.chain(USERS[0])
    value = job.update_message(chain, 1).SerializeToString()
    elsewhere = StoreRecord(UPDATES.name, 5, 0, 0, user_key(USERS[0]), value)
    keyless = StoreRecord(UPDATES.name, 0, 0, 0, None, value)
    tombstone = StoreRecord(SNAPSHOTS.name, 0, 0, 0, user_key(USERS[0]), None)
    seen = []
    store.apply([elsewhere, keyless, tombstone], position(), seen.extend)
    reasons = [entry.rejected.reason for entry in seen]
    assert reasons == [Reason.WRONG_PARTITION, Reason.MALFORMED_KEY, Reason.MALFORMED_VALUE]


def test_a_batch_whose_dead_letters_cannot_be_written_is_not_written(store, job):
    apply(store, job.update(job.chain(USERS[0]), 1))
    bad = StoreRecord(UPDATES.name, 0, 0, 0, user_key(USERS[0]), b"\xff")

    def unreachable(_refused):
        raise OSError("no broker")

    with pytest.raises(OSError, match="no broker"):
        store.apply([job.update(job.chain(USERS[0]), 2), bad], position(9), unreachable)
    assert store.head_seq_no(USERS[0]) == 1
    assert store.position() == position()


def test_a_partition_has_one_writer_and_any_reader_beside_it(tmp_path, job):
    settings_ = StoreSettings()
    user = USERS[0]
    with SequenceStore(tmp_path, settings_) as store:
        writer = store.open_partition(0)
        writer.apply([job.update(job.chain(user), 1)], position(1), refuse_none)
        with pytest.raises(StoreError, match="--store of its own"):
            PartitionStore.open(store.path(0), 0, settings_)
        beside = PartitionStore.open_beside(store.path(0), 0, settings_, tmp_path / "scratch")
        assert beside.history(user, 10).rows.tobytes() == writer.history(user, 10).rows.tobytes()
        assert beside.head_seq_no(user) == 1
        beside.close()
        with pytest.raises(StoreError, match="open here are \\(0,\\)"):
            store.history(next(u for u in range(1, 99) if partition_of(user_key(u), PARTITIONS) == 3), 10)
        store.rebuild_partition(0)
        assert store.history(user, 10).epoch == 0
        assert store.open_partition(0).position() is None
    with pytest.raises(StoreError, match="no store there"):
        PartitionStore.open_beside(tmp_path / "nowhere", 0, settings_, tmp_path / "scratch2")


def test_killed_without_a_flush_it_reopens_at_its_last_whole_batch(tmp_path):
    code = textwrap.dedent(
        f"""
        import os, sys
        sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
        from conftest import JobDouble
        from pathlib import Path
        from scorer.sequences.partition import PartitionStore, Position, StoreSettings
        job = JobDouble()
        chain = job.chain({USERS[0]})
        store = PartitionStore.open(Path({str(tmp_path / "p")!r}), 0, StoreSettings())
        for n in range(1, 701, 7):
            records = [job.update(chain, k) for k in range(n, n + 7)]
            store.apply(records, Position({{"{UPDATES.name}": n + 7}}, {{}}), print)
            print(n + 6, flush=True)
        sys.stdin.read()
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    written = 0
    while written < 350:
        line = process.stdout.readline()
        assert line, "the writer died on its own"
        written = int(line)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with opened(tmp_path / "p") as store:
        found = store.position()
        assert found is not None
        head = store.head_seq_no(USERS[0])
        assert head >= written
        assert found.offsets[UPDATES.name] == head + 1
        assert store.resolve(USERS[0], store.history(USERS[0], 10_000).stamp("m")).resolution == Resolution.OK
