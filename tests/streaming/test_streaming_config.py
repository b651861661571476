"""Configuration: the shipped files are the defaults, and an error names the file and the key."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.cli import main
from schemas.limits import Limits
from schemas.topics import UPDATES
from streaming.config import ConfigError, ExampleJobConfig, JobConfig, SequenceJobConfig, load_config


@pytest.mark.parametrize("config_type", [SequenceJobConfig, ExampleJobConfig])
def test_the_shipped_file_spells_out_the_defaults(config_type: type[JobConfig]) -> None:
    shipped = load_config(config_type, None)
    assert shipped == config_type()
    assert shipped.record_limits() == Limits()
    assert pickle.loads(pickle.dumps(shipped)) == shipped


def test_overrides_replace_single_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sequence: {capacity: 50}\n")
    config = load_config(
        SequenceJobConfig,
        path,
        ["sequence.generation=7", "kafka.bootstrap=h:1", "limits.max_id=9", "snapshot.jitter=0"],
    )
    assert (config.sequence.capacity, config.sequence.generation, config.kafka.bootstrap) == (50, 7, "h:1")
    assert config.record_limits().max_id == 9
    assert config.settings().kept_events == 4_050
    assert config.kafka.group_id == SequenceJobConfig().kafka.group_id


def test_label_rules() -> None:
    config = load_config(ExampleJobConfig, None, ["labels=[{task: touch}, {task: share, actions: [3, 4]}]"])
    rules = config.settings().labels
    assert [rule.task for rule in rules] == ["touch", "share"]
    assert [rule.matches(3) for rule in rules] == [True, True]
    assert [rule.matches(1) for rule in rules] == [True, False]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sequence: {capacty: 1}", "sequence.capacty"),
        ("sequence: {capacity: 0}", "sequence.capacity"),
        ("sequence: {capacity: 200000}", "sequence.capacity + sequence.as_of_events"),
        ("surprise: 1", "surprise"),
        ("limits: {max_id: many}", "limits.max_id"),
        (f"snapshot: {{max_age_ms: {UPDATES.retention_ms // 3 + 1}}}", "snapshot"),
        ("sink: {compression: rar}", "sink.compression"),
        ("- a list", "must be sections"),
        ("a: [", "not YAML"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(SequenceJobConfig, path)
    assert str(path) in str(error.value)
    assert key in str(error.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("labels: []", "labels"),
        ("labels: [{task: a}, {task: a}]", "twice"),
        ("sink: {transaction_timeout_ms: 600000}", "transaction_timeout_ms"),
    ],
)
def test_example_job_errors(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=key):
        load_config(ExampleJobConfig, path)


@pytest.mark.parametrize("override", ["capacity", "sequence.capacity.more=1", "sequence.capacity=[", "a.b=1"])
def test_overrides_that_cannot_be(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(SequenceJobConfig, None, [override])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(SequenceJobConfig, tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("job", "config_type", "override"),
    [
        ("sequence", SequenceJobConfig, "snapshot.jitter=0.25"),
        ("example", ExampleJobConfig, "labels=[{task: touch}, {task: share, actions: [4, 3]}]"),
    ],
)
def test_what_config_show_prints_is_accepted_again(
    job: str, config_type: type[JobConfig], override: str, tmp_path: Path
) -> None:
    words = ["config", "show", job, "--set", override, "--set", "kafka.properties.a=b"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    path = tmp_path / "shown.yaml"
    path.write_text(shown.output)
    assert load_config(config_type, path) == load_config(config_type, None, [override, "kafka.properties.a=b"])
    again = CliRunner().invoke(main, ["config", "show", job, "--config", str(path)])
    assert again.output == shown.output


def test_config_show_ends_with_one_line_on_a_mistake() -> None:
    shown = CliRunner().invoke(main, ["config", "show", "--set", "sequence.capacity=0"])
    assert shown.exit_code == 1
    assert "sequence.capacity" in shown.output
