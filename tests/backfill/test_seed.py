"""Seeding without a cluster: what is read, what is packed, what a second run does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.seed.errors import SeedError
from infra.seed.pack import seed_id, seed_records
from infra.seed.parquet import SeedSource
from infra.seed.publish import Span, spans
from infra.seed.work import Packed, Plan, WorkDirectory
from schemas.history import HAS_DURATION, HAS_GROUP, HAS_WATCH, HISTORY_DTYPE
from schemas.limits import Limits
from schemas.packing import unpack_history
from schemas.partitioner import partition_of, user_key
from schemas.v1.behaviour_pb2 import BehaviourEvent
from streaming.sequence.accept import accept_event

NOW_MS = 1_750_000_000_000


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three users, one of whom has no optional field in one event; arrival is not the file's order."""
    return write(
        tmp_path / "events.parquet",
        user_id=pa.array([5, 9, 5, 1, 5], pa.int32()),
        item_id=[50, 90, 51, 10, 52],
        event_time_ms=[NOW_MS - 5, NOW_MS - 4, NOW_MS - 9, NOW_MS - 3, NOW_MS - 1],
        arrival_time_ms=[3, 1, 2, 1, 3],
        action=pa.array([1, 2, 3, 4, 5], pa.int8()),
        watch_ms=[None, 7, 0, None, 8],
        group_id=[1, None, 2, 3, None],
        unknown=["a", "b", "c", "d", "e"],
    )


def plan(source: Path, **changes: int) -> Plan:
    fields = {"shards": 2, "id_offset": 0, "max_events": 100, "window_events": 4, "now_ms": NOW_MS}
    return Plan.of(source, **(fields | changes))


def records_of(directory: WorkDirectory) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for shard in range(directory.plan.shards):
        for user_id, record in directory.records(shard):
            found.setdefault(user_id, []).append(record)
    return found


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_users_come_once_each_with_their_events_in_order_of_arrival(source: Path, shards: int) -> None:
    seed = SeedSource(source)
    assert seed.check() == 5
    users = [user for shard in range(shards) for user in seed.shard(shard, shards)]
    by_id = {user.user_id: user for user in users}
    assert sorted(by_id) == [1, 5, 9]
    assert len(users) == 3
    rows = by_id[5].rows
    # Equal arrivals stay in the file's order.
    assert rows["item_id"].tolist() == [51, 50, 52]
    assert rows["fields"].tolist() == [HAS_WATCH | HAS_GROUP, HAS_GROUP, HAS_WATCH]
    assert rows["watch_ms"].tolist() == [0, 0, 8]
    assert rows["action"].tolist() == [3, 1, 5]
    assert by_id[5].event_ids == b""


