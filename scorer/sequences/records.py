"""Records of the updates and snapshots topics, checked. Pure. The order of the checks is that of `schemas.reasons`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.acceptance import accept_key, check_user, check_version, parse
from schemas.digest import DIGEST_VERSION
from schemas.limits import Limits
from schemas.reasons import Reason, Rejected
from schemas.topics import SNAPSHOTS, UPDATES
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate

_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """One record of either topic with its coordinates; the timestamp is the record's, ms."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def _check_numbers(epoch: int, seq_no: int, digest_version: int, lowest: int) -> None:
    if epoch == 0 or seq_no < lowest:
        raise Rejected(Reason.MALFORMED_VALUE, f"epoch {epoch} seq_no {seq_no}: epochs and numbers begin at 1")
    if digest_version != DIGEST_VERSION:
        raise Rejected(Reason.UNKNOWN_SCHEMA_VERSION, f"digest version {digest_version}, known is {DIGEST_VERSION}")


def parse_update(record: StoreRecord) -> SequenceUpdate:
    """The delta in a record of the updates topic.

    Raises:
        Rejected: it is none, or not of this partition's user.
    """
    user_id = accept_key(record.key, record.value, record.partition, _LIMITS, UPDATES.max_message_bytes)
    update = parse(SequenceUpdate, record.value)
    check_version(update.schema_version)
    check_user(update.user_id, user_id)
    _check_numbers(update.epoch, update.seq_no, update.digest_version, lowest=1)
    if not update.HasField("interaction"):
        raise Rejected(Reason.UNKNOWN_KIND, f"epoch {update.epoch} seq_no {update.seq_no}: no interaction")
    return update


def parse_snapshot(record: StoreRecord) -> SequenceSnapshot:
    """The snapshot in a record of the snapshots topic; its events are verified when it is applied.

    Raises:
        Rejected: it is none, or not of this partition's user.
    """
    user_id = accept_key(record.key, record.value, record.partition, _LIMITS, SNAPSHOTS.max_message_bytes)
    snapshot = parse(SequenceSnapshot, record.value)
    check_version(snapshot.schema_version)
    check_user(snapshot.user_id, user_id)
    _check_numbers(snapshot.epoch, snapshot.seq_no, snapshot.digest_version, lowest=0)
    if not 1 <= snapshot.first_seq_no <= snapshot.seq_no + 1:
        raise Rejected(
            Reason.MALFORMED_VALUE,
            f"epoch {snapshot.epoch}: events {snapshot.first_seq_no}..{snapshot.seq_no} are no range",
        )
    return snapshot
