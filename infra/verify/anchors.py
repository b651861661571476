"""Where histories are taken up when retention has eaten their first events. Pure.

A user's anchor is the first update in the topic whose event still is: its numbers and its `prev_digest` are believed,
and everything from there on is checked by them. What was accepted before is known in part at most, and so are the ids
that make an event a duplicate: until a whole window of them has been seen, an event without an update is undecided,
and where a SEED or an ERASE comes, the user's histories are not followed any further.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from infra.verify.records import Batches
from schemas.v1.sequence_pb2 import SequenceUpdate

_RESETS_MASK = (1 << 32) - 1


@dataclass(slots=True)
class Anchor:
    """The first update of a user whose event is there."""

    #: Of the event.
    offset: int
    epoch: int
    seq_no: int
    prev_digest: int
    #: Offsets of the events that the first updates are of, as many as a window has.
    numbered: set[int] = field(default_factory=set)

    @property
    def is_first(self) -> bool:
        """It is the user's first event ever: nothing is unknown."""
        return self.seq_no == 1 and not self.epoch & _RESETS_MASK


def find_anchors(batches: Batches, first_offset: int, dedupe_window: int) -> dict[bytes, Anchor]:
    """key -> anchor.

    Args:
        batches: of a partition of the updates topic.
        first_offset: of what the events topic still holds of the partition.
    """
    anchors: dict[bytes, Anchor] = {}
    for batch in batches:
        for _, _, key, value in batch:
            try:
                update = SequenceUpdate.FromString(value)
            except DecodeError:
                # `check_updates` will come to it and say so.
                continue
            if update.source_offset < first_offset:
                continue
            anchor = anchors.get(key or b"")
            if anchor is None:
                anchor = anchors[key or b""] = Anchor(
                    update.source_offset, update.epoch, update.seq_no, update.prev_digest
                )
            elif update.source_offset < anchor.offset:
                # Updates can be written again, not in another order: this one comes of a log that was put together.
                anchor.offset, anchor.epoch = update.source_offset, update.epoch
                anchor.seq_no, anchor.prev_digest = update.seq_no, update.prev_digest
            if not anchor.is_first and len(anchor.numbered) <= dedupe_window:
                anchor.numbered.add(update.source_offset)
    return anchors


def first_source(batches: Batches) -> int:
    """Offset of the event that the first update of a partition is of; 0 without one.

    Updates come in their events' order: those of earlier events were before it.
    """
    for batch in batches:
        for _, _, _, value in batch:
            try:
                return SequenceUpdate.FromString(value).source_offset
            except DecodeError:
                continue
    return 0
