"""A whole seeding: pack, publish, wait, account."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.progress import Progress

from infra.seed.publish import EventPublisher, refused_seeds, spans, wait_applied
from infra.seed.work import Packed, WorkDirectory
from schemas.limits import Limits
from schemas.topics import SEQUENCE_JOB_GROUP


@dataclass(frozen=True, kw_only=True)
class Seeding:
    """What to do."""

    directory: WorkDirectory
    bootstrap: str
    limits: Limits
    processes: int = 1
    wait: bool = True
    #: The sequence job's.
    group: str = SEQUENCE_JOB_GROUP


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What was done; seconds of wall clock from the beginning."""

    users: int
    events: int
    #: Older events that were left out, beyond the most that one user may bring.
    cut: int
    records: int
    bytes: int
    #: Shards of them that an earlier run had published.
    shards_before: int
    pack_seconds: float
    publish_seconds: float
    #: Until a checkpoint of the job held it; 0 when it was not waited for.
    apply_seconds: float
    #: Records that the job refused, with their places.
    refused: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def seed(seeding: Seeding, events: int, progress: Progress, clock: Callable[[], float] = time.perf_counter) -> Seeded:
    """Pack what is not packed, publish each shard as soon as it is, and wait until the job has applied all.

    Args:
        events: in the source, for the bar.

    Raises:
        SeedError: a history is not acceptable, or the job does not go on.
        KafkaError: a record was not taken.
    """
    directory, started = seeding.directory, clock()
    packing = progress.add_task("pack, events", total=events)
    publishing = progress.add_task("publish, shards", total=directory.plan.shards)
    places: list[tuple[int, int]] = []
    before = 0
    packed_at = started
    with EventPublisher(seeding.bootstrap) as publisher:

        def publish(shard: Packed) -> None:
            nonlocal before, packed_at
            packed_at = clock()
            progress.advance(packing, shard.events + shard.cut)
            placed = directory.published(shard.shard)
            if placed is None:
                placed = publisher.publish(directory.records(shard.shard), directory.plan.now_ms)
                directory.mark_published(shard.shard, placed)
            else:
                before += 1
            places.extend((partition, offset) for partition, span in placed.items() for offset in span)
            progress.advance(publishing)

        packed = directory.pack(seeding.limits, seeding.processes, publish)
        published_at = applied_at = clock()
        published = spans(places)
        refused: list[str] = []
        if seeding.wait and published:
            bar = progress.add_task("apply, offsets", total=sum(span.length for span in published.values()))
            wait_applied(
                seeding.bootstrap,
                published,
                lambda behind: progress.update(bar, completed=behind),
                nudge=lambda: publisher.nudge(published, directory.plan.now_ms),
                group=seeding.group,
            )
            applied_at = clock()
            refused = refused_seeds(seeding.bootstrap, published)
    return Seeded(
        users=sum(shard.users for shard in packed),
        events=sum(shard.events for shard in packed),
        cut=sum(shard.cut for shard in packed),
        records=sum(shard.records for shard in packed),
        bytes=sum(shard.bytes for shard in packed),
        shards_before=before,
        pack_seconds=packed_at - started,
        publish_seconds=published_at - started,
        apply_seconds=applied_at - started if seeding.wait else 0.0,
        refused=refused,
    )
