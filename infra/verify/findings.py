"""What `verify` notes: how much it checked, and every mismatch with its coordinates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from scorer.landing.bounded import Landed

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Mismatch:
    """One thing that is not as the contracts say."""

    kind: str
    #: topic/partition/offset of the record at fault; of the missing record's cause where nothing is there.
    where: str
    user_id: int
    detail: str


@dataclass
class Findings:
    """What was checked, what matched, what did not."""

    checked: Counter[str] = field(default_factory=Counter)
    mismatches: list[Mismatch] = field(default_factory=list)
    repeated: Counter[str] = field(default_factory=Counter)

    def expect(self, matches: bool, kind: str, record: Landed | str, user_id: int, detail: str) -> bool:
        """Note a mismatch unless `matches`."""
        if not matches:
            self.mismatches.append(
                Mismatch(kind, record if isinstance(record, str) else place(record), user_id, detail)
            )
        return matches

    def decode(self, message: type[M], record: Landed) -> M | None:
        """The record's message; None, and a mismatch, when it has none and no dead letter says so."""
        try:
            return message.FromString(record.value)
        except DecodeError as error:
            self.expect(False, "undecodable_without_letter", record, 0, f"{message.DESCRIPTOR.name}: {error}")
            return None


def place(record: Landed) -> str:
    """topic/partition/offset."""
    return f"{record.topic}/{record.partition}/{record.offset}"
