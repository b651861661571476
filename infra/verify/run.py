"""Read the topics back, rebuild, compare: the shell of `longrank verify`.

One partition after the other, for a user is in the same one of every topic; and where a partition's users would not fit
in memory together, some of them after the others, the partition read again for each.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rich.progress import Progress, TaskID

from infra.verify.findings import BEHIND_WATERMARK
from infra.verify.reader import PartitionReader, Range
from infra.verify.records import Batches, Slice
from infra.verify.report import Verdict
from infra.verify.rules import rules_of
from infra.verify.selection import SAMPLED_TOPICS, Selection, sample_users
from infra.verify.slices import EVENT_COUNTS, Begin, Contract, Totals, check_slice
from infra.verify.stamps import Resolver
from schemas.topics import (
    DEAD_LETTER_TOPICS,
    EVENTS,
    EXAMPLES,
    HEARTBEAT_KEY,
    IMPRESSIONS,
    LIVE_TOPICS,
    PARTITIONS,
    REQUESTS,
    RESPONSES,
    Topic,
)
from schemas.v1.operations_pb2 import DeadLetter
from scorer.landing.resolve import store_resolver
from scorer.sequences.follower import follow_to_end
from scorer.sequences.store import SequenceStore
from streaming.config import ExampleJobConfig, SequenceJobConfig

#: What a record takes in memory until its users are done with, bytes, measured and rounded up; an event with its share
#: of a user who has ten of them.
_RECORD_BYTES: Final[Mapping[Topic, int]] = {
    EVENTS: 450,
    REQUESTS: 5_000,
    RESPONSES: 6_000,
    IMPRESSIONS: 1_500,
    EXAMPLES: 2_500,
}
#: topic -> partition -> offset -> reason.
_Letters = dict[str, dict[int, dict[int, str]]]


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """How `verify` goes about it."""

    selection: Selection = field(default_factory=Selection)
    #: Check only so many of the users who were answered; None: all.
    sample: int | None = None
    #: What the histories and requests of one pass may take, MiB.
    memory_mb: int = 2_048
    #: Read each partition at least so often.
    passes: int = 1
    #: An empty directory for a store of its own, filled from updates and snapshots as a trainer's is: what it resolves
    #: is what training sees. None: stamps are resolved from the checked updates and snapshots alone.
    store: Path | None = None


def verify(
    bootstrap: str,
    sequence_job: SequenceJobConfig,
    example_job: ExampleJobConfig,
    settings: VerifySettings | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Check what the topics hold now.

    Raises:
        BoundedReadError: a topic is missing or the broker stopped answering.
    """
    settings, started = settings or VerifySettings(), clock()
    with PartitionReader(bootstrap) as reader, _without_collector():
        run = _Run(reader, settings, progress)
        letters, reasons = run.dead_letters()
        selection = settings.selection
        if settings.sample is not None:
            selection = replace(selection, users=run.sample(settings.sample))
        sequences = sequence_job.settings()
        contract = Contract(
            generation=sequences.generation,
            dedupe_window=sequences.dedupe_window_events,
            kept_events=sequences.kept_events,
            serving_length=sequence_job.sequence.capacity,
            rules=rules_of(example_job),
        )
        totals = Totals()
        with _resolver(bootstrap, settings.store) as resolve:
            passes = run.check(contract, totals, letters, selection, resolve)
    heartbeats, findings = totals.heartbeats, totals.findings
    waiting = findings.settle(min(heartbeats.values()) if len(heartbeats) == PARTITIONS else 0)
    return Verdict(
        checked=dict(findings.checked),
        matched={name: count - findings.unmatched[name] for name, count in findings.checked.items()},
        repeated=dict.fromkeys(BEHIND_WATERMARK, 0) | +findings.repeated,
        events={name: totals.events[name] for name in EVENT_COUNTS},
        dead_letters=dict(reasons),
        kinds=dict(findings.kinds),
        mismatches=findings.mismatches,
        waiting=waiting,
        freshness=totals.freshness.as_json(),
        seconds=clock() - started,
        passes=passes,
    )


