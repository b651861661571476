"""What a job costs that does nothing but what the sequence job does around its work: the source, keying, batches and
sinks of it, and a function between them that takes a batch apart and joins it again.

flink run infra/bench/sequence/batched_passthrough_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pyflink.datastream import KeyedProcessFunction
from pyflink.table import StreamTableEnvironment

from schemas.topics import EVENTS
from streaming.config import SequenceJobConfig
from streaming.flink.batches import join_rows, split_records
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.source import keyed_records
from streaming.sequence_job import follow


class BatchedPassThrough(KeyedProcessFunction):  # type: ignore[misc]
    """Every record's key and value as they came."""

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:  # noqa: ARG002
        """Flink's hook: one batch."""
        if value:
            yield join_rows((key or b"", body or b"") for _, key, body, *_ in split_records(value))


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(SequenceJobConfig, arguments, "Pass behaviour events through in batches.")
    environment = job_environment(config.job)
    events = keyed_records(StreamTableEnvironment.create(environment), (EVENTS,), config.kafka, config.watermark)
    follow(events, BatchedPassThrough(), config)
    environment.execute("longrank-batched-passthrough")


if __name__ == "__main__":
    main(sys.argv[1:])
