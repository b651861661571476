"""What `verify` notes: how much it checked, and every mismatch with its coordinates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from infra.verify.records import Place

M = TypeVar("M", bound=Message)

#: What `Findings.repeated` counts and a loop that keeps up has none of: feedback whose record came later than the
#: watermark allows. What went to the late feedback though it was published within its request's windows; and what
#: only a revision brings though it was published by the label time.
LATE_BY_WATERMARK: Final = "feedback_late_by_watermark"
REVISED_LATE: Final = "feedback_revised_late"
BEHIND_WATERMARK: Final = (LATE_BY_WATERMARK, REVISED_LATE)

#: Mismatches of one kind that are kept with their details: memory stays bounded when everything is wrong.
_KEPT: Final = 1_000
#: Bytes of a value that a mismatch shows.
_SHOWN: Final = 80


@dataclass(frozen=True)
class Mismatch:
    """One thing that is not as the contracts say."""

    kind: str
    #: topic/partition/offset of the record at fault; of the missing record's cause where nothing is there.
    where: str
    user_id: int
    detail: str
    #: The first field that differs, what it holds and what it should; empty where there is no such field.
    field: str = ""
    found: str = ""
    wanted: str = ""


@dataclass
class Findings:
    """What was checked, what did not match."""

    checked: Counter[str] = field(default_factory=Counter)
    #: What was checked and did not match, each record once.
    unmatched: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    #: Mismatches by kind, all of them.
    kinds: Counter[str] = field(default_factory=Counter)
    #: The first of each kind.
    mismatches: list[Mismatch] = field(default_factory=list)
    #: Those that are ones only when the watermark is beyond a time: (ms, mismatch).
    open: list[tuple[int, Mismatch]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Mismatches."""
        return self.kinds.total()

    def expect(
        self,
        matches: bool,
        kind: str,
        where: Place | str,
        user_id: int,
        detail: str = "",
        *,
        field: str = "",
        found: object = "",
        wanted: object = "",
        until_ms: int | None = None,
    ) -> bool:
        """Note a mismatch unless `matches`.

        Args:
            field: the first that differs.
            until_ms: it is none as long as the watermark has not passed this.
        """
        if not matches:
            if field and not detail:
                detail = f"{field}: {_short(found)} is not {_short(wanted)}"
            mismatch = Mismatch(kind, str(where), user_id, detail, field, _short(found), _short(wanted))
            if until_ms is None:
                self._note(mismatch)
            else:
                self.open.append((until_ms, mismatch))
        return matches

    def settle(self, watermark_ms: int) -> int:
        """Turn what the watermark has passed into mismatches and forget the rest; how much that is."""
        waiting = 0
        for until_ms, mismatch in self.open:
            if until_ms < watermark_ms:
                self._note(mismatch)
            else:
                waiting += 1
        self.open.clear()
        return waiting

    def decode(self, message: type[M], value: bytes, where: Place) -> M | None:
        """The record's message; None, and a mismatch, when it has none and no dead letter says so."""
        try:
            return message.FromString(value)
        except DecodeError as error:
            self.undecodable(message.DESCRIPTOR.name, where, error)
            return None

    def undecodable(self, name: str, where: Place, error: DecodeError) -> None:
        """Note a record that no dead letter excuses."""
        self.expect(False, "undecodable_without_letter", where, 0, f"{name}: {error}")

    def _note(self, mismatch: Mismatch) -> None:
        self.kinds[mismatch.kind] += 1
        if self.kinds[mismatch.kind] <= _KEPT:
            self.mismatches.append(mismatch)


def _short(value: object) -> str:
    if isinstance(value, bytes):
        value = value.hex()
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
