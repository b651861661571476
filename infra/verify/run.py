"""Read the topics back, rebuild, compare: the shell of `longrank verify`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from infra.verify.checks import check_examples, check_responses, check_snapshots, check_updates
from infra.verify.findings import Findings, Mismatch
from infra.verify.histories import Histories
from schemas.topics import (
    DEAD_LETTER_TOPICS,
    EVENTS,
    EXAMPLES,
    HEARTBEAT_KEY,
    IMPRESSIONS,
    PARTITIONS,
    REQUESTS,
    RESPONSES,
    SNAPSHOTS,
    UPDATES,
    Topic,
)
from schemas.v1.operations_pb2 import DeadLetter, Heartbeat
from scorer.landing.bounded import Landed, read_bounded
from scorer.landing.resolve import store_resolver
from scorer.sequences.follower import follow_to_end
from scorer.sequences.store import SequenceStore
from streaming.config import ExampleJobConfig, SequenceJobConfig


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found."""

    checked: dict[str, int]
    repeated: dict[str, int]
    events: dict[str, int]
    dead_letters: dict[str, int]
    mismatches: list[Mismatch]

    def as_json(self, most: int = 100) -> dict[str, Any]:
        """`checked`, `mismatches` (their number), and the first `most` of them."""
        return {
            "checked": self.checked,
            "mismatches": len(self.mismatches),
            "repeated": self.repeated,
            "events": self.events,
            "dead_letters": self.dead_letters,
            "first_mismatches": [asdict(mismatch) for mismatch in self.mismatches[:most]],
        }


def verify(
    bootstrap: str,
    sequence_job: SequenceJobConfig,
    example_job: ExampleJobConfig,
    scratch: Path,
    progress: Progress | None = None,
) -> Verdict:
    """Check everything that the topics hold now.

    Args:
        scratch: an empty directory for a store of its own, filled from updates and snapshots as a trainer's is: what
            it resolves is what training sees.

    Raises:
        BoundedReadError: a topic is missing or the broker stopped answering.
    """
    findings = Findings()
    refused: set[tuple[str, int, int]] = set()
    letters: dict[str, int] = {}
    for topic in DEAD_LETTER_TOPICS.values():
        for record in _read(bootstrap, topic, progress):
            letter = DeadLetter.FromString(record.value)
            letters[letter.reason] = letters.get(letter.reason, 0) + 1
            refused.add((letter.source_topic, letter.source_partition, letter.source_offset))

    def accepted(topic: Topic) -> Iterator[Landed]:
        return (r for r in _read(bootstrap, topic, progress) if (r.topic, r.partition, r.offset) not in refused)

    sequences = sequence_job.settings()
    histories = Histories(sequences.generation, sequences.dedupe_window_events, sequences.kept_events)
    watermarks: dict[int, int] = {}
    feedback: list[Landed] = []
    for record in _read(bootstrap, EVENTS, progress):
        histories.add(record, refused, findings)
        if record.key == HEARTBEAT_KEY:
            watermarks[record.partition] = Heartbeat.FromString(record.value).time_ms
        elif (record.topic, record.partition, record.offset) not in refused:
            feedback.append(record)
    check_updates(histories, _read(bootstrap, UPDATES, progress), findings)
    check_snapshots(histories, _read(bootstrap, SNAPSHOTS, progress), findings)

    with SequenceStore(scratch) as store:
        follow_to_end(bootstrap, store, range(PARTITIONS))

        resolve = store_resolver(store)
        served = check_responses(
            histories,
            accepted(REQUESTS),
            _read(bootstrap, RESPONSES, progress),
            findings,
            resolve,
            serving_length=sequence_job.sequence.capacity,
        )
        rules = {label.task: frozenset() if label.actions == "any" else label.actions for label in example_job.labels}
        check_examples(
            histories,
            served,
            feedback,
            accepted(IMPRESSIONS),
            _read(bootstrap, EXAMPLES, progress),
            findings,
            resolve,
            label_window_ms=example_job.label_window_ms,
            task_actions=rules,
            watermark_ms=min(watermarks.values(), default=0) if len(watermarks) == PARTITIONS else 0,
        )
    counted = ("records", "accepted", "duplicates", "refused", "erased", "seeded", "late")
    return Verdict(
        checked=dict(findings.checked),
        repeated={name: count for name, count in findings.repeated.items() if count},
        events={name: getattr(histories, name) for name in counted},
        dead_letters=letters,
        mismatches=findings.mismatches,
    )


def _read(bootstrap: str, topic: Topic, progress: Progress | None) -> Iterator[Landed]:
    bar = progress.add_task(f"verify {topic.name}", total=None) if progress else None
    count = 0
    for record in read_bounded(bootstrap, topic.name):
        count += 1
        if progress and bar is not None and count % 1_000 == 0:
            progress.update(bar, completed=count)
        yield record
    if progress and bar is not None:
        progress.update(bar, completed=count, total=count)
