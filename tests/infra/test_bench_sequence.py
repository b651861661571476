"""What `longrank bench sequence` sends, and how it sums up; what it measures, it measures on a cluster of its own."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from infra.bench.sequence import flatness
from infra.bench.sequence.command import LOG_SETTINGS
from infra.bench.sequence.produce import prepare
from infra.bench.sequence.throughput import Rate, medians
from infra.bench.sequence.workload import id_of_user, of_log, short_video, zipf_users
from infra.logs.gitlog import read_gitlog
from schemas.limits import Limits
from schemas.topics import EVENTS
from scorer.landing.bounded import read_bounded
from streaming.config import SequenceJobConfig, load_config
from streaming.sequence.accept import accept_event

DATA = Path(__file__).parents[1] / "data"


def test_every_event_is_acceptable_and_the_same_for_the_same_seed() -> None:
    users = zipf_users(500, 40, 0.8, np.random.default_rng(3))
    records = list(short_video(users, 3))
    assert records == list(short_video(users, 3))
    assert len(records) == 500
    log = read_gitlog(DATA / "gitlog_small").head(0.001)
    ids = set()
    of_a_log = load_config(SequenceJobConfig, None, LOG_SETTINGS).record_limits()
    for limits, source in ((Limits(), records), (of_a_log, of_log(log, 3))):
        for record in source:
            event = accept_event(record.key, record.value, record.partition, record.timestamp_ms, limits)
            ids.add(event.event_id)
    assert len(ids) == 500 + len(log.arrival_ms)


def test_popular_users_come_more_often() -> None:
    counts = np.bincount(zipf_users(50_000, 100, 1.0, np.random.default_rng(1)), minlength=100)
    # Rank 1 has ten times the weight of rank 10.
    assert 8 < counts[0] / counts[9] < 12.5


def test_costs_are_medians_over_cycles_of_a_places_own_users() -> None:
    events, snapshots = [], []
    for place, users in flatness.groups(7).items():
        for user in users:
            user_id = int(id_of_user(user))
            for n in range(max(1, place - 1_500), place + 65 if place > 1 else 2):
                # A cycle's last event costs 65 us more; one event is disturbed; what is not of the place is dear.
                near = place - n < 832
                events.append((user_id, n, 1_000 + 64_000 * (n % 64 == 0) if near else 10**9))
            snapshots.append((user_id, place, 3_000_000))
    events[-5] = (*events[-5][:2], 10**9)
    measured = flatness.Measured(events=np.array(events), snapshots=np.array(snapshots))
    costs = flatness.costs(measured, 7, 64)
    assert costs["1000"] == costs["100000"] == {"event_us": 2.0, "snapshot_ms": 3.0}
    assert costs["1"] == {"event_us": 1.0, "snapshot_ms": 3.0}


def test_medians_are_of_each_figure() -> None:
    rates = [Rate(per_second=float(a), per_cpu_second=float(b)) for a, b in ((1, 30), (2, 10), (3, 20))]
    assert medians(rates) == Rate(per_second=2.0, per_cpu_second=20.0)


@pytest.mark.cluster
def test_prepared_records_are_in_the_topic_in_order(bootstrap: str) -> None:
    records = list(islice(short_video(zipf_users(3_000, 50, 0.8, np.random.default_rng(5)), 5), 3_000))
    counts = prepare(bootstrap, EVENTS.name, records, lambda _: None)
    landed = list(read_bounded(bootstrap, EVENTS.name))
    assert sum(counts) == len(landed) == 3_000
    for partition in range(EVENTS.partitions):
        assert [(one.timestamp_ms, one.key, one.value) for one in landed if one.partition == partition] == [
            record[1:] for record in records if record.partition == partition
        ]
