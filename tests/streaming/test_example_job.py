"""The example job on the real cluster: scrambled inputs and a killed TaskManager, and every example exactly once."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from job_runner import JobRunner, Received, Record, user_record

from schemas.partitioner import user_key
from schemas.reasons import Reason
from schemas.topics import (
    DEAD_LETTER_TOPICS,
    EVENTS,
    EXAMPLE_JOB_GROUP,
    EXAMPLES,
    HEARTBEAT_KEY,
    IMPRESSIONS,
    LATE_FEEDBACK,
    PARTITIONS,
    RESPONSES,
)
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_OK, Candidates, Impression, RankingResponse, Stamp
from schemas.v1.training_pb2 import LateFeedback, TrainingExample

pytestmark = pytest.mark.cluster

START_MS = 1_500_000_000_000
WINDOW_MS = 600_000
OUT_OF_ORDER_MS = 86_400_000
SETTINGS = [
    "job.checkpoint_interval_ms=1000",
    f"label_window_ms={WINDOW_MS}",
    # The log is scrambled within a day, and partitions may be silent for as long as they like.
    f"watermark.out_of_orderness_ms={OUT_OF_ORDER_MS}",
    "watermark.idle_timeout_ms=0",
    "revision_window_ms=86400000",
    "attribution_window_ms=600000",
    "labels=[{task: touch}, {task: share, when: {actions: [3]}}]",
]


def column(items: list[int]) -> bytes:
    return np.asarray(items, dtype="<u8").tobytes()


@dataclass
class Request:
    """One request's records, and what must come of them."""

    number: int
    user_id: int
    time_ms: int
    records: list[Record] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    touch: list[int] = field(default_factory=list)
    share: list[int] = field(default_factory=list)
    superseded: int = 0
    #: A target that is shared in time, which is published after the label time.
    revised: int | None = None
    refused: Reason | None = None

    @property
    def request_id(self) -> str:
        return f"q{self.number}"


def response(request: Request, name: str, items: list[int]) -> Record:
    message = RankingResponse(
        schema_version=1,
        request_id=request.request_id,
        response_id=name,
        user_id=request.user_id,
        request_time_ms=request.time_ms,
        status=RESPONSE_STATUS_OK,
        candidates=Candidates(item_id=column(items), group_id=column([item + 1_000 for item in items])),
        stamp=Stamp(epoch=1, seq_no=request.number, model_version="m"),
    )
    return user_record(RESPONSES, request.user_id, message.SerializeToString(), request.time_ms)


def impression(request: Request, name: str, items: list[int]) -> Record:
    message = Impression(
        schema_version=1,
        user_id=request.user_id,
        request_id=request.request_id,
        response_id=name,
        request_time_ms=request.time_ms,
        impression_time_ms=request.time_ms + 10,
        item_id=column(items),
    )
    return user_record(IMPRESSIONS, request.user_id, message.SerializeToString(), request.time_ms + 10)


def feedback(
    request: Request, name: str | None, number: int, item: int, action: int, after_ms: int, published_ms: int = 0
) -> Record:
    """`name` None: it names no request."""
    message = BehaviourEvent(
        schema_version=1,
        user_id=request.user_id,
        event_id=(request.number << 16 | number).to_bytes(16, "big"),
        event_time_ms=request.time_ms + after_ms,
        interaction=Interaction(item_id=item, action=action),
    )
    if name is not None:
        message.request.CopyFrom(
            RequestRef(request_id=request.request_id, response_id=name, request_time_ms=request.time_ms)
        )
    published_ms = request.time_ms + (published_ms or after_ms)
    return user_record(EVENTS, request.user_id, message.SerializeToString(), published_ms)


def make_request(number: int, rng: random.Random) -> Request:
    request = Request(number, rng.randrange(30) + 1, START_MS + number * 60_000)
    candidates = rng.sample(range(number * 200, number * 200 + 199), 8)
    shown = rng.sample(candidates, 6)
    kind = rng.random()
    if kind < 0.08:
        request.records.append(response(request, "a", candidates))  # Never shown.
        return request
    request.items = shown
    request.records += [response(request, "a", candidates), impression(request, "a", shown)]
    if kind < 0.2:
        request.superseded = 1
        request.records.append(response(request, "b", candidates[::-1]))
    elif kind < 0.25:
        del request.records[0]
        request.refused = Reason.RESPONSE_MISSING
    elif kind < 0.3:
        request.records[1] = impression(request, "a", [*shown, 1 << 40])
        request.refused = Reason.UNKNOWN_CANDIDATE
    actions = {item: rng.choice([0, 1, 3]) for item in shown}
    for place, (item, action) in enumerate(actions.items()):
        if action:
            # Items are the request's own, so that feedback which names none finds it.
            name = "a" if rng.random() < 0.7 else None
            after_ms = 10 + rng.randrange(WINDOW_MS - 9)
            request.records.append(feedback(request, name, place, item, action, after_ms))
    if rng.random() < 0.3:
        request.revised = rng.randrange(len(shown))
        late = feedback(request, "a", 102, shown[request.revised], 3, after_ms=500, published_ms=WINDOW_MS + 60_000)
        request.records.append(late)
    request.records.append(feedback(request, "a", 100, shown[0], 1, after_ms=WINDOW_MS + 1))  # Too late to count.
    request.records.append(feedback(request, "b", 101, shown[0], 1, after_ms=5))  # To a response that was not shown.
    request.touch = [int(action > 0) for action in actions.values()]
    request.share = [int(action == 3) for action in actions.values()]
    return request


