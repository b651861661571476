"""One retrain, stage by stage: cut, resolve, train, gate, export, publish. Killed anywhere it can be run again.

Nothing but the last two stages changes what anybody sees, and each of them is atomic.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from infra.errors import InfraError
from infra.retrain.settings import RetrainSettings
from schemas.topics import EXAMPLES, PARTITIONS
from scorer.export import ParityCase, export_bundle, load_weights
from scorer.features import FeatureSettings
from scorer.landing.bounded import read_bounded
from scorer.landing.examples import ExampleCut, take_examples
from scorer.landing.resolve import build_dataset, store_resolver
from scorer.metrics import RankingMetrics
from scorer.model import STCA, model_settings
from scorer.registry.manifest import TrainingRange
from scorer.registry.registry import Bundle, Registry
from scorer.sequences.follower import follow_to_end
from scorer.sequences.store import SequenceStore
from scorer.training.dataset import RankingDataset
from scorer.training.evaluate import evaluate
from scorer.training.gate import judge
from scorer.training.train import CurvePoint, new_model, save_curve, set_base_rates, train

#: Real requests on which the exported graphs are compared with torch.
_PARITY_REQUESTS: Final = 16


@dataclass
class RetrainReport:
    """What a run did; kept as JSON beside the loss curve."""

    version: str = ""
    parent: str | None = None
    published: bool = False
    reasons: list[str] = field(default_factory=list)
    examples_read: int = 0
    requests: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    in_service: dict[str, float] = field(default_factory=dict)
    parity: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """One line for people and for alerting."""
        verdict = f"published {self.version}" if self.published else f"published nothing: {'; '.join(self.reasons)}"
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"retrain: {verdict}; {self.requests:,} requests, {figures or 'no metrics'}"


class Retrain:
    """One run. Stages note their seconds in the report."""

    def __init__(
        self,
        bootstrap: str,
        registry: Registry,
        work: Path,
        settings: RetrainSettings,
        console: Console,
        *,
        now_ms: int,
        cut_ms: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            work: the trainer's own store, the dataset, the reports; kept between runs.
            now_ms: wall clock, ms UTC; names the version.
            cut_ms: requests before it are taken; default `now_ms` less the settings' settle time.
        """
        self._bootstrap, self._registry, self._work, self._settings = bootstrap, registry, work, settings
        self._console, self._clock, self._now_ms = console, clock, now_ms
        self._cut_ms = now_ms - settings.settle_ms if cut_ms is None else cut_ms
        self.report = RetrainReport(version=f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_ms / 1000))}")

    def run(self) -> RetrainReport:
        """All stages.

        Raises:
            InfraError: another retrain runs, or there is no bundle in service to start from.
            UnresolvedError: training would see other histories than serving saw.
            ParityError: the graphs do not compute what the model computes.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        with _locked(self._work / "lock"):
            parent = self._parent()
            with self._stage("land"):
                cut = self._land(parent)
            with self._stage("resolve"):
                dataset = self._resolve(cut)
            self.report.requests = len(dataset)
            if len(dataset) < self._settings.min_requests:
                self.report.reasons.append(
                    f"{len(dataset)} requests, at least {self._settings.min_requests} are wanted"
                )
            else:
                self._learn(parent, cut, dataset)
            path = self._work / "runs" / self.report.version / "report.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(self.report), indent=2) + "\n")
        return self.report

    def _parent(self) -> Bundle:
        version = self._registry.current()
        if version is None:
            raise InfraError(
                f"{self._registry.root}: no bundle in service to start from; `longrank bundle init` makes one"
            )
        self.report.parent = version
        return self._registry.load(version)

    def _land(self, parent: Bundle) -> ExampleCut:
        trained = parent.manifest.training
        begin = {int(name.rpartition("/")[2]): end for name, (_, end) in trained.offsets.items()}
        with self._console.status("reading examples"):
            records = read_bounded(self._bootstrap, EXAMPLES.name, begin)
            cut = take_examples(records, begin, trained.cut_ms, self._cut_ms)
        self.report.examples_read = cut.read
        return cut

    def _resolve(self, cut: ExampleCut) -> RankingDataset:
        with self._console.status("following the sequences"), SequenceStore(self._work / "store") as store:
            follow_to_end(self._bootstrap, store, range(PARTITIONS))

            dataset, outcomes = build_dataset(
                cut.examples, store_resolver(store), self._settings.tasks, max_unresolved=self._settings.max_unresolved
            )
        self.report.outcomes = dict(outcomes)
        return dataset

    def _learn(self, parent: Bundle, cut: ExampleCut, dataset: RankingDataset) -> None:
        older, holdout = dataset.newest_part(self._settings.holdout_share)
        # A parent that was never trained is an initialisation, not a warm start.
        warm = bool(parent.manifest.training.requests)
        preset = parent.manifest.preset if warm else self._settings.preset
        features = FeatureSettings.model_validate(parent.manifest.features) if warm else self._settings.features
        model = new_model(model_settings(preset), features, self._settings.tasks, self._settings.training.seed)
        if warm:
            model.load_state_dict(load_weights(parent.path))
        else:
            set_base_rates(model, older)
        with self._stage("train"):
            curve = self._train(model, older)
        save_curve(curve, self._work_file("curve.csv"))
        with self._stage("gate"):
            metrics = evaluate(model, holdout)
            in_service = evaluate(_torch_model(parent), holdout)
            verdict = judge(metrics, in_service, self._settings.gate)
        self.report.metrics, self.report.in_service = _flat(metrics), _flat(in_service)
        if not verdict.passed:
            self.report.reasons.extend(verdict.reasons)
            return
        with self._stage("export"), self._registry.staging() as staged:
            manifest = export_bundle(
                model,
                staged,
                version=self.report.version,
                preset=preset,
                created_ms=self._now_ms,
                code_version=package_version("longrank"),
                max_history=self._settings.max_history,
                training=TrainingRange(
                    offsets={f"{EXAMPLES.name}/{p}": span for p, span in cut.offsets.items()},
                    from_ms=parent.manifest.training.cut_ms,
                    cut_ms=self._cut_ms,
                    requests=len(older),
                    parent=parent.manifest.version if warm else None,
                ),
                metrics=self.report.metrics,
                parity_cases=_parity_cases(holdout),
            )
            self.report.parity = manifest.tolerance.measured
            self._registry.publish(staged)
        self._registry.promote(self.report.version)
        self.report.published = True

    def _train(self, model: STCA, dataset: RankingDataset) -> list[CurvePoint]:
        columns = (
            TextColumn("train, loss {task.fields[loss]:.4f}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("train", total=None, loss=float("nan"))

            def on_step(point: CurvePoint, total: int) -> None:
                progress.update(bar, completed=point.step + 1, total=total, loss=point.loss)

            return train(model, dataset, self._settings.training, on_step)

    def _work_file(self, name: str) -> Path:
        directory = self._work / "runs" / self.report.version
        directory.mkdir(parents=True, exist_ok=True)
        return directory / name

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = self._clock()
        yield
        self.report.seconds[name] = round(self._clock() - started, 2)


def _torch_model(bundle: Bundle) -> STCA:
    manifest = bundle.manifest
    features = FeatureSettings.model_validate(manifest.features)
    model = new_model(model_settings(manifest.preset), features, manifest.tasks, 0)
    model.load_state_dict(load_weights(bundle.path))
    return model


def _flat(metrics: dict[str, RankingMetrics]) -> dict[str, float]:
    return {
        f"{task}.{name}": float(value) for task, of_task in metrics.items() for name, value in asdict(of_task).items()
    }


def _parity_cases(dataset: RankingDataset) -> list[ParityCase]:
    """Requests spread over the dataset."""
    cases = []
    for row in np.unique(np.linspace(0, len(dataset) - 1, _PARITY_REQUESTS).astype(int)).tolist():
        history = dataset.events[dataset.history_begin[row] : dataset.history_end[row]]
        span = slice(dataset.target_offsets[row], dataset.target_offsets[row + 1])
        cases.append(
            ParityCase(
                history=history,
                first_seq_no=int(dataset.seq_no[row]) - len(history) + 1,
                item_ids=dataset.target_item_id[span],
                group_ids=dataset.target_group_id[span],
                request_time_ms=int(dataset.request_time_ms[row]),
            )
        )
    return cases


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InfraError(f"{path}: another retrain is running") from error
        yield
