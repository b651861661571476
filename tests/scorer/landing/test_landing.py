"""Which examples a run takes, and that their histories come out as they were served."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition

from schemas.history import EVENT_BYTES, HISTORY_DTYPE
from schemas.v1.ranking_pb2 import Candidates, Stamp
from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from scorer.landing.bounded import BoundedReadError, Landed, _read
from scorer.landing.examples import take_examples
from scorer.landing.resolve import UnresolvedError, build_dataset


def example(
    name: str, time_ms: int, *, user: int = 1, first: int = 1, last: int = 0, version: int = 1
) -> TrainingExample:
    return TrainingExample(
        request_id=name,
        user_id=user,
        request_time_ms=time_ms,
        label_version=version,
        targets=Candidates(item_id=struct.pack("<2Q", 5, 6)),
        labels=[TaskLabels(task="touch", labels=bytes([1, version % 2]))],
        stamp=Stamp(epoch=1 << 32, first_seq_no=first, seq_no=last, length=last - first + 1),
    )


def landed(*examples: TrainingExample, partition: int = 0, at: int = 0) -> list[Landed]:
    return [
        Landed("training.examples.v1", partition, at + number, 0, b"1", message.SerializeToString())
        for number, message in enumerate(examples)
    ]


def history_bytes(user: int, first: int, last: int) -> bytes:
    rows = np.zeros(last - first + 1, dtype=HISTORY_DTYPE)
    rows["item_id"] = 1_000 * user + np.arange(first, last + 1)
    return rows.tobytes()


def resolve(user: int, stamp: Stamp) -> bytes:
    return history_bytes(user, stamp.first_seq_no, stamp.seq_no)


def test_newest_version_within_the_cut_is_taken_once() -> None:
    records = landed(example("a", 10), example("b", 5), example("a", 10, version=2), example("a", 10), example("c", 1))
    cut = take_examples(records, {}, from_ms=2, cut_ms=100)
    assert [(e.request_id, e.label_version) for e in cut.examples] == [("b", 1), ("a", 2)]
    assert (cut.read, cut.superseded, cut.earlier, cut.later) == (5, 2, 1, 0)
    assert cut.offsets == {0: (0, 5)}


def test_the_next_run_goes_on_where_nothing_is_lost() -> None:
    records = landed(example("a", 10), example("late", 200), example("b", 20), at=40)
    records += landed(example("c", 30), partition=3)
    cut = take_examples(records, {0: 40, 5: 7}, from_ms=0, cut_ms=100)
    assert {e.request_id for e in cut.examples} == {"a", "b", "c"}
    assert cut.offsets == {0: (40, 41), 3: (0, 1), 5: (7, 7)}
    again = take_examples([r for r in records if r.offset >= cut.offsets[r.partition][1]], {}, from_ms=100, cut_ms=300)
    assert [e.request_id for e in again.examples] == ["late"]


spans = st.tuples(st.integers(1, 30), st.integers(0, 12)).map(lambda span: (span[0], span[0] + span[1] - 1))


@given(st.lists(st.tuples(st.integers(1, 3), spans), min_size=1, max_size=12))
def test_every_request_gets_the_events_it_was_served(served: list[tuple[int, tuple[int, int]]]) -> None:
    examples = [
        example(f"r{number}", number, user=user, first=first, last=last)
        for number, (user, (first, last)) in enumerate(served)
        if last or first == 1
    ]
    dataset, outcomes = build_dataset(examples, resolve, ["touch"], max_unresolved=0)
    assert outcomes["ok"] == len(dataset) == len(examples)
    for row, message in enumerate(sorted(examples, key=lambda e: (e.request_time_ms, e.request_id))):
        seen = dataset.events[dataset.history_begin[row] : dataset.history_end[row]]
        stamp = message.stamp
        assert seen.tobytes() == history_bytes(message.user_id, stamp.first_seq_no, stamp.seq_no)
        assert len(seen.tobytes()) == stamp.length * EVENT_BYTES


def test_shared_events_are_held_once() -> None:
    examples = [example(f"r{n}", n, first=1, last=n) for n in range(1, 50)]
    dataset, _ = build_dataset(examples, resolve, ["touch"], max_unresolved=0)
    assert len(dataset.events) == 49
    assert dataset.labels.tolist() == [[1], [1]] * 49


def test_tasks_have_the_weights_of_the_newest_request() -> None:
    examples = [example("old", 1), example("new", 3), example("older", 2)]
    for message, weight in zip(examples, (0.25, 0.5, 4.0), strict=True):
        message.labels[0].weight = weight
    assert build_dataset(examples, resolve, ["touch"], max_unresolved=0)[0].task_weights == (0.5,)
    # From before there were weights.
    assert build_dataset([example("a", 1)], resolve, ["touch"], max_unresolved=0)[0].task_weights == (1.0,)


def test_stamps_that_disagree_about_an_event_are_refused() -> None:
    def forked(user: int, stamp: Stamp) -> bytes:
        return history_bytes(user + stamp.seq_no, stamp.first_seq_no, stamp.seq_no)

    with pytest.raises(UnresolvedError, match="different events"):
        build_dataset([example("a", 1, last=3), example("b", 2, last=4)], forked, ["touch"], max_unresolved=1)


@pytest.mark.parametrize(("allowed", "fails"), [(0.5, False), (0.49, True)])
def test_too_many_unresolved_stamps_fail(allowed: float, fails: bool) -> None:
    def half(user: int, stamp: Stamp) -> bytes | str:
        return "evicted" if stamp.seq_no == 2 else resolve(user, stamp)

    examples = [example("a", 1, last=1), example("b", 2, last=2)]
    if fails:
        with pytest.raises(UnresolvedError, match=r"1 of 2 stamps.*evicted"):
            build_dataset(examples, half, ["touch"], max_unresolved=allowed)
    else:
        dataset, outcomes = build_dataset(examples, half, ["touch"], max_unresolved=allowed)
        assert len(dataset) == 1
        assert outcomes == {"ok": 1, "evicted": 1}


def test_no_examples_make_an_empty_dataset() -> None:
    dataset, outcomes = build_dataset([], resolve, ["touch"], max_unresolved=0)
    assert len(dataset) == len(dataset.events) == 0
    assert not outcomes


class OneRecordTopic:
    """Of a consumer: what `read_bounded` asks before it reads."""

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0} if topic == "there" else None

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 5)

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 6)


@pytest.mark.parametrize(
    ("topic", "begin", "message"),
    [("missing", {}, "does not exist"), ("there", {0: 4}, "aged out"), ("there", {0: 7}, "beyond the end 6")],
)
def test_a_range_that_cannot_be_read_whole_is_refused(topic: str, begin: dict[int, int], message: str) -> None:
    with pytest.raises(BoundedReadError, match=message):
        list(_read(OneRecordTopic(), topic, begin, {}))


def test_missing_task_is_named() -> None:
    with pytest.raises(ValueError, match="finish has 0 labels for 2 targets"):
        build_dataset([example("a", 1)], resolve, ["finish"], max_unresolved=0)
