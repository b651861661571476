"""What a job costs that does nothing but what the example job does around its work: its sources, keying, batches and
sink, and a function between them that takes a batch apart and yields its records.

flink run infra/bench/examples/batched_passthrough_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pyflink.datastream import KeyedProcessFunction
from pyflink.table import StreamTableEnvironment

from schemas.topics import EXAMPLES
from streaming.config import ExampleJobConfig
from streaming.flink.batches import in_batches, split_records
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.example_function import TOPICS
from streaming.flink.internals import OutputRow
from streaming.flink.sinks import output_type, write
from streaming.flink.source import keyed_records


class BatchedPassThrough(KeyedProcessFunction):  # type: ignore[misc]
    """Every record's key and value as they came."""

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:  # noqa: ARG002
        """Flink's hook: one batch."""
        for _, key, body, *_ in split_records(value):
            yield OutputRow(key or b"", body or b"")


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(ExampleJobConfig, arguments, "Pass records through in batches.")
    environment = job_environment(config.job)
    records = keyed_records(StreamTableEnvironment.create(environment), TOPICS, config.kafka, config.watermark)
    batches = in_batches(records, config.batch, "batches")
    passed = batches.process(BatchedPassThrough(), output_type()).name("passed").uid("passed")
    write(passed, EXAMPLES, config.kafka, config.sink, "to-examples")
    environment.execute("longrank-examples-batched-passthrough")


if __name__ == "__main__":
    main(sys.argv[1:])
