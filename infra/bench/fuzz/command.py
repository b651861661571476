"""`longrank bench fuzz`: a million records of every kind of wrong into the sequence job."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from kafka import KafkaProducer
from rich.progress import Progress

from infra.bench.fuzz.account import Account, account
from infra.bench.fuzz.records import fuzzed_records
from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.flink_job import SequenceJob
from infra.progress import progress_bars
from infra.seed.publish import Span, spans, wait_applied
from infra.topics import apply_topics
from infra.unwind import unwind_when_told_to_end
from schemas.topics import DEAD_LETTER_TOPICS, EVENTS, SNAPSHOTS, UPDATES
from scorer.landing.bounded import read_bounded
from streaming.config import SequenceJobConfig, load_config

_SETTINGS = ["job.checkpoint_interval_ms=5000", "sequence.capacity=200", "sequence.as_of_events=50"]
_BATCH = 20_000


@click.command("fuzz")
@click.option("--records", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the records.")
def command(records: int, seed: int) -> None:
    """Send seeded noise, damaged and lying records to the sequence job of a cluster of its own; then account for every
    one: accepted, duplicate or dead letter with coordinates and the same bytes, and no restart of the job.

    Exits with 1 when one is missing or the job restarted; logs and topics are then kept.
    """
    unwind_when_told_to_end()
    home = Path(tempfile.mkdtemp(prefix="longrank-fuzz-"))
    well = False
    try:
        figures, found = _run(home, records, seed)
        well = found.balanced and figures["restarts"] == 0
    finally:
        if well:
            shutil.rmtree(home)
        else:
            click.echo(f"kept for a look: {home}", err=True)
    for mismatch in found.mismatches[:20]:
        click.echo(f"{mismatch.kind} {mismatch.where} user {mismatch.user_id}: {mismatch.detail}")
    click.echo(json.dumps({"bench": "fuzz", "figures": figures, "limits": {}, "ratios": {}}))
    sys.exit(0 if well else 1)


def _run(home: Path, records: int, seed: int) -> tuple[dict[str, Any], Account]:
    rules = load_config(SequenceJobConfig, None, _SETTINGS).settings()
    cluster = LocalCluster(home)
    try:
        info = cluster.up(UpOptions(taskmanagers=1))
        apply_topics(info.bootstrap, replay=True)
        job = SequenceJob(cluster, _SETTINGS)
        job.start(parallelism=1)
        started = time.perf_counter()
        with progress_bars() as progress:
            sent = _send(info.bootstrap, records, seed, progress)
            bar = progress.add_task("processed, offsets", total=sum(span.length for span in sent.values()))
            wait_applied(info.bootstrap, sent, lambda behind: progress.update(bar, completed=behind))
        seconds = time.perf_counter() - started
        restarts = job.rest.restarts(job.job_id)
        # Snapshots by age belong to the histories, too; after this nothing is written any more.
        job.stop()
        found = account(
            read_bounded(info.bootstrap, EVENTS.name),
            read_bounded(info.bootstrap, UPDATES.name),
            read_bounded(info.bootstrap, SNAPSHOTS.name),
            read_bounded(info.bootstrap, DEAD_LETTER_TOPICS[EVENTS.name].name),
            generation=rules.generation,
            dedupe_window=rules.dedupe_window_events,
            kept_events=rules.kept_events,
        )
    finally:
        cluster.down()
    figures = {
        "records": found.records,
        "accepted": found.accepted,
        "duplicates": found.duplicates,
        "erased": found.erased,
        "seed_parts": found.seed_parts,
        "seeded": found.seeded,
        "dead_letters": found.dead_letters,
        "by_reason": dict(sorted(found.by_reason.items())),
        "heartbeats": found.heartbeats,
        "missing": found.records
        - (found.accepted + found.duplicates + found.erased + found.seed_parts + found.dead_letters),
        "mismatches": len(found.mismatches),
        "restarts": restarts,
        "seconds": round(seconds, 1),
    }
    return figures, found


def _send(bootstrap: str, records: int, seed: int, progress: Progress) -> dict[int, Span]:
    bar = progress.add_task("sent, records", total=records)
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=20, batch_size=1 << 18, max_request_size=1 << 20
    )
    places: list[tuple[int, int]] = []
    try:
        futures: list[Any] = []
        for at, record in enumerate(fuzzed_records(records, seed), 1):
            futures.append(
                producer.send(
                    EVENTS.name,
                    key=record.key,
                    value=record.value,
                    partition=record.partition,
                    timestamp_ms=record.timestamp_ms,
                )
            )
            if at % _BATCH == 0 or at == records:
                producer.flush()
                places += [(done.partition, done.offset) for done in (future.get(30) for future in futures)]
                futures.clear()
                progress.update(bar, completed=at)
    finally:
        producer.close()
    return spans(places)
