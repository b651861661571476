"""What a job costs that does nothing, written as one writes PyFlink: the sequence job's source, keying and sinks, and
one Python function between them that takes a record and yields it.

flink run infra/bench/sequence/passthrough_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pyflink.common import Row
from pyflink.datastream import KeyedProcessFunction
from pyflink.table import StreamTableEnvironment

from schemas.topics import EVENTS
from streaming.config import SequenceJobConfig
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.sinks import output_type
from streaming.flink.source import keyed_records
from streaming.sequence_job import write_outputs


class PassThrough(KeyedProcessFunction):  # type: ignore[misc]
    """Every record's key and value as they came."""

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[object]:  # noqa: ARG002
        """Flink's hook: one record."""
        _, key, body, *_ = value
        yield Row(key, body)


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(SequenceJobConfig, arguments, "Pass behaviour events through.")
    environment = job_environment(config.job)
    events = keyed_records(StreamTableEnvironment.create(environment), (EVENTS,), config.kafka, config.watermark)
    passed = events.process(PassThrough(), output_type()).name("passed").uid("passed")
    write_outputs(passed, passed, config)
    environment.execute("longrank-passthrough")


if __name__ == "__main__":
    main(sys.argv[1:])
