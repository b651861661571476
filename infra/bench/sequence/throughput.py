"""Records per second through a job and through the jobs that do nothing, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from infra.bench.sequence.session import Session, Watch
from infra.errors import InfraError
from schemas.topics import EVENTS, UPDATES, Topic


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One run of one job. Records per second of wall clock, with one slot, and per CPU second of its TaskManager."""

    per_second: float
    per_cpu_second: float


def run_once(
    running: Session,
    job: Path,
    settings: Sequence[str],
    *,
    skip: int,
    count: int,
    inputs: Sequence[Topic] = (EVENTS,),
    output: Topic = UPDATES,
) -> Rate:
    """The rate over `count` records of the output after the first `skip`.

    Raises:
        InfraError: the job failed, or wrote nothing for a minute.
    """
    # Watched from before its start: the job is well under way when the client that submitted it has ended.
    with Watch(running, output) as watch:
        job_id = running.start(job, settings, topics=inputs)
        try:
            samples = watch.until(skip + count, lambda: running.flink.why(job_id))
        finally:
            running.flink.cancel(job_id)
    first = next(sample for sample in samples if sample.records >= samples[0].records + skip)
    last = samples[-1]
    records = last.records - first.records
    if last.time_s == first.time_s:
        raise InfraError(f"{count:,} records are too few to measure {job.stem}: it wrote them between two looks")
    return Rate(per_second=records / (last.time_s - first.time_s), per_cpu_second=records / (last.cpu_s - first.cpu_s))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A job and those that do nothing: one that works record by record, as PyFlink does by itself, and one with the
    batches of the job."""

    job: Path
    passthrough: Path
    batched_passthrough: Path


def alternate(
    jobs: Compared, run: Callable[[Path], Rate], *, rounds: int, tell: Callable[[str], object]
) -> dict[Path, list[Rate]]:
    """The rates that `run` finds, `rounds` of each job, taking turns; a first round warms up unseen."""
    rates: dict[Path, list[Rate]] = {jobs.passthrough: [], jobs.job: [], jobs.batched_passthrough: []}
    for number in range(rounds + 1):
        for job, found in rates.items():
            tell(f"throughput, round {number} of {rounds}: {job.stem}")
            rate = run(job)
            tell(f"  {rate.per_second:,.0f} records/s, {rate.per_cpu_second:,.0f} per CPU second")
            if number:
                found.append(rate)
    return rates


def compare(
    jobs: Compared, rates: Mapping[Path, Sequence[Rate]], what: str, of: str = ""
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Figures, limits and ratios of what `alternate` found; `of` ends their names.

    Args:
        what: the job counts, "events" or "records".
    """
    middle = medians(rates[jobs.job])
    figures: dict[str, Any] = {
        f"{what}_per_second{of}": middle.per_second,
        f"{what}_per_cpu_second{of}": middle.per_cpu_second,
        f"rounds{of}": {job.stem: [one.per_second for one in every] for job, every in rates.items()},
    }
    limits, ratios = {}, {}
    for name, job in (("passthrough", jobs.passthrough), ("batched_passthrough", jobs.batched_passthrough)):
        bound = medians(rates[job])
        limits[f"{name}_per_second{of}"] = bound.per_second
        limits[f"{name}_per_cpu_second{of}"] = bound.per_cpu_second
        ratios[f"job_to_{name}{of}"] = middle.per_second / bound.per_second
        ratios[f"job_to_{name}_per_cpu_second{of}"] = middle.per_cpu_second / bound.per_cpu_second
    return figures, limits, ratios


def medians(rates: Sequence[Rate]) -> Rate:
    """The middle of each figure."""
    return Rate(
        per_second=median(rate.per_second for rate in rates),
        per_cpu_second=median(rate.per_cpu_second for rate in rates),
    )
