"""What `verify` found, for people and for programs. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from infra.verify.findings import Mismatch


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found."""

    #: Records by what they are, and how many of them are as they should be.
    checked: dict[str, int]
    matched: dict[str, int]
    #: No mismatches: records that came again, what cannot be checked any more, and (also 0) `BEHIND_WATERMARK`.
    repeated: dict[str, int]
    events: dict[str, int]
    #: Records that were refused, by reason.
    dead_letters: dict[str, int]
    #: Mismatches by kind, all of them; and the first of each kind.
    kinds: dict[str, int]
    mismatches: list[Mismatch]
    #: Examples and others that are not due yet.
    waiting: int
    freshness: dict[str, Any]
    seconds: float
    #: How often each partition was read, so that one reading's histories fit in memory.
    passes: int

    @property
    def total(self) -> int:
        """Mismatches."""
        return sum(self.kinds.values())

    @property
    def events_per_second(self) -> float:
        """Records of events in all the time that everything took."""
        return self.events.get("records", 0) / self.seconds if self.seconds else 0.0

    def first(self, most: int) -> list[Mismatch]:
        """At most so many, each kind's turn after the other's."""
        turns: dict[str, int] = {}
        ordered = []
        for number, mismatch in enumerate(self.mismatches):
            turn = turns[mismatch.kind] = turns.get(mismatch.kind, 0) + 1
            ordered.append((turn, number, mismatch))
        return [mismatch for _, _, mismatch in sorted(ordered, key=lambda entry: entry[:2])[:most]]

    def as_json(self, most: int = 100) -> dict[str, Any]:
        """`checked`, `mismatches` (their number), the first `most` of them, and the rest."""
        return {
            "checked": self.checked,
            "matched": self.matched,
            "mismatches": self.total,
            "kinds": self.kinds,
            "repeated": self.repeated,
            "events": self.events,
            "dead_letters": self.dead_letters,
            "waiting": self.waiting,
            "freshness": self.freshness,
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.events_per_second),
            "passes": self.passes,
            "first_mismatches": [asdict(mismatch) for mismatch in self.first(most)],
        }

    def summary(self) -> str:
        """One line."""
        checked = self.checked
        return (
            f"verify: {checked.get('responses', 0):,} responses, {checked.get('examples', 0):,} examples, "
            f"{checked.get('updates', 0):,} updates, {checked.get('snapshots', 0):,} snapshots, "
            f"{self.total:,} mismatches"
        )

    def tables(self, most: int) -> list[Table]:
        """What was checked and counted, how fresh it was, and the first `most` mismatches."""
        counts = Table("records", "checked", "matched", title="Checked")
        for name in sorted(self.checked):
            counts.add_row(name, f"{self.checked[name]:,}", f"{self.matched[name]:,}")
        events = f"{self.events.get('records', 0):,} events, {self.events_per_second:,.0f} a second"
        counts.caption = f"{events}; {self.waiting:,} not due"
        counted = Table("what", "how many", title="Counted, and no mismatch")
        for name in sorted(self.repeated):
            counted.add_row(name, f"{self.repeated[name]:,}")
        tables = [counts, counted]
        if self.freshness["responses"]:
            fresh = Table("behind by", "p50", "p99", "max", title="Served histories against what had arrived")
            for name, unit in (("behind_events", "events"), ("behind_ms", "ms")):
                of = self.freshness[name]
                fresh.add_row(unit, f"{of['p50']:,}", f"{of['p99']:,}", f"{of['max']:,}")
            fresh.caption = f"{self.freshness['fresh']:,} of {self.freshness['responses']:,} responses were fresh"
            tables.append(fresh)
        if self.kinds:
            kinds = Table("mismatch", "how many", title="Mismatches")
            for kind, count in sorted(self.kinds.items()):
                kinds.add_row(kind, f"{count:,}")
            first = Table("kind", "where", "user", "field", "found", "wanted", "what", title="The first ones")
            for one in self.first(most):
                what = "" if one.field else one.detail
                first.add_row(one.kind, one.where, str(one.user_id), one.field, one.found, one.wanted, what)
            tables += [kinds, first]
        return tables