def heartbeats(time_ms: int) -> list[Record]:
    return [
        Record(topic, HEARTBEAT_KEY, b"", time_ms + OUT_OF_ORDER_MS, partition)
        for topic in (EVENTS, RESPONSES, IMPRESSIONS)
        for partition in range(PARTITIONS)
    ]


def scrambled(requests: list[Request], rng: random.Random) -> list[Record]:
    records = [record for request in requests for record in request.records]
    records += rng.sample(records, len(records) // 20)
    rng.shuffle(records)
    return records


def expected(requests: list[Request]) -> dict[tuple[str, int], tuple[object, ...]]:
    """(request_id, label_version) -> contents."""
    versions: dict[tuple[str, int], tuple[object, ...]] = {}
    for request in requests:
        if not request.items or request.refused:
            continue
        touch, share = [request.touch], [request.share]
        if request.revised is not None and not request.share[request.revised]:
            at = request.revised
            touch.append([*request.touch[:at], 1, *request.touch[at + 1 :]])
            share.append([*request.share[:at], 1, *request.share[at + 1 :]])
        for version, labels in enumerate(zip(touch, share, strict=True), 1):
            versions[request.request_id, version] = (
                request.user_id,
                request.items,
                [item + 1_000 for item in request.items],
                list(range(len(request.items))),
                *labels,
                request.superseded,
                request.number,
            )
    return versions


def contents(example: TrainingExample) -> tuple[object, ...]:
    labels = {one.task: list(one.labels) for one in example.labels}
    return (
        example.user_id,
        np.frombuffer(example.targets.item_id, "<u8").tolist(),
        np.frombuffer(example.targets.group_id, "<u8").tolist(),
        np.frombuffer(example.position, "<u2").tolist(),
        labels["touch"],
        labels["share"],
        example.superseded_responses,
        example.stamp.seq_no,
    )


def at_least(count: int, received: list[Received]) -> bool:
    return len(received) >= count


def check(received: list[Received], requests: list[Request]) -> None:
    examples = [TrainingExample.FromString(record.value) for record in received]
    assert [record.key for record in received] == [user_key(example.user_id) for example in examples]
    found = {(example.request_id, example.label_version): contents(example) for example in examples}
    assert found == expected(requests)
    assert len(examples) == len(expected(requests)), "an example came twice"


def test_scrambled_inputs_give_every_example_once(jobs: JobRunner) -> None:
    rng = random.Random(7)
    requests = [make_request(number, rng) for number in range(1, 150)]
    noise = [
        Record(RESPONSES, b"1", b"\xff", START_MS, 0),
        Record(IMPRESSIONS, None, b"\xff", START_MS, 1),
        Record(EVENTS, b"nobody", b"\xff", START_MS, 1),
    ]
    job = jobs.submit("example_job", SETTINGS)
    jobs.produce([*scrambled(requests, rng), *noise, *heartbeats(START_MS + 1_000 * 60_000)])
    wanted = len(expected(requests))
    jobs.read(EXAMPLES, until=lambda records: len(records) >= wanted, isolation_level="read_committed")
    # Too late: nothing may come of it any more.
    jobs.produce(requests[0].records)
    jobs.produce([feedback(requests[0], "a", 103, 1, 3, after_ms=5, published_ms=86_400_001)])
    (late,) = jobs.read(LATE_FEEDBACK, until=bool)
    assert LateFeedback.FromString(late.value).request.request_id == requests[0].request_id
    savepoint = jobs.flink.stop_with_savepoint(job)
    first = jobs.read(EXAMPLES, isolation_level="read_committed")
    check(first, requests)

    # Nor may it after a restore, when Flink has no watermark yet.
    later = next(one for one in (make_request(number, rng) for number in range(2_000, 2_100)) if one.touch)
    job = jobs.submit("example_job", SETTINGS, savepoint=savepoint)
    jobs.produce(requests[0].records)
    jobs.produce([*later.records, *heartbeats(later.time_ms + 2 * WINDOW_MS)])
    wanted = len(expected([*requests, later]))
    jobs.read(EXAMPLES, until=lambda records: len(records) >= wanted, isolation_level="read_committed")
    jobs.flink.stop_with_savepoint(job)
    requests.append(later)
    first = jobs.read(EXAMPLES, isolation_level="read_committed")
    check(first, requests)

    letters = [
        DeadLetter.FromString(record.value)
        for topic in (RESPONSES, IMPRESSIONS)
        for record in jobs.read(DEAD_LETTER_TOPICS[topic.name])
    ]
    reasons = Counter((letter.source_topic, letter.reason) for letter in letters)
    refused = Counter(request.refused for request in requests if request.refused)
    assert reasons == {
        (RESPONSES.name, Reason.WRONG_PARTITION): 1,
        (IMPRESSIONS.name, Reason.MALFORMED_KEY): 1,
        (IMPRESSIONS.name, Reason.RESPONSE_MISSING): refused[Reason.RESPONSE_MISSING],
        (IMPRESSIONS.name, Reason.UNKNOWN_CANDIDATE): refused[Reason.UNKNOWN_CANDIDATE],
    }
    # The malformed event is the sequence job's letter.
    assert not jobs.read(DEAD_LETTER_TOPICS[EVENTS.name])
    for letter in letters:
        if letter.reason in (Reason.RESPONSE_MISSING, Reason.UNKNOWN_CANDIDATE):
            assert Impression.FromString(letter.value).request_id in {one.request_id for one in requests if one.refused}

    # The same topics again, from their beginnings: the same bytes, after those that are there.
    jobs.rewind(EXAMPLE_JOB_GROUP, (EVENTS, RESPONSES, IMPRESSIONS))
    again = jobs.submit("example_job", SETTINGS)
    jobs.read(EXAMPLES, until=lambda records: len(records) >= 2 * len(first), isolation_level="read_committed")
    jobs.flink.stop_with_savepoint(again)
    both = Counter(record.value for record in jobs.read(EXAMPLES, isolation_level="read_committed"))
    assert both == Counter({record.value: 2 for record in first})


def test_a_killed_taskmanager_neither_loses_nor_doubles_an_example(jobs: JobRunner) -> None:
    rng = random.Random(8)
    requests = [make_request(number, rng) for number in range(1, 400)]
    job = jobs.submit("example_job", SETTINGS)
    half = len(requests) // 2
    jobs.produce([*scrambled(requests[:half], rng), *heartbeats(requests[half].time_ms)])
    first_half = expected([one for one in requests[:half] if one.time_ms + 2 * WINDOW_MS <= requests[half].time_ms])
    jobs.read(EXAMPLES, until=lambda records: len(records) >= len(first_half), isolation_level="read_committed")
    # In flight while it is killed: the requests whose label time is still to come, and the second half.
    jobs.produce(scrambled(requests[half:], rng))
    jobs.local.kill("taskmanager-1")
    jobs.produce(heartbeats(requests[-1].time_ms + 2 * WINDOW_MS))
    jobs.local.restart("taskmanager-1")
    jobs.flink.wait_running(job)
    wanted = len(expected(requests))
    jobs.read(EXAMPLES, until=lambda records: len(records) >= wanted, isolation_level="read_committed")
    jobs.flink.wait_restarted(job)
    jobs.flink.stop_with_savepoint(job)
    check(jobs.read(EXAMPLES, isolation_level="read_committed"), requests)


def test_after_a_restore_the_watermark_alone_writes_what_waits(jobs: JobRunner) -> None:
    rng = random.Random(10)
    requests = [make_request(number, rng) for number in range(1, 200)]
    jobs.produce(scrambled(requests, rng))
    savepoint = None
    # Whoever has seen the first heartbeats has taken all records before them.
    for newest, parallelism in ((60, 2), (120, 1), (len(requests) - 1, 2)):
        job = jobs.submit("example_job", SETTINGS, parallelism=parallelism, savepoint=savepoint)
        jobs.produce(heartbeats(requests[newest].time_ms + 2 * WINDOW_MS))
        wanted = len(expected(requests[: newest + 1]))
        jobs.read(EXAMPLES, until=partial(at_least, wanted), isolation_level="read_committed")
        savepoint = jobs.flink.stop_with_savepoint(job)
    check(jobs.read(EXAMPLES, isolation_level="read_committed"), requests)


def test_partitions_that_are_silent_do_not_hold_examples_back(jobs: JobRunner) -> None:
    """As on a live site at night: no heartbeats, and most partitions have nothing."""
    rng = random.Random(9)
    request = next(
        one for one in (make_request(number, rng) for number in range(1, 100)) if one.items and not one.refused
    )
    settings = [*SETTINGS, "watermark.idle_timeout_ms=500", "watermark.out_of_orderness_ms=1000"]
    jobs.submit("example_job", settings)
    jobs.produce(request.records)
    # The user's partition goes on; the other seven of each topic never began.
    later = [
        Record(topic, user_key(request.user_id), b"\xff", request.time_ms + 3 * WINDOW_MS, request.records[0].partition)
        for topic in (EVENTS, RESPONSES, IMPRESSIONS)
    ]
    jobs.produce(later)
    wanted = expected([request])
    received = jobs.read(EXAMPLES, until=lambda records: len(records) >= len(wanted), isolation_level="read_committed")
    check(received, [request])