class _Run:
    """The topics' ranges at the start, and the readings of them."""

    def __init__(self, reader: PartitionReader, settings: VerifySettings, progress: Progress | None) -> None:
        self._reader, self._settings, self._progress = reader, settings, progress
        self._ranges = {topic: reader.ranges(topic.name) for topic in (*LIVE_TOPICS, *DEAD_LETTER_TOPICS.values())}

    def dead_letters(self) -> tuple[_Letters, Counter[str]]:
        """Where the refused records stood, and how many records were refused for each reason."""
        topics = list(DEAD_LETTER_TOPICS.values())
        letters: _Letters = defaultdict(lambda: defaultdict(dict))
        reasons: Counter[str] = Counter()
        bar = self._bar(
            "dead letters", sum(span.end - span.first for one in topics for span in self._ranges[one].values())
        )
        for topic in topics:
            for partition in self._ranges[topic]:
                for batch in self._read(topic, partition, bar):
                    for _, _, _, value in batch:
                        letter = DeadLetter.FromString(value)
                        of_partition = letters[letter.source_topic][letter.source_partition]
                        # At least once, as its readers know.
                        reasons[letter.reason] += letter.source_offset not in of_partition
                        of_partition[letter.source_offset] = letter.reason
        return letters, reasons

    def sample(self, count: int) -> frozenset[bytes]:
        """So many of the users whom responses and examples are of."""
        bar = self._bar("sample", sum(self._length(topic) for topic in SAMPLED_TOPICS))

        def keys() -> Iterator[bytes]:
            for topic in SAMPLED_TOPICS:
                for partition in self._ranges[topic]:
                    for batch in self._read(topic, partition, bar):
                        yield from (key for _, _, key, _ in batch if key and key != HEARTBEAT_KEY)

        return sample_users(keys(), count)

    def check(
        self,
        contract: Contract,
        totals: Totals,
        letters: _Letters,
        selection: Selection,
        resolve: Resolver | None,
    ) -> int:
        """All partitions; how often the one with most passes was read."""
        passes = {partition: self._passes(partition, selection) for partition in range(PARTITIONS)}
        bar = self._bar(
            "verify",
            sum(
                (self._ranges[topic][partition].end - self._ranges[topic][partition].first) * passes[partition]
                for topic in LIVE_TOPICS
                for partition in range(PARTITIONS)
            ),
        )
        for partition in range(PARTITIONS):
            of_partition = {topic: places[partition] for topic, places in letters.items() if partition in places}
            begins = self._begins(partition)

            def read(topic: Topic, partition: int = partition) -> Batches:
                return self._read(topic, partition, bar)

            for number in range(passes[partition]):
                check_slice(
                    partition,
                    read,
                    contract,
                    totals,
                    letters=of_partition,
                    users=Slice(number, passes[partition]),
                    selection=selection,
                    resolve=resolve,
                    begins=begins,
                )
        return max(passes.values())

    def _passes(self, partition: int, selection: Selection) -> int:
        share = 1.0 if selection.users is not None else selection.users_share
        size = sum(
            each * (self._ranges[topic][partition].end - self._ranges[topic][partition].first)
            for topic, each in _RECORD_BYTES.items()
        )
        return max(self._settings.passes, math.ceil(size * share / (self._settings.memory_mb << 20)))

    def _begins(self, partition: int) -> dict[str, Begin]:
        """topic -> its first record, where earlier ones are gone."""
        begins = {}
        for topic in LIVE_TOPICS:
            first, end = self._ranges[topic][partition]
            if 0 < first < end:
                for batch in self._reader.read(topic.name, partition, Range(first, first + 1)):
                    begins[topic.name] = Begin(first, batch[0][1])
        return begins

    def _length(self, topic: Topic) -> int:
        return sum(span.end - span.first for span in self._ranges[topic].values())

    def _bar(self, what: str, total: int) -> TaskID | None:
        return self._progress.add_task(what, total=total) if self._progress is not None else None

    def _read(self, topic: Topic, partition: int, bar: TaskID | None) -> Batches:
        """The batches of a partition, and with each the bar moves by the offsets that it came over."""
        span = self._ranges[topic][partition]
        at = span.first
        for batch in self._reader.read(topic.name, partition, span):
            yield batch
            if batch and self._progress is not None and bar is not None:
                self._progress.advance(bar, batch[-1][0] + 1 - at)
                at = batch[-1][0] + 1
        if self._progress is not None and bar is not None:
            self._progress.advance(bar, span.end - at)


@contextmanager
def _resolver(bootstrap: str, directory: Path | None) -> Iterator[Resolver | None]:
    if directory is None:
        yield None
        return
    with SequenceStore(directory) as store:
        follow_to_end(bootstrap, store, range(PARTITIONS))
        yield store_resolver(store)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of small objects and no cycle among them: the collector would take a sixth of the time to see that."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
