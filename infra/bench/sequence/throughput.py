"""Events per second through the sequence job and through the jobs that do nothing, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from infra.bench.sequence.session import BATCHED_PASSTHROUGH_JOB, PASSTHROUGH_JOB, SEQUENCE_JOB, Session, Watch
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


def alternate(
    running: Session,
    settings: Sequence[str],
    *,
    rounds: int,
    skip: int,
    count: int,
    tell: Callable[[str], object],
) -> dict[Path, list[Rate]]:
    """Of the sequence job and of both pass-throughs the rates, `rounds` each, taking turns; a first round warms up
    unseen."""
    rates: dict[Path, list[Rate]] = {PASSTHROUGH_JOB: [], SEQUENCE_JOB: [], BATCHED_PASSTHROUGH_JOB: []}
    for number in range(rounds + 1):
        for job, found in rates.items():
            tell(f"throughput, round {number} of {rounds}: {job.stem}")
            rate = run_once(running, job, settings, skip=skip, count=count)
            tell(f"  {rate.per_second:,.0f} records/s, {rate.per_cpu_second:,.0f} per CPU second")
            if number:
                found.append(rate)
    return rates


def medians(rates: Sequence[Rate]) -> Rate:
    """The middle of each figure."""
    return Rate(
        per_second=median(rate.per_second for rate in rates),
        per_cpu_second=median(rate.per_cpu_second for rate in rates),
    )
