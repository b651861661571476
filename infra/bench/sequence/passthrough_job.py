"""What a job costs that does nothing, written as one writes PyFlink: the sequence job's source, keying and sinks, and
one Python function between them that takes a record and yields it.

flink run infra/bench/sequence/passthrough_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pyflink.common import Row
from pyflink.datastream import KeyedProcessFunction, StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, SNAPSHOTS, UPDATES
from streaming.config import SequenceJobConfig
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.internals import side_output
from streaming.flink.sequence_function import dead_letter_tag, snapshot_tag
from streaming.flink.sinks import output_type, write
from streaming.flink.source import keyed_records


class PassThrough(KeyedProcessFunction):  # type: ignore[misc]
    """Every record's key and value as they came."""

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[object]:  # noqa: ARG002
        """Flink's hook: one record."""
        _, key, body, *_ = value
        yield Row(key, body)


def build(environment: StreamExecutionEnvironment, config: SequenceJobConfig) -> None:
    """The graph of `streaming.sequence_job`, but for its batches, with the other function."""
    tables = StreamTableEnvironment.create(environment)
    events = keyed_records(tables, (EVENTS,), config.kafka, config.watermark)
    passed = events.process(PassThrough(), output_type()).name("passed").uid("passed")
    write(passed, UPDATES, config.kafka, config.sink, "to-updates")
    write(side_output(passed, snapshot_tag()), SNAPSHOTS, config.kafka, config.sink, "to-snapshots")
    letters = side_output(passed, dead_letter_tag())
    write(letters, DEAD_LETTER_TOPICS[EVENTS.name], config.kafka, config.sink, "to-dead-letters")


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(SequenceJobConfig, arguments, "Pass behaviour events through.")
    environment = job_environment(config.job)
    build(environment, config)
    environment.execute("longrank-passthrough")


if __name__ == "__main__":
    main(sys.argv[1:])
