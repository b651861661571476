"""Responses, impressions and feedback to training examples: one per request that was shown, when its label time has
come.

    flink run streaming/example_job.py --config my.yaml --bootstrap localhost:9092
"""

from __future__ import annotations

import sys
from typing import Final

from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from schemas.topics import DEAD_LETTER_TOPICS, EXAMPLES, IMPRESSIONS, LATE_FEEDBACK, RESPONSES
from streaming.config import ExampleJobConfig
from streaming.flink.batches import in_batches
from streaming.flink.environment import job_environment, parse_arguments
from streaming.flink.example_function import TOPICS, ExampleFunction, dead_letter_tag, late_feedback_tag
from streaming.flink.internals import side_output
from streaming.flink.sinks import output_type, write
from streaming.flink.source import keyed_records
from streaming.sections import SinkSection

#: The topics keep step by their watermarks, and what runs ahead of the others waits in the state; Flink's default is
#: 200 ms, in which a replay reads 400 s of event time.
_WATERMARK_EVERY_MS: Final = 50


def build(environment: StreamExecutionEnvironment, config: ExampleJobConfig) -> None:
    """Adds the job's graph to the environment."""
    environment.get_config().set_auto_watermark_interval(_WATERMARK_EVERY_MS)
    tables = StreamTableEnvironment.create(environment)
    records = keyed_records(tables, TOPICS, config.kafka, config.watermark)
    examples = (
        in_batches(records, config.batch, "batches", tell_watermarks=True)
        .process(ExampleFunction(config.settings(), config.record_limits(), config.state), output_type())
        .name("examples")
        .uid("examples")
    )
    # A dead letter or late feedback twice is harmless, and it need not wait for a checkpoint.
    plain = SinkSection(linger_ms=config.sink.linger_ms, compression=config.sink.compression)
    for topic in (RESPONSES, IMPRESSIONS):
        letters = side_output(examples, dead_letter_tag(topic))
        write(letters, DEAD_LETTER_TOPICS[topic.name], config.kafka, plain, f"to-dead-letters-of-{topic.name}")
    late = side_output(examples, late_feedback_tag())
    write(late, LATE_FEEDBACK, config.kafka, plain, "to-late-feedback")
    write(examples, EXAMPLES, config.kafka, config.sink, "to-examples")


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(ExampleJobConfig, arguments, "Join what was shown with the feedback to it.")
    environment = job_environment(config.job)
    build(environment, config)
    environment.execute(config.job.name)


if __name__ == "__main__":
    main(sys.argv[1:])
