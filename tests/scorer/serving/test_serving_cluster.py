"""`longrank serve` as processes on a real broker: nothing asked is lost, by kill, by rebalance or by a new model."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.demo.scorer_process import ScorerProcess
from schemas.partitioner import partition_of, user_key
from schemas.reasons import Reason
from schemas.topics import (
    DEAD_LETTER_TOPICS,
    HEARTBEAT_KEY,
    PARTITIONS,
    REQUESTS,
    RESPONSES,
    SCORER_GROUP,
    UPDATES,
)
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_OK, Candidates, RankingRequest, RankingResponse
from scorer.export import export_bundle
from scorer.features import FeatureSettings
from scorer.landing.bounded import read_bounded
from scorer.model import STCA, ModelSettings
from scorer.registry.registry import Registry
from scorer.sequences.follower import follow_to_end
from scorer.sequences.store import SequenceStore

USERS = range(1, 41)
NOW_MS = 1_700_000_500_000
PATIENCE_S = 60.0


def publish(registry: Registry, version: str, seed: int) -> None:
    torch.manual_seed(seed)
    features = FeatureSettings(item_buckets=64, group_buckets=32, code_bits=8)
    model = STCA(ModelSettings(d=16, layers=1, heads=1, head_dim=32, table_dim=8), features, ("touch",))
    with registry.staging() as staged:
        export_bundle(
            model, staged, version=version, preset="tiny", created_ms=seed, code_version="test", max_history=50
        )
        registry.publish(staged)
    registry.promote(version)


class Application:
    """Writes histories and requests, reads responses back."""

    def __init__(self, bootstrap: str, job) -> None:
        self.bootstrap, self.job = bootstrap, job
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=2)
        self.consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=50)
        self.consumer.assign([TopicPartition(RESPONSES.name, p) for p in range(PARTITIONS)])
        self.consumer.seek_to_beginning()
        self.chains = {user: job.chain(user) for user in USERS}
        self.heads = dict.fromkeys(USERS, 0)
        self.asked: dict[str, tuple[int, int]] = {}
        self.responses: list[RankingResponse] = []

    def close(self) -> None:
        self.producer.close()
        self.consumer.close()

    def act(self, user: int) -> None:
        """One more event of a user's history."""
        self.heads[user] += 1
        record = self.job.update(self.chains[user], self.heads[user])
        self.producer.send(UPDATES.name, key=record.key, value=record.value, partition=record.partition)

    def ask(self, user: int) -> None:
        """A request that must see all of the user's events."""
        name = f"r{len(self.asked)}"
        items = np.arange(1, 6, dtype="<u8")
        message = RankingRequest(
            schema_version=1,
            request_id=name,
            user_id=user,
            request_time_ms=NOW_MS,
            candidates=Candidates(item_id=items.tobytes()),
            min_seq_no=self.heads[user],
            max_wait_ms=30_000,
        )
        self.asked[name] = user, self.heads[user]
        self.put(user_key(user), message.SerializeToString(), partition_of(user_key(user), PARTITIONS))

    def put(self, key: bytes, value: bytes, partition: int) -> None:
        self.producer.send(REQUESTS.name, key=key, value=value, partition=partition, timestamp_ms=NOW_MS)

    def traffic(self, rounds: int) -> None:
        """Every user acts and asks, so often."""
        for _ in range(rounds):
            for user in USERS:
                self.act(user)
                self.ask(user)
        self.producer.flush()

    def read(self) -> set[str]:
        """Names of all requests answered so far."""
        for records in self.consumer.poll(200).values():
            self.responses += [
                RankingResponse.FromString(record.value) for record in records if record.key != HEARTBEAT_KEY
            ]
        return {response.request_id for response in self.responses}

    def wait(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert time.monotonic() < deadline, f"{what}: {len(self.read())} of {len(self.asked)} answered"

    def wait_all(self) -> None:
        self.wait(lambda: self.read() >= self.asked.keys(), "not all answered")

    def check(self, directory: Path) -> None:
        """Every response names a history that holds what it had to see, and resolves to the very rows."""
        with SequenceStore(directory) as store:
            follow_to_end(self.bootstrap, store, range(PARTITIONS))
            for response in self.responses:
                user, wanted = self.asked[response.request_id]
                assert (response.status, response.stale) == (RESPONSE_STATUS_OK, False)
                assert response.stamp.seq_no >= wanted
                resolved = store.resolve(user, response.stamp)
                assert resolved.rows is not None, resolved
                first, last = response.stamp.first_seq_no, response.stamp.seq_no
                assert resolved.rows.tobytes() == self.chains[user].row_bytes(first, last)

    def uncommitted(self) -> int:
        """Requests beyond the group's offsets."""
        places = [TopicPartition(REQUESTS.name, p) for p in range(PARTITIONS)]
        group = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=SCORER_GROUP, enable_auto_commit=False)
        try:
            ends = group.end_offsets(places)
            return sum(ends[place] - (group.committed(place) or 0) for place in places)
        finally:
            group.close()


def serving(scorer: ScorerProcess) -> float:
    """Partitions that a scorer serves now."""
    name = 'longrank_scorer_partitions{state="serving"} '
    text = urllib.request.urlopen(f"http://127.0.0.1:{scorer.metrics_port}/metrics", timeout=5).read().decode()
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


@pytest.fixture
def application(bootstrap: str, job) -> Iterator[Application]:
    application = Application(bootstrap, job)
    yield application
    application.close()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry")
    publish(registry, "one", 1)
    return registry


def test_nothing_is_lost_by_a_kill_a_new_model_or_bad_records(application, registry, tmp_path):
    home = partition_of(user_key(1), PARTITIONS)

    def start(name: str) -> ScorerProcess:
        return ScorerProcess(application.bootstrap, registry.root, tmp_path / "store", tmp_path / f"{name}.log")

    with start("killed") as scorer:
        scorer.wait_ready()
        application.put(b"1", b"\xff not a request", home)
        application.traffic(3)
        application.wait(lambda: len(application.read()) > 30, "the first answers")
        scorer._process.kill()
    application.traffic(2)
    with start("next") as scorer:
        scorer.wait_ready()
        application.wait_all()
        publish(registry, "two", 2)
        application.traffic(2)
        scorer.wait_model("two")
        application.traffic(1)
        application.wait_all()
        assert scorer.stop() == 0
    assert application.uncommitted() == 0
    assert {response.stamp.model_version for response in application.responses} == {"one", "two"}
    application.check(tmp_path / "check")
    letters = [
        DeadLetter.FromString(record.value)
        for record in read_bounded(application.bootstrap, DEAD_LETTER_TOPICS[REQUESTS.name].name)
    ]
    assert {(letter.reason, letter.source_partition, letter.source_offset, letter.value) for letter in letters} == {
        (Reason.MALFORMED_VALUE, home, 0, b"\xff not a request")
    }


def test_partitions_move_between_scorers_without_losing_a_request(application, registry, tmp_path):
    def start(name: str) -> ScorerProcess:
        return ScorerProcess(application.bootstrap, registry.root, tmp_path / name, tmp_path / f"{name}.log")

    with start("first") as first:
        first.wait_ready()
        application.traffic(2)
        with start("second") as second:
            second.wait_ready()
            application.wait(lambda: serving(first) == serving(second) == PARTITIONS / 2, "the group is not balanced")
            application.traffic(2)
            application.wait_all()
            assert second.stop() == 0
        application.traffic(2)
        application.wait_all()
        assert first.stop() == 0
    assert application.uncommitted() == 0
    application.check(tmp_path / "check")
