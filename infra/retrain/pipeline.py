"""One retrain: a plan, then stage after stage, each of which leaves its output in the run's directory or the registry.

 1 land      the examples of the plan's offsets               6 publish   the bundle is in the registry, not in service
 2 resolve   their histories, byte for byte as served         7 shadow    it answers requests on the serving path
 3 train     from the weights in service, or afresh           8 promote   it is in service
 4 evaluate  both models on the newest requests; the gate       (report)  the page, and the run is over
 5 export    graphs, parity in three ways, a staged bundle

Killed anywhere it can be run again: it goes on behind the last finished stage of the same plan, and makes the same
bundle. Only `publish` and `promote` change what anybody else sees, each in one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from infra.errors import InfraError
from infra.retrain.collect import dataset_of, land, landed, resolve, resolved
from infra.retrain.evaluation import evaluate, evaluated
from infra.retrain.export import export
from infra.retrain.learn import learn, learnt
from infra.retrain.outcome import Outcome, RetrainReport, StoppedError
from infra.retrain.page import render
from infra.retrain.plan import Plan, draw_plan, why_not_go_on
from infra.retrain.runs import Run, WorkDirectory
from infra.retrain.settings import RetrainSettings
from infra.retrain.shadow import sample, serving, shadow, shadowed
from infra.retrain.source import Source
from scorer.registry.registry import Bundle, BundleError, Registry
from scorer.training.dataset import RankingDataset
from scorer.training.evaluate import predict
from scorer.training.gate import judge, judge_labels
from scorer.training.train import CurvePoint, OnStep


class Retrain:
    """Runs of one registry and one work directory."""

    def __init__(
        self,
        source: Source,
        registry: Registry,
        work: Path,
        settings: RetrainSettings,
        console: Console,
        *,
        clock: Callable[[], float] = time.perf_counter,
        on_step: OnStep | None = None,
    ) -> None:
        """
        Args:
            work: see `runs.py`; kept between runs.
            on_step: called after every step of training, beside the progress bar.
        """
        self._source, self._registry, self._settings = source, registry, settings
        self._work, self._console = WorkDirectory(work), console
        self._clock, self._on_step = clock, on_step

    def run(
        self, *, now_ms: int, cut_ms: int | None = None, cold: bool = False, accept_hole: bool = False
    ) -> RetrainReport:
        """Go on with the run that was broken off, or else make a new one.

        Args:
            now_ms: wall clock, ms UTC; names a new run's version.
            cut_ms: requests before it are taken; default `now_ms` less the settings' settle time.
            cold: from fresh weights and the oldest example that Kafka has.
            accept_hole: go on behind examples that Kafka deleted before a run took them.

        Raises:
            LockedError: another retrain is at work here.
            InfraError: there is no bundle in service to start from, or settings and bundle do not fit.
            BoundedReadError: Kafka does not have what the plan names.
            UnresolvedError: training would see other histories than serving saw.
        """
        with self._work.locked():
            run = self._broken_off(now_ms, cut_ms, cold=cold)
            if run is None:
                try:
                    run = self._begin(now_ms, cut_ms, cold=cold, accept_hole=accept_hole)
                except StoppedError as stopped:
                    return RetrainReport(
                        outcome=stopped.outcome, parent=self._registry.current(), reasons=list(stopped.reasons)
                    )
            run.count_attempt()
            try:
                self._go_through(run)
            except StoppedError as stopped:
                report = self._close(run, stopped.outcome, stopped.reasons)
            else:
                report = self._close(run, Outcome.PROMOTED, ())
            self._work.prune(self._settings.keep.runs)
            self._registry.prune(self._settings.keep.bundles, self._settings.keep.rollbacks)
        return report

    def _broken_off(self, now_ms: int, cut_ms: int | None, *, cold: bool) -> Run | None:
        """The run to go on with; those that cannot be gone on with are closed."""
        found: Run | None = None
        for run in (run for run in self._work.runs() if not run.over):
            why = why_not_go_on(
                run.plan,
                self._settings,
                in_service=self._registry.current(),
                now_ms=now_ms,
                cut_ms=cut_ms,
                cold=cold,
            )
            if why is None and found is not None:
                why = f"{found.plan.version} is"
            if why is None:
                found = run
            else:
                self._console.print(f"run {run.plan.version} is not gone on with: {why}", highlight=False)
                self._close(run, Outcome.ABANDONED, (f"not gone on with: {why}",))
        return found

    def _begin(self, now_ms: int, cut_ms: int | None, *, cold: bool, accept_hole: bool) -> Run:
        version = self._registry.current()
        if version is None:
            raise InfraError(
                f"{self._registry.root}: no bundle in service to start from; `longrank bundle init` makes one"
            )
        plan = draw_plan(
            self._registry.load(version),
            self._source.bounds(),
            self._settings,
            now_ms=now_ms,
            cut_ms=cut_ms,
            cold=cold,
            accept_hole=accept_hole,
        )
        if plan.version in self._registry.names():
            raise InfraError(f"{self._registry.root}: version {plan.version} is already published; run it again")
        return self._work.begin(plan)

    def _go_through(self, run: Run) -> None:
        """All stages that are not finished.

        Raises:
            StoppedError: the run ends here.
        """
        plan, settings = run.plan, _settings_of(run)
        parent = self._registry.load(plan.parent)
        self._stage(run, "land", lambda: land(run, self._source))
        _require_enough(landed(run).taken, settings)
        self._stage(run, "resolve", lambda: self._resolve(run))
        _require_enough(resolved(run).requests, settings)
        _require(judge_labels(resolved(run).labels, parent.manifest.training.labels, settings.gate).reasons)

        older, holdout = _split(dataset_of(run), settings.holdout_share)
        self._stage(run, "train", lambda: self._learn(run, parent, older))
        self._stage(run, "evaluate", lambda: self._evaluate(run, parent, holdout))
        measured = evaluated(run)
        new, old = ({task: of.of_task(task) for task in of.metrics} for of in (measured.candidate, measured.in_service))
        _require(judge(new, old, settings.gate).reasons)
        self._stage(run, "export", lambda: self._export(run, parent, holdout))
        self._stage(run, "publish", lambda: self._publish(plan))
        self._stage(run, "shadow", lambda: self._shadow(run, parent, holdout))
        _require(shadowed(run).reasons)
        self._stage(run, "promote", lambda: self._promote(plan))

    def _stage(self, run: Run, name: str, work: Callable[[], None]) -> None:
        if name in run.seconds:
            return
        started = self._clock()
        # Training has a bar of its own.
        with self._console.status(name) if name != "train" else nullcontext():
            work()
        run.note(name, round(self._clock() - started, 2))

    def _resolve(self, run: Run) -> None:
        settings = _settings_of(run)
        resolve(
            run,
            self._source,
            settings.tasks,
            max_unresolved=settings.max_unresolved,
            label_window_requests=settings.gate.label_window_requests,
        )

    def _learn(self, run: Run, parent: Bundle, older: RankingDataset) -> None:
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
                if self._on_step is not None:
                    self._on_step(point, total)

            learn(run, parent, _settings_of(run), older, on_step)

    def _evaluate(self, run: Run, parent: Bundle, holdout: RankingDataset) -> None:
        settings = _settings_of(run)
        evaluate(run, learnt(run, parent, settings), serving(parent, settings.shadow), holdout, settings.max_history)

    def _export(self, run: Run, parent: Bundle, holdout: RankingDataset) -> None:
        # Staged whole, it was killed before it was noted.
        if not self._registry.staged(run.plan.version).exists():
            settings = _settings_of(run)
            export(run, self._registry, parent, learnt(run, parent, settings), settings, holdout)

    def _publish(self, plan: Plan) -> None:
        staged = self._registry.staged(plan.version)
        if staged.exists():
            self._registry.publish(staged)
        else:
            # Killed before it was noted.
            self._registry.load(plan.version)

    def _shadow(self, run: Run, parent: Bundle, holdout: RankingDataset) -> None:
        settings = _settings_of(run)
        requests = sample(holdout, settings.shadow.requests)
        expected = predict(learnt(run, parent, settings), requests, settings.max_history)
        bundle = self._registry.load(run.plan.version)
        shadow(run, bundle, parent, requests, expected, settings.shadow, self._clock)

    def _promote(self, plan: Plan) -> None:
        if self._registry.current() == plan.version:
            # Killed before it was noted.
            return
        try:
            self._registry.promote(plan.version, instead_of=plan.parent)
        except BundleError as error:
            raise StoppedError(
                Outcome.REFUSED, f"promote: {error}; `longrank bundle promote` it if you want"
            ) from error

    def _close(self, run: Run, outcome: Outcome, reasons: tuple[str, ...]) -> RetrainReport:
        """Write page and report; the run is over."""
        report = self._report(run, outcome, reasons)
        if outcome is not Outcome.ABANDONED:
            page = render(run, report, self._registry.manifest(run.plan.parent))
            run.write("report.html", page)
            report.page = str(run.path / "report.html")
        self._registry.unstage(run.plan.version)
        run.close(report.as_json())
        return report

    def _report(self, run: Run, outcome: Outcome, reasons: tuple[str, ...]) -> RetrainReport:
        done = run.seconds
        report = RetrainReport(
            outcome=outcome,
            version=run.plan.version,
            parent=run.plan.parent,
            reasons=list(reasons),
            attempts=run.attempts,
            seconds=done,
        )
        if "land" in done:
            report.examples_read = landed(run).read
        if "resolve" in done:
            report.requests, report.outcomes = resolved(run).requests, resolved(run).outcomes
        if "evaluate" in done:
            report.metrics, report.in_service = evaluated(run).candidate.flat(), evaluated(run).in_service.flat()
        if run.plan.version in self._registry.names():
            tolerance = self._registry.manifest(run.plan.version).tolerance
            report.parity = tolerance.measured
            report.parity_bf16 = tolerance.bf16.measured if tolerance.bf16 else report.parity_bf16
        if "shadow" in done:
            report.shadow = shadowed(run).figures()
        return report


def _settings_of(run: Run) -> RetrainSettings:
    """Those that the run began with."""
    return RetrainSettings.model_validate(run.plan.settings)


def _require(reasons: tuple[str, ...]) -> None:
    if reasons:
        raise StoppedError(Outcome.REFUSED, *reasons)


def _require_enough(requests: int, settings: RetrainSettings) -> None:
    if requests < settings.min_requests:
        raise StoppedError(Outcome.TOO_LITTLE, f"{requests:,} requests, at least {settings.min_requests:,} are wanted")


def _split(dataset: RankingDataset, share: float) -> tuple[RankingDataset, RankingDataset]:
    try:
        return dataset.newest_part(share)
    except ValueError as error:
        raise StoppedError(Outcome.TOO_LITTLE, str(error)) from error
