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
from streaming.examples.pending import Given


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


def labels_of(rules: str, *feedback: Given) -> list[bool]:
    config = load_config(ExampleJobConfig, None, [f"labels={rules}"])
    return [task.rule.holds(feedback) for task in config.settings().tasks]


def watched(watch_ms: int, duration_ms: int = -1, action: int = 2) -> Given:
    return Given(0, b"", 0, 0, 0, 1, action, watch_ms, duration_ms, -1, -1, "")


def test_label_rules() -> None:
    rules = "[{task: touch}, {task: share, when: {actions: [3, 4]}}]"
    assert labels_of(rules, watched(-1, action=3)) == [True, True]
    assert labels_of(rules, watched(-1, action=1)) == [True, False]
    assert labels_of(rules) == [False, False]


def test_watch_rules() -> None:
    rules = """[{task: long, when: {watch_ms: {at_least: 500}}}, {task: short, when: {watch_ms: {below: 500}}},
        {task: most, when: {watch_fraction: {at_least: 0.9}}}, {task: little, when: {watch_fraction: {below: 0.9}}}]"""
    assert labels_of(rules) == [False] * 4
    assert labels_of(rules, watched(500, 1_000)) == [True, False, False, True]
    assert labels_of(rules, watched(499, 1_000), watched(900, 1_000)) == [True, False, True, False]
    assert labels_of(rules, watched(0, 0)) == [False, True, False, False]
    assert labels_of(rules, watched(-1, 1_000)) == [False] * 4


def test_rules_of_rules() -> None:
    rules = """[{task: both, when: {all: [{actions: [1]}, {actions: [2]}]}}, {task: one, when: {any: [{actions: [1]},
        {actions: [2]}]}}, {task: none, when: {not: {any: [{actions: [1]}, {actions: [2]}]}}}]"""
    assert labels_of(rules, watched(-1, action=1), watched(-1, action=2)) == [True, True, False]
    assert labels_of(rules, watched(-1, action=1)) == [False, True, False]
    assert labels_of(rules, watched(-1, action=9)) == [False, False, True]
    assert labels_of(rules) == [False, False, True]


def test_the_shipped_labels() -> None:
    config = load_config(ExampleJobConfig, None)
    assert [task.name for task in config.tasks()] == ["finish", "skip", "like"]
    finish, skip, like = (task.rule.holds for task in config.tasks())
    for seen, wanted in (
        ([watched(950, 1_000)], (True, False, False)),
        ([watched(949, 1_000)], (False, True, False)),
        ([watched(3_000, 9_000), watched(-1, -1, action=3)], (False, False, True)),
        ([watched(100, 9_000), watched(9_000, 9_000)], (True, False, False)),
        ([], (False, False, False)),
    ):
        assert (finish(seen), skip(seen), like(seen)) == wanted, seen


def test_windows_and_weights_of_tasks() -> None:
    labels = "labels=[{task: a, window_ms: 50, weight: 0.5}, {task: b}]"
    config = load_config(ExampleJobConfig, None, [labels, "label_window_ms=70", "revision_window_ms=71"])
    assert [(task.window_ms, task.weight) for task in config.tasks()] == [(50, 0.5), (70, 1.0)]
    assert (config.settings().label_window_ms, config.settings().kept_ms) == (70, 71)


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
        (
            "labels:\n- task: a\n- task: b\n  when:\n    watch_ms: {above: 3}",
            r"line 5: labels\.1\.when\.watch_ms\.above",
        ),
        (
            "labels:\n- task: a\n  when: {all: [{actions: any}, {actions: [x]}]}",
            r"line 3: labels\.0\.when\.all\.1\.actions",
        ),
        ("labels:\n- task: a\n  when: {}", r"line 3: labels\.0\.when: .* exactly one of .* given: none"),
        ("labels:\n- task: a\n  when: {actions: any, not: {actions: any}}", r"given: actions, not"),
        ("labels:\n- task: a\n  when: {watch_ms: {at_least: 1, below: 2}}", r"line 3: .*either at_least or below"),
        ("labels:\n- task: a\n  weight: 0", r"line 3: labels\.0\.weight"),
        ("revision_window_ms: 600000", r"exceed the longest label window, 600000 ms"),
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
        ("example", ExampleJobConfig, "labels=[{task: touch}, {task: share, when: {not: {actions: [4, 3]}}}]"),
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
