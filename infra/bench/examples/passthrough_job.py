"""What a job costs that does nothing, written as one writes PyFlink: the example job's sources, keying and sink, and
one Python function between them that takes a record and yields it.

flink run infra/bench/examples/passthrough_job.py --bootstrap localhost:9092
"""

from __future__ import annotations

import sys

from pyflink.table import StreamTableEnvironment

from infra.bench.sequence.passthrough_job import PassThrough
from schemas.topics import EXAMPLES
from streaming.config import ExampleJobConfig
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.example_function import TOPICS
from streaming.flink.sinks import output_type, write
from streaming.flink.source import keyed_records


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(ExampleJobConfig, arguments, "Pass responses, impressions and events through.")
    environment = job_environment(config.job)
    records = keyed_records(StreamTableEnvironment.create(environment), TOPICS, config.kafka, config.watermark)
    passed = records.process(PassThrough(), output_type()).name("passed").uid("passed")
    write(passed, EXAMPLES, config.kafka, config.sink, "to-examples")
    environment.execute("longrank-examples-passthrough")


if __name__ == "__main__":
    main(sys.argv[1:])
