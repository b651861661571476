"""Every snapshot against the independent histories. Pure."""

from __future__ import annotations

from infra.verify.epochs import ROW, ROW_BYTES, ROW_FIELDS, Epoch, User
from infra.verify.findings import Findings
from infra.verify.histories import Histories
from infra.verify.records import Batches, Place
from schemas.digest import DIGEST_VERSION
from schemas.packing import unpack_history
from schemas.topics import SNAPSHOTS
from schemas.v1.sequence_pb2 import SequenceSnapshot


def check_snapshots(histories: Histories, partition: int, batches: Batches, findings: Findings) -> None:
    """Every snapshot holds the very events that its numbers and digests name."""
    for batch in batches:
        for offset, _, key, value in batch:
            findings.checked["snapshots"] += 1
            before, place = findings.total, Place(SNAPSHOTS.name, partition, offset)
            snapshot = findings.decode(SequenceSnapshot, value, place)
            if snapshot is not None:
                user = histories.users.get(key or b"")
                _check(user, snapshot, place, findings)
            findings.unmatched["snapshots"] += findings.total > before


def _check(user: User | None, snapshot: SequenceSnapshot, place: Place, findings: Findings) -> None:
    user_id, first, last = snapshot.user_id, snapshot.first_seq_no, snapshot.seq_no
    epoch = None if user is None else user.epochs.get(snapshot.epoch)
    if (
        user is None
        or epoch is None
        or user.user_id != user_id
        or not epoch.before < first <= last + 1
        or last > epoch.last
    ):
        findings.expect(
            False,
            "snapshot_of_no_history",
            place,
            user_id,
            f"epoch {snapshot.epoch} seq_no {first}..{last} does not follow from the events",
        )
        return
    try:
        rows = unpack_history(snapshot.packed).tobytes() if snapshot.packed else b""
    except ValueError as error:
        findings.expect(False, "snapshot_packed", place, user_id, str(error))
        return
    before = findings.total
    base, head = epoch.digest(first - 1), epoch.digest(last)
    opened_by_erasure = snapshot.epoch in user.erasures and last == 0
    for name, found, wanted in (
        ("digest_version", snapshot.digest_version, DIGEST_VERSION),
        ("base_digest", f"{snapshot.base_digest:016x}", f"{base:016x}"),
        ("digest", f"{snapshot.digest:016x}", f"{head:016x}"),
        ("erased", snapshot.erased, opened_by_erasure),
        ("erased_below", snapshot.erased_below, user.erased_below(snapshot.epoch)),
    ):
        findings.expect(found == wanted, f"snapshot_{name}", place, user_id, field=name, found=found, wanted=wanted)
    _compare_rows(epoch, first, last, rows, user_id, place, findings)
    if findings.total == before:
        epoch.snapshots.append((first, last))


def _compare_rows(
    epoch: Epoch, first: int, last: int, rows: bytes, user_id: int, place: Place, findings: Findings
) -> None:
    wanted_rows = epoch.row_bytes(first, last)
    if rows == wanted_rows:
        return
    length, wanted_length = len(rows) // ROW_BYTES, len(wanted_rows) // ROW_BYTES
    for at in range(min(length, wanted_length)):
        span = slice(at * ROW_BYTES, (at + 1) * ROW_BYTES)
        if rows[span] != wanted_rows[span]:
            found, wanted = ROW.unpack(rows[span]), ROW.unpack(wanted_rows[span])
            field = next(number for number in range(len(ROW_FIELDS)) if found[number] != wanted[number])
            name = f"{ROW_FIELDS[field]} of seq_no {first + at}"
            findings.expect(
                False, "snapshot_events", place, user_id, field=name, found=found[field], wanted=wanted[field]
            )
            return
    findings.expect(False, "snapshot_events", place, user_id, field="events", found=length, wanted=wanted_length)
