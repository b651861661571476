"""The execution environment both jobs run in, and their command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment

from streaming.config import ConfigError, JobConfig, load_config
from streaming.sections import JobSection

C = TypeVar("C", bound=JobConfig)

#: The broker where neither flag nor file should say it; the `flink` launcher sets it for a local cluster.
BOOTSTRAP_VARIABLE: Final = "LONGRANK_BOOTSTRAP"


def job_environment(job: JobSection) -> StreamExecutionEnvironment:
    """Thread mode, RocksDB, exactly-once checkpoints kept on cancellation, no generated uids."""
    settings = {
        # Never changed for a job with state: a savepoint of the other mode restores empty.
        "python.execution-mode": "thread",
        "state.backend.type": "rocksdb",
        # The state's size as a metric of every operator that has any.
        "state.backend.rocksdb.metrics.estimate-live-data-size": "true",
        "state.backend.rocksdb.metrics.estimate-num-keys": "true",
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.interval": f"{job.checkpoint_interval_ms} ms",
        "execution.checkpointing.timeout": f"{job.checkpoint_timeout_ms} ms",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": f"{job.restart_max_delay_ms} ms",
        "restart-strategy.exponential-delay.backoff-multiplier": "2.0",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": str(job.restart_attempts),
        # Flink's default is an hour: a rolling upgrade of a few TaskManagers within it would end the job.
        "restart-strategy.exponential-delay.reset-backoff-threshold": f"{job.restart_calm_ms} ms",
        "execution.buffer-timeout.interval": f"{job.buffer_timeout_ms} ms",
        "pipeline.max-parallelism": str(job.max_parallelism),
        "pipeline.auto-generate-uids": "false",
        # Rows are never changed after they were emitted.
        "pipeline.object-reuse": "true",
    }
    configuration = Configuration()
    for key, value in settings.items():
        configuration.set_string(key, value)
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    if job.parallelism is not None:
        environment.set_parallelism(job.parallelism)
    return environment


def parse_arguments(config_type: type[C], arguments: Sequence[str], description: str) -> C:
    """The configuration that a job's command line names. Ends the program with one line when it cannot be used."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, help="YAML file; the shipped one when not given")
    parser.add_argument(
        "--bootstrap", help=f"Kafka's host:port; else ${BOOTSTRAP_VARIABLE}, else kafka.bootstrap of the file"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replaces one key: a.b=value")
    parsed = parser.parse_args(arguments)
    bootstrap = parsed.bootstrap or os.environ.get(BOOTSTRAP_VARIABLE)
    overrides = [*parsed.set, *([f"kafka.bootstrap={bootstrap}"] if bootstrap else [])]
    try:
        return load_config(config_type, parsed.config, overrides)
    except ConfigError as error:
        end(str(error))


def end(message: str) -> NoReturn:
    """Ends the program with one line: what the job was asked for cannot be done."""
    sys.stderr.write(f"{message}\n")
    raise SystemExit(2)
