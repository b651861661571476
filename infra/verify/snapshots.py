"""Every snapshot against the independent histories. Pure."""

from __future__ import annotations

from infra.verify.epochs import ROW, ROW_BYTES, ROW_FIELDS, Epoch, User, chain
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
                if histories.anchored and _is_gone(user, snapshot):
                    findings.repeated["snapshots_of_what_is_gone"] += 1
                else:
                    _check(user, snapshot, place, findings, anchored=histories.anchored)
            findings.unmatched["snapshots"] += findings.total > before


def _is_gone(user: User | None, snapshot: SequenceSnapshot) -> bool:
    """Is it of a history, or a part of one, that the events no longer tell?"""
    if user is None or user.current is None or user.lost:
        return True
    epoch = user.epochs.get(snapshot.epoch)
    return snapshot.epoch < min(user.epochs) if epoch is None else snapshot.seq_no < epoch.before


def _check(user: User | None, snapshot: SequenceSnapshot, place: Place, findings: Findings, *, anchored: bool) -> None:
    user_id, first, last = snapshot.user_id, snapshot.first_seq_no, snapshot.seq_no
    epoch = None if user is None else user.epochs.get(snapshot.epoch)
    if user is None or epoch is None or user.user_id != user_id or not 0 < first <= last + 1 or last > epoch.last:
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
    base = epoch.digest(first - 1) if first > epoch.before else _proved(epoch, snapshot, rows)
    head = epoch.digest(last)
    # Of an erasure that the events no longer tell, it is believed.
    opened_by_erasure = last == 0 and (snapshot.epoch in user.erasures or (anchored and snapshot.erased))
    for name, found, wanted in (
        ("digest_version", snapshot.digest_version, DIGEST_VERSION),
        ("base_digest", f"{snapshot.base_digest:016x}", f"{base:016x}"),
        ("digest", f"{snapshot.digest:016x}", f"{head:016x}"),
        ("erased", snapshot.erased, opened_by_erasure),
        ("erased_below", snapshot.erased_below, _erased_below(user, snapshot, anchored=anchored)),
    ):
        findings.expect(found == wanted, f"snapshot_{name}", place, user_id, field=name, found=found, wanted=wanted)
    skipped = max(0, epoch.before + 1 - first)
    _compare_rows(epoch, first + skipped, last, rows[skipped * ROW_BYTES :], user_id, place, findings)
    if findings.total == before:
        epoch.snapshots += ((first, last),)


def _proved(epoch: Epoch, snapshot: SequenceSnapshot, rows: bytes) -> int:
    """The snapshot's base digest when its events from before the log begins lead from there to what the first update
    says; else one that is not it."""
    digest = snapshot.base_digest
    for at in range(epoch.before + 1 - snapshot.first_seq_no):
        digest = chain(digest, rows[at * ROW_BYTES : (at + 1) * ROW_BYTES])
    return snapshot.base_digest if digest == epoch.origin else ~snapshot.base_digest & (1 << 64) - 1


def _erased_below(user: User, snapshot: SequenceSnapshot, *, anchored: bool) -> int:
    """What it must say; of erasures that the events no longer tell, what it says is believed."""
    told = user.erased_below(snapshot.epoch)
    return snapshot.erased_below if anchored and not told and snapshot.erased_below <= snapshot.epoch else told


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
