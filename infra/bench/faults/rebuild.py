"""Every user's history as a reader of snapshots and updates has it in the end. Pure.

Nothing of the store is called. A reader holds, per user, the newest epoch it has heard of: its newest snapshot, and
the updates that continue it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from infra.verify.epochs import encode_row, origin_of
from schemas.packing import unpack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate


@dataclass(kw_only=True)
class Rebuilt:
    """One user's history: the events first_seq_no .. seq_no of an epoch."""

    epoch: int
    first_seq_no: int
    seq_no: int
    digest: int
    #: Canonical bytes of those events.
    rows: bytes


def rebuild(snapshots: Iterable[SequenceSnapshot], updates: Iterable[SequenceUpdate]) -> dict[int, Rebuilt]:
    """Histories by user. An update that does not continue the chain of digests ends its user's history before it."""
    newest: dict[int, SequenceSnapshot] = {}
    for snapshot in snapshots:
        known = newest.get(snapshot.user_id)
        if known is None or (snapshot.epoch, snapshot.seq_no) > (known.epoch, known.seq_no):
            newest[snapshot.user_id] = snapshot
    by_user: dict[int, dict[tuple[int, int], SequenceUpdate]] = defaultdict(dict)
    for update in updates:
        by_user[update.user_id].setdefault((update.epoch, update.seq_no), update)
    return {user: _rebuild_one(user, newest.get(user), by_user[user]) for user in newest.keys() | by_user.keys()}


def _rebuild_one(
    user: int, snapshot: SequenceSnapshot | None, updates: dict[tuple[int, int], SequenceUpdate]
) -> Rebuilt:
    if snapshot is not None:
        epoch, digest = snapshot.epoch, snapshot.digest
        first, last = snapshot.first_seq_no, snapshot.seq_no
        rows = unpack_history(snapshot.packed).tobytes() if snapshot.packed else b""
    else:
        # A user's first epoch opens without a snapshot.
        epoch = min(number for number, _ in updates)
        digest, first, last, rows = origin_of(user, epoch), 1, 0, b""
    while (update := updates.get((epoch, last + 1))) is not None and update.prev_digest == digest:
        rows += encode_row(BehaviourEvent(event_time_ms=update.event_time_ms, interaction=update.interaction))
        last, digest = update.seq_no, update.digest
    return Rebuilt(epoch=epoch, first_seq_no=first, seq_no=last, digest=digest, rows=rows)
