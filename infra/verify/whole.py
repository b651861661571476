"""The checks of histories over whole topics that are in memory, all partitions together. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from infra.verify.findings import Findings
from infra.verify.histories import Histories
from infra.verify.records import by_partition
from infra.verify.snapshots import check_snapshots
from infra.verify.updates import check_missing_updates, check_updates
from schemas.topics import EVENTS
from scorer.landing.bounded import Landed


def check_histories(
    histories: Histories,
    events: Iterable[Landed],
    updates: Iterable[Landed],
    snapshots: Iterable[Landed],
    refused: Collection[tuple[str, int, int]],
    findings: Findings,
) -> None:
    """Rebuild the histories and compare what was written of them.

    Args:
        histories: empty; it has them afterwards.
        events: and the others: whole topics, each partition in order.
        refused: (topic, partition, offset) of the events that must not be accepted.
    """
    for partition, records in by_partition(events).items():
        offsets = {offset for topic, number, offset in refused if (topic, number) == (EVENTS.name, partition)}
        histories.add(partition, [records], offsets, findings)
    for partition, records in by_partition(updates).items():
        check_updates(histories, partition, [records], findings)
    check_missing_updates(histories, findings)
    for partition, records in by_partition(snapshots).items():
        check_snapshots(histories, partition, [records], findings)
