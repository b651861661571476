"""All checks of some users of one partition. Pure: records in, findings out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from infra.verify.anchors import find_anchors, first_source
from infra.verify.examples import ExampleCheck
from infra.verify.findings import Findings
from infra.verify.freshness import Freshness
from infra.verify.histories import Histories
from infra.verify.late import check_late_feedback
from infra.verify.records import Batches, Place, Slice
from infra.verify.responses import check_responses
from infra.verify.rules import ExampleRules
from infra.verify.selection import Selection
from infra.verify.snapshots import check_snapshots
from infra.verify.stamps import Resolver
from infra.verify.updates import check_missing_updates, check_updates
from schemas.topics import EVENTS, EXAMPLES, IMPRESSIONS, LATE_FEEDBACK, REQUESTS, RESPONSES, SNAPSHOTS, UPDATES, Topic
from schemas.v1.operations_pb2 import Heartbeat

#: Reads what a topic holds of the partition.
Read: TypeAlias = Callable[[Topic], Batches]
#: topic -> offset -> reason of a partition's dead letters.
Letters: TypeAlias = Mapping[str, Mapping[int, str]]

#: What the rebuild of the histories counts.
EVENT_COUNTS: Final = ("records", "accepted", "duplicates", "refused", "erased", "seeded", "late", "undecided")


class Begin(NamedTuple):
    """The first record that a partition still holds."""

    offset: int
    time_ms: int


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the records are checked by."""

    generation: int
    dedupe_window: int
    #: Newest events of a history that the job keeps, and that the scorer uses.
    kept_events: int
    serving_length: int
    rules: ExampleRules


@dataclass(kw_only=True)
class Totals:
    """Over all slices."""

    findings: Findings = field(default_factory=Findings)
    events: Counter[str] = field(default_factory=Counter)
    freshness: Freshness = field(default_factory=Freshness)
    #: partition -> time of the newest heartbeat.
    heartbeats: dict[int, int] = field(default_factory=dict)


def check_slice(
    partition: int,
    read: Read,
    contract: Contract,
    totals: Totals,
    *,
    letters: Letters,
    users: Slice = Slice(),  # noqa: B008 - immutable
    selection: Selection = Selection(),  # noqa: B008 - immutable
    resolve: Resolver | None = None,
    begins: Mapping[str, Begin] | None = None,
) -> None:
    """Rebuild the histories of these users and check everything that names them.

    Args:
        begins: topic -> the partition's first record, where retention has eaten earlier ones.
    """
    findings, begins = totals.findings, begins or {}

    def records(topic: Topic) -> Batches:
        return users.filter(selection.filter(read(topic)))

    begin, anchors, updates_from = begins.get(EVENTS.name), None, 0
    if begin is not None:
        anchors = find_anchors(records(UPDATES), begin.offset, contract.dedupe_window)
    if begin is not None or UPDATES.name in begins:
        updates_from = first_source(read(UPDATES))
    histories = Histories(
        contract.generation,
        contract.dedupe_window,
        contract.kept_events,
        keep_named=True,
        first_offset=0 if begin is None else begin.offset,
        updates_from=updates_from,
        anchors=anchors,
    )
    histories.add(partition, records(EVENTS), letters.get(EVENTS.name, {}), findings)
    check_updates(histories, partition, records(UPDATES), findings)
    check_missing_updates(histories, findings)
    check_snapshots(histories, partition, records(SNAPSHOTS), findings)
    served = check_responses(
        histories,
        partition,
        records(REQUESTS),
        records(RESPONSES),
        findings,
        serving_length=contract.serving_length,
        resolve=resolve,
        selection=selection,
        freshness=totals.freshness,
        refused=letters,
        requests_since_ms=begins[REQUESTS.name].time_ms if REQUESTS.name in begins else None,
    )
    passed = check_late_feedback(histories, partition, records(LATE_FEEDBACK), findings, contract.rules, selection)
    inputs = [begins[topic.name].time_ms for topic in (EVENTS, RESPONSES, IMPRESSIONS) if topic.name in begins]
    check = ExampleCheck(
        rules=contract.rules, resolve=resolve, selection=selection, since_ms=max(inputs) if inputs else None
    )
    check.run(
        histories,
        partition,
        served,
        records(IMPRESSIONS),
        records(EXAMPLES),
        findings,
        letters.get(IMPRESSIONS.name, {}),
        passed,
    )
    for name in EVENT_COUNTS:
        totals.events[name] += getattr(histories, name)
    if partition in histories.heartbeats:
        offset, value = histories.heartbeats[partition]
        heartbeat = findings.decode(Heartbeat, value, Place(EVENTS.name, partition, offset))
        if heartbeat is not None:
            totals.heartbeats[partition] = heartbeat.time_ms
