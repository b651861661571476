"""What Flink's Prometheus reporter shows of the sequence job, on the real cluster."""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_runner import DEADLINE_S, JobRunner, Record, user_record
from prometheus_client.parser import text_string_to_metric_families

from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.flink_rest import FlinkRest
from infra.topics import apply_topics
from schemas.reasons import Reason
from schemas.topics import EVENTS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction
from streaming.flink.metrics import GROUP, SEQUENCE_COUNTERS, SEQUENCE_DISTRIBUTIONS, late_counter, reason_counter

pytestmark = pytest.mark.cluster

START_MS = 1_500_000_000_000
HOUR_MS = 3_600_000
USER = 77


@pytest.mark.parametrize(
    ("late_ms", "name"),
    [
        (1, "late_seconds"),
        (59_999, "late_seconds"),
        (60_000, "late_minutes"),
        (HOUR_MS - 1, "late_minutes"),
        (HOUR_MS, "late_hours"),
        (24 * HOUR_MS - 1, "late_hours"),
        (24 * HOUR_MS, "late_days"),
        (1 << 50, "late_days"),
    ],
)
def test_late_events_have_their_bucket(late_ms: int, name: str) -> None:
    assert late_counter(late_ms) == name


@pytest.fixture
def reporting(tmp_path: Path) -> Iterator[LocalCluster]:
    local = LocalCluster(tmp_path)
    local.up(UpOptions(taskmanagers=1, prometheus=True, short_lived=True))
    try:
        yield local
    finally:
        local.down()


def event(number: int, late_ms: int = 0) -> BehaviourEvent:
    return BehaviourEvent(
        schema_version=1,
        user_id=USER,
        event_id=number.to_bytes(16, "big"),
        event_time_ms=START_MS + number - late_ms,
        interaction=Interaction(item_id=number + 1, action=1),
    )


def scrape(port: int) -> dict[str, float]:
    """Our metrics of the keyed operator, by their own names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        sample.name.partition(f"_{GROUP}_")[2]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if f"_operator_{GROUP}_" in sample.name and sample.labels["operator_name"] == "sequences"
    }


def test_the_reporter_shows_every_metric(reporting: LocalCluster) -> None:
    info = reporting.info()
    apply_topics(info.bootstrap, replay=True)
    jobs = JobRunner(reporting, FlinkRest(info.rest_url), info.bootstrap)
    settings = ["sequence.capacity=8", "sequence.as_of_events=0", "state.chunk_events=4", "snapshot.every_events=10"]
    jobs.submit("sequence_job", settings, parallelism=1)

    events = [event(number) for number in range(1, 201)]
    events += [event(201, 5_000), event(202, 70_000), event(203, 2 * HOUR_MS), event(204, 50 * HOUR_MS)]
    events += events[150:160]
    records = [user_record(EVENTS, USER, one.SerializeToString(), START_MS) for one in events]
    erase = BehaviourEvent(schema_version=1, user_id=USER, event_id=b"e" * 16, event_time_ms=START_MS, erase=Erase())
    records.append(user_record(EVENTS, USER, erase.SerializeToString(), START_MS))
    records += [Record(EVENTS, b"nobody", b"", START_MS, 0)] * 3
    jobs.produce(records)

    expected = Counter(
        accepted=204,
        duplicates=10,
        late_seconds=1,
        late_minutes=1,
        late_hours=1,
        late_days=1,
        erased=1,
        # The first event's, 20 more and the erase's.
        snapshots=22,
        # All of the 204 in the end, with the erase.
        evicted_chunks=51,
        evicted_events=204,
    )
    expected[reason_counter(Reason.MALFORMED_KEY.value)] = 3
    port = info.ports["prometheus-taskmanager-0"]
    deadline = time.monotonic() + DEADLINE_S
    while True:
        shown = scrape(port)
        if {name: shown.get(name) for name in expected} == expected:
            break
        assert time.monotonic() < deadline, shown
    counters = {*SEQUENCE_COUNTERS, *(reason_counter(reason.value) for reason in Reason)}
    gauges = {f"{name}_{part}" for name in SEQUENCE_DISTRIBUTIONS for part in ("p50", "p99", "max")}
    assert shown.keys() == counters | gauges
    assert all(shown[name] == 0 for name in counters - expected.keys())
    for name in ("processing_us", "snapshot_bytes", "user_state_bytes"):
        assert 0 < shown[f"{name}_p50"] <= shown[f"{name}_p99"] <= shown[f"{name}_max"]
