"""Landing: what is in the topic is in the lake, once, whatever dies in between."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from lakes import (
    DAY_MS,
    FIRST_MS,
    TOPIC,
    TOPIC_ID,
    CrashError,
    Topic,
    crash_points,
    memory_url,
    messages,
    newest,
    normal,
    read,
    simple,
)

from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from scorer.landing import Lake, LakeError
from scorer.landing.bounded import BoundedReadError, Landed, _read
from scorer.landing.compact import compact, drop_days
from scorer.landing.lake import KEPT_MANIFESTS
from scorer.landing.land import land
from scorer.landing.manifest import Hole, Manifest, data_name, manifest_name, merge_ranges, number_of
from scorer.landing.parquet import examples_table, file_ranges, parquet_bytes

placed = st.lists(st.tuples(st.integers(0, 2), messages()), max_size=12)


def coordinates(lake: Lake) -> Counter[tuple[int, int]]:
    """Where every row of every file that counts was read."""
    found: Counter[tuple[int, int]] = Counter()
    for file in lake.manifest().files:
        with lake.objects.open(file.path) as opened:
            table = pq.read_table(opened)
        found.update(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))
        assert len(table) == file.rows
    return found


def files_there(lake: Lake) -> set[str]:
    return {name for name in lake.objects.names() if name.endswith(".parquet")}


def small_topic() -> Topic:
    """Three partitions, two days, revisions in later batches; six commits of about two records."""
    topic = Topic()
    for number in range(8):
        time_ms = FIRST_MS + number * DAY_MS // 5
        topic.add(simple(f"r{number}", time_ms), partition=number % 3)
    for number in (1, 2, 6):
        topic.add(simple(f"r{number}", FIRST_MS + number * DAY_MS // 5, version=2), partition=number % 3)
    return topic


SMALL_BATCH = 150


@settings(max_examples=60)
@given(placed, st.sampled_from([1, 300, 1 << 20]), st.booleans())
def test_requests_come_back_as_they_were_written(
    written: list[tuple[int, TrainingExample]], batch_bytes: int, compacted: bool
) -> None:
    topic, lake = Topic(), Lake(memory_url())
    for partition, example in written:
        topic.add(example, partition=partition)
    report = topic.land(lake, batch_bytes=batch_bytes)
    assert report.records == len(written) == sum(report.days.values())
    if compacted:
        compact(lake)
        assert len(lake.manifest().files) == len(lake.days())
    # A request is in one partition in life; here any, and the first of equal versions counts by partition.
    want = newest(TrainingExample.FromString(record.value) for record in topic.all())
    got = read(lake)
    assert {example.request_id: example for example in got} == want
    assert len(got) == len(want)
    assert lake.manifest().next == topic.ends


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_second_run_adds_only_what_is_new(place: str, tmp_path: Path) -> None:
    topic, lake = small_topic(), Lake(memory_url() if place == "memory" else f"file://{tmp_path}/a lake")
    first = topic.land(lake, batch_bytes=SMALL_BATCH)
    assert first.records == 11
    assert first.commits > 3
    before = (lake.manifest(), lake.objects.names())
    again = topic.land(lake, batch_bytes=SMALL_BATCH)
    assert (again.records, again.commits, again.offsets) == (0, 0, {})
    assert (lake.manifest(), lake.objects.names()) == before
    topic.add(simple("new", FIRST_MS + 5 * DAY_MS), partition=1)
    assert topic.land(lake).days == {"2026-11-30": 1}
    assert set(coordinates(lake).values()) == {1}
    assert len(coordinates(lake)) == 12
    assert not [name for name in lake.objects.names() if name.endswith(".part")]


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_run_that_dies_anywhere_is_resumed_without_doubles_or_losses(place: str, tmp_path: Path) -> None:
    topic = small_topic()
    want = {(record.partition, record.offset): 1 for record in topic.all()}
    for trial, failing in enumerate(crash_points("memory://never")):
        url = memory_url() if place == "memory" else str(tmp_path / str(trial))
        failing = type(failing)(url, failing.left, after=failing.after)
        try:
            topic.land(Lake(failing), batch_bytes=SMALL_BATCH)
        except CrashError:
            lake = Lake(url)
            # What counts is whole: all records up to where it goes on, and none beyond.
            done = lake.manifest().next
            assert coordinates(lake) == {at: 1 for at in want if at[1] < done.get(at[0], 0)}
            topic.land(lake, batch_bytes=SMALL_BATCH)
            assert coordinates(lake) == want
            assert {example.request_id: example for example in read(lake)} == newest(
                TrainingExample.FromString(record.value) for record in topic.all()
            )
        else:
            assert trial > 20
            return


@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_compaction_that_dies_anywhere_changes_nothing_or_is_whole(place: str, tmp_path: Path) -> None:
    topic = small_topic()
    want = newest(TrainingExample.FromString(record.value) for record in topic.all())
    for trial, failing in enumerate(crash_points("memory://never")):
        url = memory_url() if place == "memory" else str(tmp_path / str(trial))
        lake = Lake(url)
        topic.land(lake, batch_bytes=SMALL_BATCH)
        compact(lake)
        topic.add(simple("later", FIRST_MS + 1), simple("latest", FIRST_MS + DAY_MS), partition=2)
        topic.land(lake, batch_bytes=1)
        failing = type(failing)(url, failing.left, after=failing.after)
        try:
            compact(Lake(failing))
        except CrashError:
            died = True
        else:
            died = False
        got = {example.request_id: example for example in read(lake)}
        assert got == want | {name: got[name] for name in ("later", "latest")}
        assert topic.land(lake).records == 0
        topic.add(simple("more", FIRST_MS + 2), simple("most", FIRST_MS + DAY_MS + 2), partition=1)
        topic.land(lake)
        compact(lake)
        assert len(lake.manifest().files) == len(lake.days())
        assert len(read(lake)) == len(want) + 4
        # Nothing is left but what counts and what the last compaction replaced.
        manifest = lake.manifest()
        assert files_there(lake) == {file.path for file in manifest.files} | set(manifest.retired)
        topic = small_topic()
        if not died:
            assert trial > 10
            return


def test_a_newer_revision_wins_from_another_file_and_after_a_compaction() -> None:
    topic, lake = Topic(), Lake(memory_url())
    for version in (2, 1, 3):
        topic.add(simple("a", version=version), simple("b"))
        topic.land(lake)
    for _ in range(2):
        assert [(e.request_id, e.label_version) for e in read(lake)] == [("b", 1), ("a", 3)]
        report = compact(lake)
    assert report.replaced == 0
    assert lake.manifest().files[0].rows == 2


def test_a_superseded_version_stays_while_its_successor_is_in_another_file() -> None:
    topic, lake = Topic(), Lake(memory_url())
    topic.add(*(simple("a", version=version) for version in (1, 2, 3)))
    topic.land(lake, batch_bytes=1)
    first, second, _ = (file.bytes for file in lake.manifest().files)
    report = compact(lake, target_bytes=first + second)
    assert (report.replaced, report.by, report.superseded) == (2, 1, 1)
    assert sum(file.rows for file in lake.manifest().files) == 2
    assert [(e.request_id, e.label_version) for e in read(lake)] == [("a", 3)]


def test_days_begin_and_end_at_midnight_utc() -> None:
    topic, lake = Topic(), Lake(memory_url())
    topic.add(*(simple(f"r{at}", FIRST_MS + DAY_MS + at) for at in (-1, 0, DAY_MS - 1, DAY_MS)))
    topic.land(lake)
    assert lake.days() == ["2026-11-25", "2026-11-26", "2026-11-27"]
    times = lake.requests("2026-11-26").to_arrow(["request_time"])["request_time"].to_pylist()
    assert times == [
        datetime(2026, 11, 26, tzinfo=UTC),
        datetime(2026, 11, 26, 23, 59, 59, 999_000, tzinfo=UTC),
    ]
    assert len(list(lake.requests("2026-11-25", "2026-11-26").examples())) == 3
    with pytest.raises(LakeError, match="no requests of 2026-11-24; there are 3 days, 2026-11-25 to 2026-11-27"):
        lake.requests("2026-11-24")


def test_a_files_metadata_name_the_offsets_that_were_read_for_it() -> None:
    topic, lake = small_topic(), Lake(memory_url())
    topic.land(lake)
    (file, *_) = lake.manifest().files
    with lake.objects.open(file.path) as opened:
        assert file_ranges(pq.read_schema(opened)) == file.ranges
    assert file.ranges == {number: [(10 * number, end)] for number, end in topic.ends.items()}
    lake.objects.put(file.path, parquet_bytes(examples_table(topic.all()[:1]), {0: [(0, 1)]}))
    with pytest.raises(LakeError, match="do not name the offsets"):
        read(lake)


def test_of_two_landings_from_the_same_state_one_is_refused() -> None:
    topic, lake = small_topic(), Lake(memory_url())
    topic.land(lake, batch_bytes=SMALL_BATCH)
    behind = lake.manifest()
    topic.add(simple("z"), partition=2)
    records = topic.records[2][-1:]

    class Overtaken:
        """Another lander commits while this one reads."""

        def __iter__(self):
            topic.land(lake)
            return iter(records)

    bounds = {2: (behind.next[2], topic.ends[2])}
    with pytest.raises(LakeError, match="another process committed"):
        land(lake, Overtaken(), bounds, topic=TOPIC, topic_id=TOPIC_ID)
    assert set(coordinates(lake).values()) == {1}
    assert len(coordinates(lake)) == len(topic.all())
    # What the loser wrote is not part of the lake, and goes.
    extra = files_there(lake) - {file.path for file in lake.manifest().files}
    assert lake.sweep() == len(extra)
    assert files_there(lake) == {file.path for file in lake.manifest().files}


def test_a_commit_older_than_all_kept_manifests_is_refused() -> None:
    topic, lake = Topic(), Lake(memory_url())
    topic.add(simple("a"))
    topic.land(lake)
    stale = lake.manifest()
    for number in range(KEPT_MANIFESTS + 1):
        topic.add(simple(f"r{number}"))
        topic.land(lake)
    lake.sweep()
    newest_number = lake.manifest().number
    assert len(lake.objects.names("_manifests")) == KEPT_MANIFESTS
    with pytest.raises(LakeError, match="another process committed number 2 first"):
        lake.commit(stale.landed(TOPIC, TOPIC_ID, {0: (stale.next[0], 99)}, ()))
    assert lake.manifest().number == newest_number
    assert len(lake.objects.names("_manifests")) == KEPT_MANIFESTS


def test_readers_of_before_a_compaction_go_on() -> None:
    topic, lake = small_topic(), Lake(memory_url())
    topic.land(lake, batch_bytes=SMALL_BATCH)
    days = lake.days()
    before = lake.requests(days[0], days[-1])
    want = sorted(e.request_id for e in before.examples())
    compact(lake)
    assert sorted(e.request_id for e in before.examples()) == want
    topic.add(simple("x"))
    topic.land(lake)
    compact(lake)
    with pytest.raises(LakeError, match="after a compaction ask the lake"):
        list(before.examples())


def test_what_a_kill_leaves_half_written_does_not_count_and_goes(tmp_path: Path) -> None:
    topic, lake = small_topic(), Lake(str(tmp_path))
    topic.land(lake)
    topic.add(simple("x"))
    topic.land(lake)
    for name in (data_name(2, "2026-11-25", "lost"), manifest_name(2), data_name(3, "2026-11-25", "under way")):
        path = tmp_path / name
        path.with_name(f".{path.name}.99.part").write_bytes(b"PAR1")
    (tmp_path / "README").write_text("not ours")
    assert lake.manifest().number == 2
    assert len(read(lake)) == 9
    assert lake.sweep() == 2
    assert {name for name in lake.objects.names() if not name.endswith(("t", ".json"))} == {"README"}
    assert len([name for name in lake.objects.names() if name.endswith(".part")]) == 1
    assert len(read(lake)) == 9


def test_old_days_go_at_once_and_the_offsets_stay() -> None:
    topic, lake = small_topic(), Lake(memory_url())
    topic.land(lake, batch_bytes=SMALL_BATCH)
    compact(lake)
    assert drop_days(lake, "2026-11-26") == ["2026-11-25"]
    assert lake.days() == ["2026-11-26"]
    assert {name.partition("/")[0] for name in files_there(lake)} == {"day=2026-11-26"}
    assert topic.land(lake).records == 0
    assert drop_days(lake, "2026-11-26") == []


def test_a_topic_made_anew_is_refused() -> None:
    topic, lake = small_topic(), Lake(memory_url())
    topic.land(lake)
    topic.id = "u2"
    topic.add(simple("x"))
    with pytest.raises(LakeError, match=r"id u1, not training.examples.v1 with id u2"):
        topic.land(lake)


def test_offsets_that_do_not_follow_are_refused_and_holes_recorded() -> None:
    manifest = Manifest().landed(TOPIC, TOPIC_ID, {0: (5, 9)}, ())
    with pytest.raises(LakeError, match="offsets 8 to 12 are not what follows 9"):
        manifest.landed(TOPIC, TOPIC_ID, {0: (8, 12)}, ())
    assert manifest.landed(TOPIC, TOPIC_ID, {0: (11, 12), 1: (3, 4)}, ()).holes == (Hole(partition=0, first=9, end=11),)


class Oldest:
    """Of a consumer: a topic whose records have all aged out but for ten behind this offset, or that never had one."""

    def __init__(self, oldest: int) -> None:
        self.oldest = oldest

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.oldest)

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.oldest + 10 * (self.oldest > 0))


@pytest.mark.parametrize("others", [0, 1, 5])
def test_what_ages_out_of_a_partition_that_was_empty_is_missed(others: int) -> None:
    topic, lake = Topic(ends={0: 0}), Lake(memory_url())
    topic.add(*(simple(f"r{number}") for number in range(others)), partition=1)
    first = topic.land(lake, batch_bytes=1)
    assert first.records == others
    assert 0 not in first.offsets
    assert lake.manifest().next == topic.ends
    assert all(0 not in file.ranges for file in lake.manifest().files)
    assert topic.land(lake).commits == 0
    # Still empty: there is nothing to miss.
    done = {0: lake.manifest().next[0]}
    assert list(_read(Oldest(0), TOPIC, done, {})) == []
    with pytest.raises(BoundedReadError, match="offset 0 has aged out, the oldest record is 400"):
        list(_read(Oldest(400), TOPIC, done, {}))
    # Given up, with all that came until now or with what is there of it.
    for end in (400, 410):
        topic.ends[0] = end
        given_up = land(lake, (), {0: (400, end)}, topic=TOPIC, topic_id=TOPIC_ID)
        assert given_up.commits == 1
        assert lake.manifest().holes == (Hole(partition=0, first=0, end=400),)
        assert lake.manifest().next == topic.ends


def test_a_partition_is_recorded_by_the_first_of_many_commits() -> None:
    topic, failing = Topic(ends={0: 0, 2: 50}), next(crash_points(memory_url()))
    topic.add(*(simple(f"r{number}") for number in range(5)), partition=1)
    # A file and a manifest, and the next file.
    failing.left = 2
    with pytest.raises(CrashError):
        topic.land(Lake(failing), batch_bytes=1)
    done = Lake(failing.url).manifest()
    assert done.number == 1
    assert done.next == {0: 0, 1: 11, 2: 20}


def test_data_without_manifests_is_refused() -> None:
    topic, lake = small_topic(), Lake(memory_url())
    topic.land(lake, batch_bytes=SMALL_BATCH)
    for name in lake.objects.names("_manifests"):
        lake.objects.delete(name)
    with pytest.raises(LakeError, match="there are data and no _manifests/"):
        topic.land(lake)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\xff", "not an example"),
        (TrainingExample(position=b"123").SerializeToString(), "position has 3 bytes, not a multiple of 2"),
        (
            TrainingExample(labels=[TaskLabels(task="touch"), TaskLabels(task="touch")]).SerializeToString(),
            "label touch stands twice",
        ),
    ],
)
def test_a_record_that_is_no_example_is_named(value: bytes, message: str) -> None:
    with pytest.raises(LakeError, match=f"{TOPIC}/3/17: .*{message}"):
        examples_table([Landed(TOPIC, 3, 17, 0, None, value)])


def test_a_protocol_that_fsspec_does_not_know_is_named() -> None:
    with pytest.raises(LakeError, match="s4://bucket/x: "):
        Lake("s4://bucket/x")


spans = st.tuples(st.integers(0, 20), st.integers(1, 5)).map(lambda span: (span[0], span[0] + span[1]))


@given(st.lists(st.dictionaries(st.integers(0, 1), st.lists(spans, min_size=1, max_size=3)), max_size=5))
def test_merged_ranges_cover_the_same_offsets(all_ranges: list[dict[int, list[tuple[int, int]]]]) -> None:
    merged = merge_ranges(all_ranges)
    for partition in (0, 1):
        want = {n for ranges in all_ranges for span in ranges.get(partition, ()) for n in range(*span)}
        got = [n for span in merged.get(partition, ()) for n in range(*span)]
        assert got == sorted(want)
        assert all(end < first for (_, end), (first, _) in pairwise(merged.get(partition, [])))


def test_names_tell_their_numbers() -> None:
    data = data_name(13, "2026-11-26", "x")
    folder, _, name = data.rpartition("/")
    assert [number_of(n) for n in (data, manifest_name(7), f"{folder}/.{name}.99.part")] == [13, 7, 13]
    assert [number_of(n) for n in ("README", "day=2026-11-26/part-0.parquet", "000000000013-notes.txt")] == [None] * 3


def test_the_same_batch_makes_the_same_file() -> None:
    records = small_topic().all()
    files = {parquet_bytes(examples_table(order), {0: [(0, 9)]}) for order in (records, records[::-1])}
    assert len(files) == 1


def test_normal_only_sorts() -> None:
    example = simple("a", tasks=("b", "a"))
    assert [labels.task for labels in normal(example).labels] == ["a", "b"]
