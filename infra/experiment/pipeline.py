"""The stages of an experiment: each leaves its output below one directory, and does only what is missing there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from infra.errors import InfraError
from infra.experiment.prepare import EVENTS, REQUESTS, LogFormatError, read_log
from infra.progress import progress_bars
from scorer.experiment.arrays import LogArrays
from scorer.experiment.features import HistoryFeatures
from scorer.experiment.plan import ExperimentPlan, mapping_of
from scorer.experiment.run import train_and_score
from scorer.experiment.store import PARTS, ScoreStore

STAGES: Final = ("prepare", "boosting", "train", "report")
_SOURCE: Final = "source.json"


class Experiment:
    """One plan over one log; everything it makes is below `out`.

    Raises:
        InfraError: what a person can put right.
    """

    def __init__(self, plan: ExperimentPlan, source: Path | None, out: Path, console: Console) -> None:
        self.plan, self.out, self._source, self._console = plan, out, source, console
        self.arrays = out / "arrays"
        self.plan_file = out / "plan.json"
        self._log: LogArrays | None = None

    def prepare(self) -> LogArrays:
        """The log's arrays, written unless they are there; and the plan for the machine that trains."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.plan_file.write_text(json.dumps(mapping_of(self.plan), indent=1) + "\n")
        self._log = prepare(self._source, self.arrays)
        return self._log

    def boosting(self) -> None:
        """Fits and scores what is boosted, as far as scores are missing."""
        log, store = self._opened()
        jobs = [run for name in self.plan.boosting for run in store.runs(name) if store.missing(run)]
        if not jobs:
            return
        try:
            from infra.experiment.boosting import fit, predict
        except ImportError as error:
            raise InfraError(f"boosting: {error}; pip install 'longrank[experiment]'") from error
        features = HistoryFeatures(log)
        with progress_bars("requests", self._console) as bars:
            for run in jobs:
                plan = self.plan.boosting[run.name]
                store.keep_beside(run, "settings", mapping_of(plan))
                missing = store.missing(run)
                # The longest first: it is the one that is asked for.
                for length in sorted({length for _, length in missing}, reverse=True):
                    parts = [part for part, of_length in missing if of_length == length]
                    total = sum(len(store.requests(part)) for part in parts)
                    bar = bars.add_task(f"{run.name}, seed {run.seed}, {length:,} events", total=total)
                    model = fit(features, log, store.requests("train"), plan, length, run.seed)
                    for part in parts:
                        advance = partial(bars.advance, bar)
                        scores = predict(model, features, store.requests(part), plan, length, advance)
                        store.save(run, part, length, scores)

    def train(self, device: str, only: tuple[str, ...] = ()) -> None:
        """Trains and scores the neural models, as far as scores are missing; what `scorer.experiment.run` does."""
        log, store = self._opened()
        if device == "cuda" and not torch.cuda.is_available():
            raise InfraError(
                f"train: there is no GPU here; run it where there is one: python -m scorer.experiment.run "
                f"--arrays {self.arrays} --config {self.plan_file} --out {self.out}, or --device cpu"
            )
        tasks: dict[str, Any] = {}
        with progress_bars(console=self._console) as bars:

            def on_progress(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done, total=total)

            try:
                train_and_score(log, self.plan, store, torch.device(device), on_progress, only)
            except ValueError as error:
                raise InfraError(f"train: {error}") from error

    def opened(self) -> tuple[LogArrays, ScoreStore]:
        """The arrays and the scores, for the report."""
        return self._opened()

    def _opened(self) -> tuple[LogArrays, ScoreStore]:
        if self._log is None:
            try:
                self._log = LogArrays.load(self.arrays)
            except (OSError, ValueError) as error:
                raise InfraError(f"{error}; run the stage prepare") from error
        store = ScoreStore(self.out, self.plan, self._log, self.arrays)
        empty = [part for part in ("train", *PARTS) if not len(store.requests(part))]
        if empty:
            first, last = (_day(self._log.request_time_ms[at]) for at in (0, -1)) if len(self._log) else ("-", "-")
            raise InfraError(f"no requests in {', '.join(empty)}; the log's are from {first} to {last}")
        return self._log, store


def prepare(source: Path | None, arrays: Path) -> LogArrays:
    """Reads the log in `source` into `arrays`, unless they come from these very files; without a source loads them.

    Raises:
        InfraError: the log is not as its format says, or there is neither a log nor arrays.
    """
    try:
        if source is None:
            return LogArrays.load(arrays)
        stamp = {name: _stamp(source / name) for name in (EVENTS, REQUESTS)}
        beside = arrays / _SOURCE
        if beside.is_file() and json.loads(beside.read_text()) == stamp:
            return LogArrays.load(arrays)
        log = read_log(source)
        beside.unlink(missing_ok=True)
        log.save(arrays)
        beside.write_text(json.dumps(stamp) + "\n")
        return log
    except (LogFormatError, OSError) as error:
        remedy = "" if source is not None else "; name a log: in the configuration or with --log"
        raise InfraError(f"prepare: {error}{remedy}") from error


def _stamp(path: Path) -> list[int]:
    if not path.is_file():
        raise LogFormatError(f"{path}: no such file; a log is a directory with {EVENTS} and {REQUESTS}")
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _day(time_ms: int) -> str:
    return str(np.datetime64(int(time_ms), "ms").astype("datetime64[D]"))
