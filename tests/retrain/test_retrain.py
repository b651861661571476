"""The nightly retrain from plan to report: what it makes, when it makes nothing, and what the next one goes on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from retrain_world import DAY_MS, MemorySource, Night, retrain, settings

from infra.errors import InfraError
from infra.retrain.outcome import LockedError, Outcome
from infra.retrain.runs import WorkDirectory
from scorer.landing.resolve import Resolver, UnresolvedError
from scorer.registry.registry import BundleError, Registry
from scorer.training.settings import TrainingSettings


def newest_run(work: Path) -> Path:
    return WorkDirectory(work).runs()[-1].path


def test_a_night_puts_a_better_model_in_service(the_night: Night) -> None:
    report = the_night.report
    assert report.outcome is Outcome.PROMOTED
    assert the_night.registry.current() == report.version
    assert report.metrics["touch.gauc"] > report.in_service["touch.gauc"]
    assert report.parity < 1e-5 < report.parity_bf16
    assert report.shadow["difference"] < 1e-5
    assert report.shadow["warm"] > 0
    assert list(report.seconds) == ["land", "resolve", "train", "evaluate", "export", "publish", "shadow", "promote"]
    manifest = the_night.registry.load(report.version).manifest
    assert (manifest.training.requests, manifest.training.parent) == (270, None)
    assert sum(end - first for first, end in manifest.training.offsets.values()) == 300
    assert json.loads((the_night.run / "report.json").read_text())["outcome"] == "promoted"


def test_the_page_needs_nothing_beside_it(the_night: Night) -> None:
    page = Path(the_night.report.page).read_text()
    assert page.count("<svg") == 3
    assert "src=" not in page
    assert 'href="http' not in page
    for what in ("promoted", "gAUC in service", "Labels by day", "stamps: ok", "Durations", "bfloat16", "p99_ms"):
        assert what in page


def test_what_names_users_goes_with_the_run(the_night: Night) -> None:
    assert {path.name for path in the_night.run.iterdir()} == {
        "plan.json",
        "stages.json",
        "landed.json",
        "resolved.json",
        "curve.csv",
        "evaluation.json",
        "shadow.json",
        "report.html",
        "report.json",
    }
    assert list((the_night.root / "registry" / "staging").iterdir()) == []


def test_without_new_requests_there_is_nothing_to_do(night: Night, source: MemorySource) -> None:
    report = retrain(source, night.registry, night.work).run(now_ms=source.now_ms)
    assert report.outcome is Outcome.TOO_LITTLE
    assert "is not after" in report.reasons[0]
    source.grow(requests_per_user=2)
    report = retrain(source, night.registry, night.work).run(now_ms=source.now_ms)
    assert (report.outcome, report.reasons) == (Outcome.TOO_LITTLE, ["50 requests, at least 100 are wanted"])
    assert night.registry.current() == night.report.version
    assert "50 requests" in (newest_run(night.work) / "report.html").read_text()


def test_the_gate_keeps_a_model_out_and_the_next_run_takes_the_same_requests(
    night: Night, source: MemorySource
) -> None:
    source.grow()
    strict = settings(gate={"min_gauc": 0.99, "label_window_requests": 50})
    report = retrain(source, night.registry, night.work, strict).run(now_ms=source.now_ms)
    assert report.outcome is Outcome.REFUSED
    assert any("below 0.99" in reason for reason in report.reasons)
    assert night.registry.versions() == ["untrained", night.report.version]
    run = newest_run(night.work)
    assert "below 0.99" in (run / "report.html").read_text()
    assert not (run / "dataset").exists()
    first = json.loads((run / "plan.json").read_text())
    source.grow()
    retrain(source, night.registry, night.work, strict).run(now_ms=source.now_ms)
    second = json.loads((newest_run(night.work) / "plan.json").read_text())
    assert [span[0] for span in second["offsets"].values()] == [span[0] for span in first["offsets"].values()]
    assert (second["from_ms"], second["cut_ms"]) == (first["from_ms"], first["cut_ms"] + DAY_MS)


def test_labels_that_stopped_coming_are_noticed_before_training(night: Night, source: MemorySource) -> None:
    source.grow(positive=0.05)
    report = retrain(source, night.registry, night.work).run(now_ms=source.now_ms)
    assert report.outcome is Outcome.REFUSED
    assert "of the days before" in report.reasons[0]
    assert list(report.seconds) == ["land", "resolve"]


def test_the_second_night_goes_on_and_shadow_can_keep_it_out(night: Night, source: MemorySource) -> None:
    source.grow()
    wary = settings(shadow={"requests": 10, "max_difference": 1e-12}, keep={"runs": 1, "bundles": 1, "rollbacks": 1})
    report = retrain(source, night.registry, night.work, wary).run(now_ms=source.now_ms)
    assert report.outcome is Outcome.REFUSED
    assert report.reasons[0].startswith("shadow: a score is")
    # Published, and not in service: what is stays, and so does where a rollback goes.
    assert night.registry.versions() == ["untrained", night.report.version, report.version]
    assert night.registry.current() == night.report.version
    manifest = night.registry.load(report.version).manifest
    before = night.registry.load(night.report.version).manifest
    assert manifest.training.parent == before.version
    assert {p: first for p, (first, _) in manifest.training.offsets.items()} == {
        p: end for p, (_, end) in before.training.offsets.items()
    }
    assert [path.name for path in (night.work / "runs").iterdir()] == [report.version]


def test_numbers_that_run_away_are_refused(registry: Registry, source: MemorySource, tmp_path: Path) -> None:
    wild = settings(training=TrainingSettings(epochs=1, learning_rate=1e30, table_learning_rate=1e30))
    report = retrain(source, registry, tmp_path / "work", wild).run(now_ms=source.now_ms)
    assert report.outcome is Outcome.REFUSED
    assert registry.versions() == ["untrained"]


def test_two_at_once_are_one(registry: Registry, source: MemorySource, tmp_path: Path) -> None:
    with (
        WorkDirectory(tmp_path / "work").locked(),
        pytest.raises(LockedError, match="another retrain is running, proc"),
    ):
        retrain(source, registry, tmp_path / "work").run(now_ms=source.now_ms)


class Broken(MemorySource):
    """Its sequences cannot be followed."""

    @contextmanager
    def histories(self) -> Iterator[Resolver]:
        raise ConnectionError("the broker went away")
        yield


@pytest.fixture
def broken_off(registry: Registry, source: MemorySource, tmp_path: Path) -> Path:
    """A work directory with a run that ended with an error after it had landed."""
    away = Broken()
    away.grow()
    with pytest.raises(ConnectionError):
        retrain(away, registry, tmp_path / "work").run(now_ms=source.now_ms)
    return tmp_path / "work"


def test_after_an_error_the_same_plan_goes_on(broken_off: Path, registry: Registry, source: MemorySource) -> None:
    begun = newest_run(broken_off)
    later = Broken()
    later.grow()
    with pytest.raises(ConnectionError):
        retrain(later, registry, broken_off).run(now_ms=source.now_ms + 60_000)
    assert newest_run(broken_off) == begun
    stages = json.loads((begun / "stages.json").read_text())
    assert (stages["attempts"], list(stages["seconds"])) == (2, ["land"])


@pytest.mark.parametrize(
    ("why", "told", "then"),
    [
        ("settings", "the settings are others", nullcontext()),
        ("time", "it began 24.0 h ago", pytest.raises(ConnectionError)),
        ("cut", "another cut is asked for", pytest.raises(ConnectionError)),
        ("service", "by_hand is in service now", pytest.raises(BundleError, match="no bundle by_hand")),
    ],
)
def test_what_no_longer_fits_is_given_up(
    why: str,
    told: str,
    then: AbstractContextManager[object],
    broken_off: Path,
    registry: Registry,
    source: MemorySource,
) -> None:
    """The run that takes its place ends early, for its own reasons."""
    begun = newest_run(broken_off)
    now_ms = source.now_ms + (DAY_MS if why == "time" else 60_000)
    cut_ms = source.now_ms - 1 if why == "cut" else None
    if why == "service":
        (registry.root / "current").unlink()
        (registry.root / "current").symlink_to(Path("bundles") / "by_hand")
    away = Broken()
    away.grow()
    again = retrain(away, registry, broken_off, settings(min_requests=10_000) if why == "settings" else settings())
    with then:
        again.run(now_ms=now_ms, cut_ms=cut_ms)
    report = json.loads((begun / "report.json").read_text())
    assert report["outcome"] == "abandoned"
    assert told in report["reasons"][0]
    assert not (begun / "examples.bin").exists()


def test_stamps_that_name_other_histories_are_an_error(
    registry: Registry, source: MemorySource, tmp_path: Path
) -> None:
    class Gone(MemorySource):
        @contextmanager
        def histories(self) -> Iterator[Resolver]:
            yield lambda user_id, stamp: "evicted"  # noqa: ARG005 - whoever asks

    gone = Gone()
    gone.grow()
    with pytest.raises(UnresolvedError, match="300 of 300 stamps"):
        retrain(gone, registry, tmp_path / "work").run(now_ms=source.now_ms)


def test_what_does_not_fit_says_what_to_do(night: Night, source: MemorySource, tmp_path: Path) -> None:
    source.grow(tasks=("touch", "like"))
    two = settings(tasks=("touch", "like"))
    with pytest.raises(
        InfraError, match=r"has the tasks touch, the settings say touch, like: start afresh with --cold"
    ):
        retrain(source, night.registry, night.work, two).run(now_ms=source.now_ms)
    source.topic_id = "t2"
    with pytest.raises(InfraError, match="is not the topic"):
        retrain(source, night.registry, tmp_path / "work").run(now_ms=source.now_ms)
    with pytest.raises(InfraError, match="bundle init"):
        retrain(source, Registry(tmp_path / "empty"), tmp_path / "work").run(now_ms=source.now_ms)


def test_weights_of_another_release_ask_for_a_cold_start(night: Night, source: MemorySource) -> None:
    source.grow()
    path = night.registry.root / "bundles" / night.report.version
    torch.save({"another": torch.zeros(1)}, path / "weights.pt")
    manifest = night.registry.manifest(night.report.version)
    files = manifest.files | {"weights.pt": sha256((path / "weights.pt").read_bytes()).hexdigest()}
    (path / "manifest.json").write_text(manifest.model_copy(update={"files": files}).model_dump_json())
    with pytest.raises(InfraError, match="do not fit the model of this release: start afresh with --cold"):
        retrain(source, night.registry, night.work).run(now_ms=source.now_ms)
    # What is in service is still what a cold start is measured against.
    strict = settings(gate={"min_gauc": 0.99, "label_window_requests": 50})
    report = retrain(source, night.registry, night.work, strict).run(now_ms=source.now_ms + 1_000, cold=True)
    assert (report.outcome, report.requests) == (Outcome.REFUSED, 600)
    assert report.in_service["touch.gauc"] > 0.5


def test_a_task_without_labels_is_told(registry: Registry, source: MemorySource, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="task like has 0 labels"):
        retrain(source, registry, tmp_path / "work", settings(tasks=("like",))).run(now_ms=source.now_ms)


def test_a_student_of_two_teachers_over_flat_batches_goes_on_from_the_model_in_service(
    night: Night, source: MemorySource
) -> None:
    """What runs on a GPU, on the CPU."""
    small = {"device": "cpu", "compiled": False, "distill": {"teachers": 2}}
    training = TrainingSettings(
        epochs=2, min_history=8, max_history=64, learning_rate=2e-3, step_tokens=600, step_requests=32, step_targets=400
    )
    source.grow()
    second = retrain(source, night.registry, night.work, settings(gpu=small, training=training)).run(
        now_ms=source.now_ms
    )
    assert second.outcome is Outcome.PROMOTED, second
    assert second.metrics["touch.gauc"] > night.report.metrics["touch.gauc"] - 0.05
    assert night.registry.load(second.version).manifest.training.parent == night.report.version
    assert not (newest_run(night.work) / "checkpoints").exists()


def test_a_gpu_that_is_not_there_is_told(registry: Registry, source: MemorySource, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InfraError, match="torch sees no CUDA device"):
        retrain(source, registry, tmp_path / "work", settings(gpu={})).run(now_ms=source.now_ms)
