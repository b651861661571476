"""Running the jobs on the real cluster: submit, produce, read until."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from infra.cluster.local import LocalCluster
from infra.flink_rest import FlinkRest
from schemas.partitioner import partition_of, user_key
from schemas.topics import PARTITIONS, Topic

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 180.0


class Record(NamedTuple):
    """A record to produce; partition None: where the key belongs."""

    topic: Topic
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    partition: int | None = None


def user_record(topic: Topic, user_id: int, value: bytes, timestamp_ms: int) -> Record:
    return Record(topic, user_key(user_id), value, timestamp_ms)


def _placed(record: Record) -> Record:
    if record.partition is not None:
        return record
    assert record.key is not None, "a record without a key needs a partition"
    return record._replace(partition=partition_of(record.key, PARTITIONS))


@dataclass
class Received:
    """A record read back."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes


@dataclass
class JobRunner:
    """The clean cluster with our jobs on it."""

    local: LocalCluster
    flink: FlinkRest
    bootstrap: str
    submitted: set[str] = field(default_factory=set)

    def submit(
        self, job: str, settings: Iterable[str] = (), *, parallelism: int = 2, savepoint: str | None = None
    ) -> str:
        """The id of the running job, started as an operator would type it."""
        command = [str(Path(sys.executable).with_name("flink")), "run", "-d", "-p", str(parallelism)]
        command += ["-s", savepoint] if savepoint else []
        command += [f"streaming/{job}.py", "--bootstrap", self.bootstrap]
        command += [word for setting in settings for word in ("--set", setting)]
        environment = os.environ | {"LONGRANK_HOME": str(self.local.home)}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)
        found = re.search(r"JobID ([0-9a-f]{32})", done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert found, done.stdout + done.stderr
        self.submitted.add(found[1])
        self.flink.wait_running(found[1])
        return found[1]

    def rewind(self, group: str, topics: Iterable[Topic]) -> None:
        """The group, of which no job runs, begins again with the first records."""
        partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.alter_group_offsets(group, {one: OffsetAndMetadata(0, "", -1) for one in partitions})
        finally:
            admin.close()

    def produce(self, records: Iterable[Record]) -> list[tuple[int, int]]:
        """Sends in order; (partition, offset) of each."""
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, acks="all", linger_ms=5)
        try:
            futures = [
                producer.send(
                    record.topic.name,
                    key=record.key,
                    value=record.value,
                    partition=partition_of(record.key or b"", PARTITIONS)
                    if record.partition is None
                    else record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
                for record in map(_placed, records)
            ]
            producer.flush()
            return [(done.partition, done.offset) for done in (future.get(30) for future in futures)]
        finally:
            producer.close()

    def read(
        self,
        topic: Topic,
        until: Callable[[list[Received]], bool] | None = None,
        isolation_level: str = "read_uncommitted",
    ) -> list[Received]:
        """Everything in the topic: up to its end as of now, or until the predicate holds."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap, enable_auto_commit=False, isolation_level=isolation_level
        )
        try:
            partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
            consumer.assign(partitions)
            consumer.seek_to_beginning()
            ends = consumer.end_offsets(partitions)
            received: list[Received] = []
            deadline = time.monotonic() + DEADLINE_S
            while True:
                for batch in consumer.poll(timeout_ms=200).values():
                    received += [Received(one.partition, one.offset, one.key, one.value) for one in batch]
                at_end = all(consumer.position(partition) >= ends[partition] for partition in partitions)
                if until(received) if until is not None else at_end:
                    return received
                failed = [
                    self.flink.why(job.job_id)
                    for job in self.flink.jobs()
                    if job.job_id in self.submitted and job.state == "FAILED"
                ]
                assert not failed, failed
                assert time.monotonic() < deadline, f"{topic.name}: {len(received)} records and no end"
        finally:
            consumer.close()
