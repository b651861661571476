"""Reading a lake: frames, columns that come and go, histories as served, and the README's own code."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pytest
from lakes import DAY_MS, FIRST_MS, Topic, memory_url, packed, simple

import scorer.landing
from schemas.partitioner import partition_of, user_key
from schemas.topics import PARTITIONS, SNAPSHOTS, UPDATES
from schemas.v1.ranking_pb2 import FeatureColumn, Stamp
from schemas.v1.training_pb2 import TrainingExample
from scorer.landing import Lake, LakeError
from scorer.landing.compact import compact, forget_users
from scorer.landing.resolve import UnresolvedError, build_dataset, store_resolver
from scorer.sequences import follower
from scorer.sequences.partition import Position
from scorer.sequences.store import SequenceStore

USERS = (3, 4, 5)
README = Path(scorer.landing.__file__).with_name("README.md")


def landed(*examples: TrainingExample, url: str | None = None) -> Lake:
    """A lake with these, in several files."""
    topic, lake = Topic(), Lake(url or memory_url())
    topic.add(*examples)
    topic.land(lake, batch_bytes=1)
    return lake


def with_feature(name: str, time_ms: int, **columns: bytes) -> TrainingExample:
    example = simple(name, time_ms)
    example.targets.features.add(name="price", **columns)
    return example


def fill(store: SequenceStore, job: Any) -> dict[int, Any]:
    """Histories of 20 events each, in the store; their chains by user."""
    position = Position(
        offsets={UPDATES.name: 0, SNAPSHOTS.name: 0}, topic_ids={UPDATES.name: "u", SNAPSHOTS.name: "s"}
    )
    chains = {user: job.chain(user) for user in USERS}
    for partition in range(PARTITIONS):
        store.open_partition(partition)
    for user, chain in chains.items():
        records = [job.update(chain, n) for n in range(1, 21)]
        store.open_partition(partition_of(user_key(user), PARTITIONS)).apply(records, position, pytest.fail)
    return chains


def stamped(chain: Any, name: str, first: int, last: int, time_ms: int = FIRST_MS, **more: Any) -> TrainingExample:
    stamp = Stamp(
        epoch=chain.epoch,
        first_seq_no=first,
        seq_no=last,
        length=last - first + 1,
        digest_version=1,
        digest=chain.digests[last],
        model_version="m",
    )
    return simple(name, time_ms, user_id=chain.user_id, stamp=stamp, **more)


def test_a_day_as_pandas() -> None:
    lake = landed(simple("a"), simple("b", FIRST_MS + 3_600_000), simple("a", version=2))
    frame = lake.requests("2026-11-25").to_pandas()
    assert frame["request_id"].tolist() == ["b", "a"]
    assert frame["request_time"].dt.hour.tolist() == [1, 0]
    assert str(frame["request_time"].dtype) == "datetime64[ms, UTC]"
    assert frame["item_id"].iloc[0].dtype == np.uint64
    exploded = frame.explode(["item_id", "label_touch"])
    assert exploded["label_touch"].tolist() == [0, 1, 1, 0]
    assert frame["position"].tolist() == [None, None]
    one = lake.requests("2026-11-25").to_pandas(["label_version", "request_id"])
    assert one.columns.tolist() == ["label_version", "request_id"]
    with pytest.raises(LakeError, match="no column label_like; there are"):
        lake.requests("2026-11-25").to_pandas(["label_like"])


def test_a_task_of_the_second_day_is_null_on_the_first() -> None:
    lake = landed(simple("a"), simple("b", FIRST_MS + DAY_MS, tasks=("touch", "finish")))
    first = lake.requests("2026-11-25").schema.names
    assert "label_touch" in first
    assert "label_finish" not in first
    frame = lake.requests("2026-11-25", "2026-11-26").to_pandas()
    assert [None if value is None else value.tolist() for value in frame["label_finish"]] == [None, [0, 1]]
    assert frame["weight_finish"].isna().tolist() == [True, False]
    # The file of the first day alone has no such column; the messages are as they were.
    tasks = [[labels.task for labels in e.labels] for e in lake.requests("2026-11-25", "2026-11-26").examples()]
    assert tasks == [["touch"], ["finish", "touch"]]


def test_a_name_of_two_types_gets_the_type_behind_it() -> None:
    lake = landed(
        with_feature("a", FIRST_MS, int64=packed("<i8", [1 << 60, 2])),
        with_feature("b", FIRST_MS + DAY_MS, float32=packed("<f4", [0.5, 2])),
        simple("c", FIRST_MS + DAY_MS, tasks=("version",)),
    )
    assert lake.requests("2026-11-25").to_pandas()["feature_price"].iloc[0].tolist() == [1 << 60, 2]
    both = lake.requests("2026-11-25", "2026-11-26")
    frame = both.to_pandas(["feature_price:int64", "feature_price:float32", "label_version", "label_version:uint8"])
    assert [None if value is None else value.tolist() for value in frame.iloc[:, 1]] == [None, [0.5, 2], None]
    assert frame.iloc[2, 2:].tolist()[0] == 1
    assert [e.targets.features[0] for e in both.examples() if e.targets.features] == [
        FeatureColumn(name="price", int64=packed("<i8", [1 << 60, 2])),
        FeatureColumn(name="price", float32=packed("<f4", [0.5, 2])),
    ]


def test_polars_is_named_where_it_is_missing_and_gets_the_arrow_table(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = landed(simple("a")).requests("2026-11-25")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match="pip install polars"):
        requests.to_polars()
    polars = ModuleType("polars")
    polars.from_arrow = lambda table: table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polars", polars)
    assert requests.to_polars().equals(requests.to_arrow())


@pytest.mark.parametrize("rows", [1, 2, 1_000])
def test_requests_have_the_histories_that_they_were_served(job: Any, tmp_path: Path, rows: int) -> None:
    with SequenceStore(tmp_path) as store:
        chains = fill(store, job)
        lake = landed(
            stamped(chains[3], "whole", 1, 20),
            stamped(chains[3], "part", 5, 9),
            stamped(chains[4], "other", 2, 20),
            stamped(job.chain(5), "nothing", 1, 0),
            stamped(job.chain(5, salt=1).grow(20), "forked", 1, 20),
            stamped(job.chain(4).grow(30), "ahead", 1, 30),
        )
        parts = list(lake.requests("2026-11-25").with_histories(store, ["request_id"], rows=rows))
        got = {
            request["request_id"]: (request["resolution"], events.tobytes())
            for part in parts
            for request, events in part
        }
        assert got == {
            "whole": ("ok", chains[3].row_bytes(1, 20)),
            "part": ("ok", chains[3].row_bytes(5, 9)),
            "other": ("ok", chains[4].row_bytes(2, 20)),
            "nothing": ("ok", b""),
            "forked": ("mismatch", b""),
            "ahead": ("ahead", b""),
        }
        assert sum((part.outcomes for part in parts), start=parts[0].outcomes.__class__()) == {
            "ok": 4,
            "mismatch": 1,
            "ahead": 1,
        }
        assert sum(map(len, parts)) == 6
        assert all(part.offsets[-1] == len(part.events) for part in parts)


def test_a_dataset_is_that_of_the_messages(job: Any, tmp_path: Path) -> None:
    with SequenceStore(tmp_path) as store:
        chains = fill(store, job)
        old = [stamped(chains[3], "a", 1, 10), stamped(chains[4], "b", 1, 12, FIRST_MS + 5)]
        new = [
            stamped(chains[3], "a", 1, 10, version=2),
            stamped(chains[3], "c", 3, 20, FIRST_MS + DAY_MS),
            stamped(job.chain(5, salt=1).grow(9), "forked", 1, 9, FIRST_MS + DAY_MS),
        ]
        requests = landed(*old, *new).requests("2026-11-25", "2026-11-26")
        dataset, outcomes = requests.dataset(store, ["touch"], max_unresolved=0.5)
        want, wanted = build_dataset([*old[1:], *new], store_resolver(store), ["touch"], max_unresolved=0.5)
        assert outcomes == wanted == {"ok": 3, "mismatch": 1}
        assert len(dataset) == 3
        for field in fields(dataset):
            assert np.array_equal(getattr(dataset, field.name), getattr(want, field.name)), field.name
        with pytest.raises(UnresolvedError, match="1 of 4 stamps"):
            requests.dataset(store, ["touch"])


def test_a_forgotten_user_is_in_no_file() -> None:
    topic, lake = Topic(), Lake(memory_url())
    for user in USERS:
        topic.add(simple(f"of {user}", user_id=user), simple(f"of {user} too", FIRST_MS + DAY_MS, user_id=user))
    topic.land(lake)
    topic.add(simple("of 3 alone", user_id=3))
    topic.land(lake)
    compact(lake)
    topic.add(simple("of 3 again", FIRST_MS + 2 * DAY_MS, user_id=3))
    topic.land(lake)
    assert forget_users(lake, [3, 99]) == 4
    assert lake.days() == ["2026-11-25", "2026-11-26"]
    users = {
        file.path: lake.requests(file.day).to_pandas(["user_id"])["user_id"].tolist() for file in lake.manifest().files
    }
    assert sorted(users.values()) == [[4, 5], [4, 5]]
    assert {name for name in lake.objects.names() if name.endswith(".parquet")} == set(users)
    assert forget_users(lake, [3]) == 0
    assert topic.land(lake).records == 0


def test_an_empty_part_of_the_columns_is_a_table_without_rows() -> None:
    lake = landed(simple("a"))
    table = lake.requests("2026-11-25").to_arrow(["digest"])
    assert table.schema == pa.schema([("digest", pa.uint64())])
    assert len(table) == 1


def readme_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def hours_and_lengths() -> list[TrainingExample]:
    """One request per hour, of one, two, three, one, .. targets, one of which was touched; the first knew no task."""
    return [
        simple(
            f"r{number}",
            FIRST_MS + number * 3_600_000,
            items=1 + number % 3,
            tasks=("touch",) if number else (),
            stamp=Stamp(epoch=1, first_seq_no=1, seq_no=number * 400, length=number * 400),
        )
        for number in range(24)
    ]


def test_the_readmes_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("Agg")
    landed(*hours_and_lengths(), url=str(tmp_path / "lake"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(readme_blocks()[0].replace("s3://bucket/examples", "lake"), names)
    assert names["by_hour"].to_dict() == {hour: 1 / (1 + hour % 3) for hour in range(1, 24)}
    assert names["by_length"].index.tolist() == ["101-1k", "1k-10k"]
    assert (tmp_path / "touch_rates.png").read_bytes().startswith(b"\x89PNG")


def test_the_readmes_histories(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with SequenceStore(tmp_path / "store") as store:
        chains = fill(store, job)
    landed(stamped(chains[3], "a", 1, 20), stamped(chains[4], "b", 5, 9), url=str(tmp_path / "lake"))
    monkeypatch.chdir(tmp_path)

    def open_all(bootstrap: str, store: SequenceStore, partitions: range) -> None:
        assert bootstrap == "kafka-1:9092"
        for partition in partitions:
            store.open_partition(partition)

    monkeypatch.setattr(follower, "follow_to_end", open_all)
    names: dict[str, Any] = {}
    exec(readme_blocks()[1].replace("s3://bucket/examples", "lake"), names)
    printed = capsys.readouterr().out
    assert "a ok" in printed
    assert "b ok" in printed
    assert names["outcomes"] == {"ok": 2}
    assert len(names["dataset"]) == 2


def test_the_readme_names_every_column() -> None:
    named = README.read_text()
    missing = [name for name in scorer.landing.columns.FIXED_SCHEMA.names if f"`{name}`" not in named]
    assert not missing
