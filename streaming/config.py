"""The jobs' configuration: one YAML file each, read by the client only; its content travels with the graph."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from schemas.history import EVENT_BYTES
from schemas.limits import Limits
from schemas.topics import EXAMPLE_JOB_GROUP, IMPRESSIONS, SEQUENCE_JOB_GROUP, SNAPSHOTS
from streaming.examples.join import ExampleSettings
from streaming.examples.labels import LabelRule
from streaming.sections import (
    BatchSection,
    DedupeSection,
    JobSection,
    KafkaSection,
    LabelSection,
    LimitsSection,
    Name,
    PositiveMilliseconds,
    Section,
    SequenceSection,
    SinkSection,
    SnapshotSection,
    StateSection,
    TransactionalSinkSection,
    WatermarkSection,
)
from streaming.sequence.step import SequenceSettings

#: Room for a snapshot's other fields and for the packing's own header.
_SNAPSHOT_SLACK_BYTES: Final = 1 << 10


class JobConfig(Section):
    """What both jobs have."""

    job: JobSection
    kafka: KafkaSection
    watermark: WatermarkSection = WatermarkSection()
    batch: BatchSection = BatchSection()
    limits: LimitsSection = LimitsSection()

    def record_limits(self) -> Limits:
        """The limits for the acceptance functions."""
        return Limits(**self.limits.model_dump())


class SequenceJobSection(JobSection):
    """The sequence job's own names."""

    name: Name = "longrank-sequence-job"


class SequenceKafkaSection(KafkaSection):
    """The sequence job's own names."""

    group_id: Name = SEQUENCE_JOB_GROUP


class SequenceJobConfig(JobConfig):
    """streaming/sequence_job.yaml."""

    job: SequenceJobSection = SequenceJobSection()
    kafka: SequenceKafkaSection = SequenceKafkaSection()
    sequence: SequenceSection = SequenceSection()
    dedupe: DedupeSection = DedupeSection()
    snapshot: SnapshotSection = SnapshotSection()
    state: StateSection = StateSection()
    sink: SinkSection = SinkSection()

    @model_validator(mode="after")
    def _snapshots_fit(self) -> Self:
        # Packing never makes a history larger than its rows, but need not make it smaller.
        most = (SNAPSHOTS.max_message_bytes - _SNAPSHOT_SLACK_BYTES) // EVENT_BYTES
        if self.sequence.capacity + self.sequence.as_of_events > most:
            raise ValueError(
                f"sequence.capacity + sequence.as_of_events exceed the {most} events of the largest snapshot"
            )
        return self

    def settings(self) -> SequenceSettings:
        """The rules for the step."""
        return SequenceSettings(
            generation=self.sequence.generation,
            capacity=self.sequence.capacity,
            as_of_events=self.sequence.as_of_events,
            dedupe_window_events=self.dedupe.window_events,
            snapshot_every_events=self.snapshot.every_events,
            snapshot_max_age_ms=self.snapshot.max_age_ms,
            snapshot_jitter=self.snapshot.jitter,
            snapshot_max_per_second=self.snapshot.max_per_second,
            chunk_events=self.state.chunk_events,
            chunk_version=self.state.write_version,
            max_seed_events=self.limits.max_seed_events,
            packing_version=self.snapshot.write_version,
        )


class ExampleJobSection(JobSection):
    """The example job's own names."""

    name: Name = "longrank-example-job"


class ExampleKafkaSection(KafkaSection):
    """The example job's own names."""

    group_id: Name = EXAMPLE_JOB_GROUP


class ExampleJobConfig(JobConfig):
    """streaming/example_job.yaml."""

    job: ExampleJobSection = ExampleJobSection()
    kafka: ExampleKafkaSection = ExampleKafkaSection()
    label_window_ms: PositiveMilliseconds = 600_000
    labels: Annotated[tuple[LabelSection, ...], Field(min_length=1)] = (LabelSection(task="touch"),)
    sink: TransactionalSinkSection = TransactionalSinkSection()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tasks = [label.task for label in self.labels]
        if len(set(tasks)) != len(tasks):
            raise ValueError(f"labels name a task twice: {', '.join(tasks)}")
        if self.sink.transaction_timeout_ms <= self.job.checkpoint_interval_ms + self.job.checkpoint_timeout_ms:
            raise ValueError(
                "sink.transaction_timeout_ms must exceed job.checkpoint_interval_ms + checkpoint_timeout_ms"
            )
        return self

    def settings(self) -> ExampleSettings:
        """The rules for the join."""
        return ExampleSettings(
            label_window_ms=self.label_window_ms,
            labels=tuple(
                LabelRule(task=label.task, actions=None if label.actions == "any" else frozenset(label.actions))
                for label in self.labels
            ),
            impressions_topic=IMPRESSIONS.name,
        )


C = TypeVar("C", bound=JobConfig)


class ConfigError(Exception):
    """A configuration that cannot be used; names the file and the key."""


def load_config(config_type: type[C], path: Path | None, overrides: Sequence[str] = ()) -> C:
    """The configuration in a YAML file, with single keys replaced.

    Args:
        path: None for the file shipped with the job.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value out of range; names file and key path.
    """
    shipped = {SequenceJobConfig: "sequence_job.yaml", ExampleJobConfig: "example_job.yaml"}
    name = str(path) if path else f"streaming/{shipped[config_type]}"
    try:
        text = path.read_text() if path else files("streaming").joinpath(shipped[config_type]).read_text()
        document = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {error}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: must be sections with keys, is a {type(document).__name__}")
    for override in overrides:
        _override(document, override)
    try:
        return config_type.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}" for problem in error.errors()
        )
        raise ConfigError(f"{name}: {problems}") from error


def effective_yaml(config: JobConfig) -> str:
    """Every key with its value, as YAML that `load_config` reads back to an equal configuration."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _override(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: write section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    *sections, key = path.split(".")
    place = document
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override}: {section} is not a section")
    place[key] = value