def test_ids_of_events_go_with_them(tmp_path: Path) -> None:
    ids = [bytes([number]) * 16 for number in (1, 2, 3)]
    path = write(tmp_path / "e.parquet", user_id=[2, 1, 2], item_id=[1, 2, 3], event_time_ms=[NOW_MS] * 3, event_id=ids)
    users = {user.user_id: user.event_ids for user in SeedSource(path).shard(0, 1)}
    assert users == {1: ids[1], 2: ids[0] + ids[2]}


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"user_id": [1], "item_id": [1]}, "no column event_time_ms"),
        ({"user_id": [1], "item_id": ["x"], "event_time_ms": [1]}, "column item_id is string"),
        ({"user_id": [1], "item_id": [1], "event_time_ms": [1.5]}, "column event_time_ms is double"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(tmp_path: Path, columns: dict, match: str) -> None:
    with pytest.raises(SeedError, match=match):
        SeedSource(write(tmp_path / "e.parquet", **columns)).check()


def test_a_source_may_count_from_0(tmp_path: Path) -> None:
    columns = {"user_id": pa.array([0], pa.int8()), "item_id": pa.array([127], pa.int8()), "group_id": [0]}
    path = write(tmp_path / "e.parquet", **columns, event_time_ms=[NOW_MS], watch_ms=[0])
    (user,) = SeedSource(path, id_offset=1).shard(0, 1)
    assert user.user_id == 1
    assert user.rows[["item_id", "group_id", "watch_ms"]].tolist() == [(128, 1, 0)]


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    path.write_text("user_id,item_id")
    with pytest.raises(SeedError, match="not readable as Parquet"):
        SeedSource(path).check()


def test_nulls_and_wrong_ids_are_refused(tmp_path: Path) -> None:
    base = {"user_id": [1, 2], "item_id": [1, 2], "event_time_ms": [NOW_MS, NOW_MS]}
    nulls = write(tmp_path / "n.parquet", **(base | {"item_id": [1, None]}))
    with pytest.raises(SeedError, match="column item_id has nulls"):
        list(SeedSource(nulls).shard(0, 1))
    short = write(tmp_path / "s.parquet", **base, event_id=[bytes(16), bytes(15)])
    with pytest.raises(SeedError, match="an event_id has 15 bytes"):
        list(SeedSource(short).shard(0, 1))


@given(length=st.integers(1, 400), budget=st.integers(700, 3_000), ids=st.integers(0, 10), seed=st.integers(0, 99))
def test_parts_hold_all_events_in_order_and_every_record_is_acceptable(
    length: int, budget: int, ids: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.zeros(length, dtype=HISTORY_DTYPE)
    rows["item_id"], rows["event_time_ms"] = rng.integers(1, 1 << 62, length), NOW_MS - rng.integers(0, 1 << 35, length)
    rows["duration_ms"], rows["fields"] = rng.integers(0, 1 << 31, length), HAS_DURATION
    limits = Limits(max_record_bytes=budget)
    event_ids = rng.bytes(16 * min(ids, length))
    records = seed_records(7, rows, event_ids, NOW_MS, limits)
    key = user_key(7)
    parts = [accept_event(key, record, partition_of(key, 8), NOW_MS, limits).seed for record in records]
    assert [(part.part, part.parts) for part in parts] == [(at, len(parts)) for at in range(len(parts))]
    assert b"".join(unpack_history(part.packed).tobytes() for part in parts) == rows.tobytes()
    assert [part.event_ids for part in parts] == [b""] * (len(parts) - 1) + [event_ids]
    names = {BehaviourEvent.FromString(record).event_id for record in records}
    assert names == {seed_id(7, rows, event_ids, rebuild=False)}


def test_a_seed_is_named_by_its_content() -> None:
    rows = np.zeros(2, dtype=HISTORY_DTYPE)
    name = seed_id(7, rows, b"", rebuild=False)
    others = [seed_id(8, rows, b"", rebuild=False), seed_id(7, rows[:1], b"", rebuild=False)]
    others += [seed_id(7, rows, bytes(16), rebuild=False), seed_id(7, rows, b"", rebuild=True)]
    assert len({name, *others}) == 5
    assert name == seed_id(7, rows.copy(), b"", rebuild=False)


def test_more_parts_than_allowed_are_refused() -> None:
    rows = np.zeros(500, dtype=HISTORY_DTYPE)
    rows["item_id"] = np.random.default_rng(1).integers(1, 1 << 62, 500)
    with pytest.raises(ValueError, match="user 7: 500 events need"):
        seed_records(7, rows, b"", NOW_MS, Limits(max_record_bytes=600, max_seed_parts=3))


def test_shards_do_not_change_what_is_packed_and_a_second_run_packs_nothing(source: Path, tmp_path: Path) -> None:
    packed: list[Packed] = []
    two = WorkDirectory(tmp_path / "two", plan(source))
    two.pack(Limits(), 2, packed.append)
    assert (sum(shard.users for shard in packed), sum(shard.events for shard in packed)) == (3, 5)
    one = WorkDirectory(tmp_path / "one", plan(source, shards=1))
    one.pack(Limits(), 1, lambda _: None)
    assert records_of(one) == records_of(two)

    (tmp_path / "two" / "00000.seeds").write_bytes(b"")
    again = WorkDirectory(tmp_path / "two", plan(source, now_ms=NOW_MS + 1))
    assert again.plan.now_ms == NOW_MS
    assert again.pack(Limits(), 1, lambda _: None) == sorted(packed, key=lambda shard: shard.shard)
    assert (tmp_path / "two" / "00000.seeds").read_bytes() == b""


def test_older_events_beyond_the_limit_are_left_out_and_counted(source: Path, tmp_path: Path) -> None:
    directory = WorkDirectory(tmp_path / "work", plan(source, max_events=2))
    (first, second) = sorted(directory.pack(Limits(), 1, lambda _: None), key=lambda shard: shard.shard)
    assert (first.cut, second.cut, second.events) == (0, 1, 4)
    (record,) = records_of(directory)[5]
    assert unpack_history(BehaviourEvent.FromString(record).seed.packed)["item_id"].tolist() == [50, 52]


def test_a_directory_belongs_to_one_plan(source: Path, tmp_path: Path) -> None:
    WorkDirectory(tmp_path / "work", plan(source))
    with pytest.raises(SeedError, match="give another --work"):
        WorkDirectory(tmp_path / "work", plan(source, shards=3))


def test_an_event_that_the_job_would_refuse_stops_the_packing_with_its_user(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", user_id=[3, 3], item_id=[1, 0], event_time_ms=[NOW_MS, NOW_MS])
    with pytest.raises(SeedError, match=r"user 3: id_out_of_range: event 1 of the seed has item_id 0"):
        WorkDirectory(tmp_path / "work", plan(path)).pack(Limits(), 1, lambda _: None)
    path = write(tmp_path / "z.parquet", user_id=[0], item_id=[1], event_time_ms=[NOW_MS])
    with pytest.raises(SeedError, match="user_id 0 is below 1"):
        WorkDirectory(tmp_path / "zero", plan(path)).pack(Limits(), 1, lambda _: None)


def test_what_is_published_is_remembered(source: Path, tmp_path: Path) -> None:
    directory = WorkDirectory(tmp_path / "work", plan(source))
    assert directory.published(1) is None
    directory.mark_published(1, spans([(3, 10), (3, 12), (5, 0), (3, 11)]))
    assert WorkDirectory(tmp_path / "work", plan(source)).published(1) == {3: Span(10, 12), 5: Span(0, 0)}
