"""Behaviour events to numbered sequences: one update per accepted event, a whole snapshot now and then.

flink run streaming/sequence_job.py --config my.yaml --bootstrap localhost:9092
"""

from __future__ import annotations

import sys

from pyflink.datastream import DataStream, KeyedProcessFunction, KeyedStream, StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, SNAPSHOTS, UPDATES
from streaming.config import ConfigError, SequenceJobConfig
from streaming.flink.batches import batch_type, in_batches, rows_of_batches
from streaming.flink.environment import end, job_environment, parse_arguments
from streaming.flink.generation import check_generation
from streaming.flink.internals import side_output
from streaming.flink.sequence_function import SequenceFunction, dead_letter_tag, snapshot_tag
from streaming.flink.sinks import write
from streaming.flink.source import keyed_records


def build(environment: StreamExecutionEnvironment, config: SequenceJobConfig) -> None:
    """Adds the job's graph to the environment."""
    tables = StreamTableEnvironment.create(environment)
    events = keyed_records(tables, (EVENTS,), config.kafka, config.watermark)
    function = SequenceFunction(config.settings(), config.record_limits(), config.state.cached_users)
    follow(events, function, config)


def follow(events: KeyedStream, function: KeyedProcessFunction, config: SequenceJobConfig) -> None:
    """The graph behind the source: batches, the function, and its outputs to their topics."""
    batches = in_batches(events, config.batch, "batches")
    sequences = batches.process(function, batch_type()).name("sequences").uid("sequences")
    write_outputs(sequences, rows_of_batches(sequences, "updates"), config)


def write_outputs(sequences: DataStream, updates: DataStream, config: SequenceJobConfig) -> None:
    """Updates, and what the function emits on the side, to their topics."""
    snapshots = side_output(sequences, snapshot_tag())
    dead_letters = side_output(sequences, dead_letter_tag())
    write(updates, UPDATES, config.kafka, config.sink, "to-updates")
    write(snapshots, SNAPSHOTS, config.kafka, config.sink, "to-snapshots")
    write(dead_letters, DEAD_LETTER_TOPICS[EVENTS.name], config.kafka, config.sink, "to-dead-letters")


def main(arguments: list[str]) -> None:
    """The job's entry point."""
    config = parse_arguments(SequenceJobConfig, arguments, "Number behaviour events into sequences.")
    environment = job_environment(config.job)
    if config.sequence.check_generation:
        try:
            check_generation(config.sequence.generation, environment, config.kafka)
        except ConfigError as error:
            end(str(error))
    build(environment, config)
    environment.execute(config.job.name)


if __name__ == "__main__":
    main(sys.argv[1:])
