"""The configuration files that the demo and the README name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from infra.demo.loop import EXAMPLE_CONFIG, RETRAIN_CONFIG, SEQUENCE_CONFIG, DemoSettings, Steps, run_loop
from infra.errors import InfraError
from infra.logs.gitlog import TASK, read_gitlog
from infra.logs.kuairand import TASK as KUAIRAND_TASK
from infra.retrain.settings import load_settings
from streaming.config import ExampleJobConfig, SequenceJobConfig, load_config

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("name", ["example_job.yaml", "kuairand_example_job.yaml"])
def test_both_jobs_of_a_replay_agree(name: str) -> None:
    sequence = load_config(SequenceJobConfig, SEQUENCE_CONFIG)
    example = load_config(ExampleJobConfig, EXAMPLE_CONFIG.with_name(name))
    # (Only the example job has topics to keep in step.)
    assert sequence.watermark.model_dump() == example.watermark.model_dump(exclude={"max_drift_ms"})
    assert sequence.limits == example.limits


def test_each_log_has_a_label_rule_and_a_model_for_its_task() -> None:
    for task, job, retrain in (
        (TASK, EXAMPLE_CONFIG, RETRAIN_CONFIG),
        (KUAIRAND_TASK, EXAMPLE_CONFIG.with_name("kuairand_example_job.yaml"), "kuairand_retrain.yaml"),
    ):
        assert [label.task for label in load_config(ExampleJobConfig, job).labels] == [task]
        assert load_settings(EXAMPLE_CONFIG.with_name(Path(retrain).name)).tasks == (task,)


def test_the_demo_refuses_a_log_that_it_has_no_labels_for(tmp_path: Path) -> None:
    log = replace(read_gitlog(DATA / "gitlog_small").head(0.01), task="play")
    with (
        pytest.raises(InfraError, match="task play"),
        run_loop(log, DemoSettings(home=tmp_path), Steps(Console(quiet=True))),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
