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
from schemas.topics import EXAMPLE_JOB_GROUP, SEQUENCE_JOB_GROUP, SNAPSHOTS
from streaming.examples.labels import Task
from streaming.examples.settings import ExampleSettings, JoinLimits
from streaming.sections import (
    SHORT_VIDEO_LABELS,
    AlignedWatermarkSection,
    BatchSection,
    DedupeSection,
    JobSection,
    JoinLimitsSection,
    KafkaSection,
    LabelSection,
    LimitsSection,
    Milliseconds,
    Name,
    PendingSection,
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
    watermark: AlignedWatermarkSection = AlignedWatermarkSection()
    #: Of the tasks that have none of their own. The example is written when the longest window has closed.
    label_window_ms: PositiveMilliseconds = 600_000
    #: Feedback published later than the longest window, but at most so long after the request, revises the example.
    #: 0: nothing does.
    revision_window_ms: Milliseconds = 86_400_000
    #: Feedback that names no request belongs to the newest impression of its item that is at most so old when it is
    #: published. 0: to none.
    attribution_window_ms: Milliseconds = 600_000
    #: Write requests that were answered and not shown, too: with all candidates as targets, and no positions.
    emit_unshown: bool = False
    labels: Annotated[tuple[LabelSection, ...], Field(min_length=1)] = SHORT_VIDEO_LABELS
    join_limits: JoinLimitsSection = JoinLimitsSection()
    state: PendingSection = PendingSection()
    sink: TransactionalSinkSection = TransactionalSinkSection()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tasks = [label.task for label in self.labels]
        if len(set(tasks)) != len(tasks):
            raise ValueError(f"labels name a task twice: {', '.join(tasks)}")
        longest_ms = max(task.window_ms for task in self.tasks())
        if self.revision_window_ms and self.revision_window_ms <= longest_ms:
            raise ValueError(f"revision_window_ms must exceed the longest label window, {longest_ms} ms, or be 0")
        if self.sink.transaction_timeout_ms <= self.job.checkpoint_interval_ms + self.job.checkpoint_timeout_ms:
            raise ValueError(
                "sink.transaction_timeout_ms must exceed job.checkpoint_interval_ms + checkpoint_timeout_ms"
            )
        return self

    def tasks(self) -> tuple[Task, ...]:
        """The labels' rules."""
        return tuple(
            Task(
                name=label.task,
                rule=label.when.rule(),
                window_ms=label.window_ms or self.label_window_ms,
                weight=label.weight,
            )
            for label in self.labels
        )

    def settings(self) -> ExampleSettings:
        """The rules for the join."""
        return ExampleSettings(
            tasks=self.tasks(),
            revision_window_ms=self.revision_window_ms,
            attribution_window_ms=self.attribution_window_ms,
            emit_unshown=self.emit_unshown,
            limits=JoinLimits(**self.join_limits.model_dump()),
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
            f"{_line(text, problem['loc'])}{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ConfigError(f"{name}: {problems}") from error


def _line(text: str, place: Sequence[int | str]) -> str:
    """ "line n: " of the deepest part of `place` that the text has; nothing for what only a flag or a default says."""
    node, line = yaml.compose(text), ""
    for step in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(step)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = [(node.value[step], node.value[step])]
        else:
            found = []
        if not found:
            break
        mark, node = found[0]
        line = f"line {mark.start_mark.line + 1}: "
    return line


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
