"""Every fuzzed record is accounted for: in the updates, as a duplicate, or in the dead letters, whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from infra.verify.findings import Findings, Mismatch
from infra.verify.histories import Histories
from infra.verify.records import Place
from infra.verify.whole import check_histories
from schemas.topics import HEARTBEAT_KEY
from schemas.v1.operations_pb2 import DeadLetter
from scorer.landing.bounded import Landed


@dataclass(kw_only=True)
class Account:
    """Where the records went. `records` is the sum of all the others but `heartbeats`."""

    records: int = 0
    accepted: int = 0
    duplicates: int = 0
    erased: int = 0
    #: Parts of seeds that were taken, and the seeds that became whole.
    seed_parts: int = 0
    seeded: int = 0
    dead_letters: int = 0
    heartbeats: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Every record is somewhere, exactly once, and every history is the one that the accepted ones make."""
        found = self.accepted + self.duplicates + self.erased + self.seed_parts + self.dead_letters
        return self.records == found and not self.mismatches


def account(
    events: Iterable[Landed],
    updates: Iterable[Landed],
    snapshots: Iterable[Landed],
    dead_letters: Iterable[Landed],
    *,
    generation: int,
    dedupe_window: int,
    kept_events: int,
) -> Account:
    """Compare what went in with what came out.

    Args:
        events: and the others: whole topics, each partition in order.
    """
    findings, result = Findings(), Account()
    letters: dict[tuple[str, int, int], DeadLetter] = {}
    for record in dead_letters:
        letter = DeadLetter.FromString(record.value)
        place = (letter.source_topic, letter.source_partition, letter.source_offset)
        # Written again after a restart is no fault; there is none in a fuzz run, though.
        findings.expect(place not in letters, "dead_letter_twice", _place(record), 0, f"{place}")
        letters[place] = letter
        result.by_reason[letter.reason] = result.by_reason.get(letter.reason, 0) + 1
    result.dead_letters = len(letters)
    histories = Histories(generation, dedupe_window, kept_events)
    events = list(events)
    for record in events:
        if record.key == HEARTBEAT_KEY:
            result.heartbeats += 1
            continue
        result.records += 1
        known = letters.get((record.topic, record.partition, record.offset))
        if known is not None:
            same = (known.key, known.value, known.source_timestamp_ms) == (
                record.key or b"",
                record.value or b"",
                record.timestamp_ms,
            )
            findings.expect(same and known.detail != "", "dead_letter_differs", _place(record), 0, known.reason)
    check_histories(histories, events, updates, snapshots, letters.keys(), findings)
    result.accepted, result.duplicates = histories.accepted, histories.duplicates
    result.erased, result.seeded, result.seed_parts = histories.erased, histories.seeded, histories.seed_parts
    result.mismatches = findings.mismatches
    return result


def _place(record: Landed) -> Place:
    return Place(record.topic, record.partition, record.offset)
