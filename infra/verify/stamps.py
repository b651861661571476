"""Does a stamp name a history that was, and can a reader have it? Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from infra.verify.epochs import Epoch, User, origin_of
from infra.verify.findings import Findings
from infra.verify.histories import Histories
from infra.verify.records import Place
from schemas.digest import DIGEST_VERSION
from schemas.v1.ranking_pb2 import Stamp

#: Resolves a user's stamp as the trainer does: the rows' canonical bytes, or why not.
Resolver = Callable[[int, Stamp], bytes | str]


def check_stamp(
    histories: Histories, stamp: Stamp, user_id: int, place: Place, findings: Findings, resolve: Resolver | None
) -> None:
    """The stamp's numbers and digest are of the rebuilt history, and its events can be had.

    Args:
        resolve: of a trainer's store; None: it is enough that updates and snapshots, already checked, say the events.
    """
    user = histories.users.get(b"%d" % user_id)
    epoch = None if user is None else user.epochs.get(stamp.epoch)
    last, first = stamp.seq_no, stamp.first_seq_no
    if histories.anchored and _is_gone(user, stamp):
        findings.repeated["stamps_of_what_is_gone"] += 1
        return
    findings.expect(
        stamp.digest_version == DIGEST_VERSION,
        "stamp_version",
        place,
        user_id,
        field="stamp.digest_version",
        found=stamp.digest_version,
        wanted=DIGEST_VERSION,
    )
    if last == 0:
        # Epoch 0 is that of a user nobody has heard of yet.
        origin = origin_of(user_id, stamp.epoch if epoch is not None else 0)
        empty = stamp.length == 0 and first == 1 and (epoch is not None or stamp.epoch == 0)
        findings.expect(
            empty and stamp.digest == origin, "stamp_digest", place, user_id, "no stamp of an empty history"
        )
        return
    if user is None or epoch is None or not epoch.before <= last <= epoch.last or stamp.length != last - first + 1:
        findings.expect(
            False,
            "stamp_of_no_history",
            place,
            user_id,
            f"epoch {stamp.epoch} seq_no {first}..{last} length {stamp.length} does not follow from the events",
        )
        return
    wanted = epoch.digest(last)
    if stamp.digest != wanted:
        findings.expect(
            False,
            "stamp_digest",
            place,
            user_id,
            f"digest at seq_no {last}: {stamp.digest:016x} is not {wanted:016x}{_elsewhere(epoch, stamp)}",
            field="stamp.digest",
            found=f"{stamp.digest:016x}",
            wanted=f"{wanted:016x}",
        )
    elif resolve is None:
        _check_published(histories, user, epoch, first, last, place, findings)
    else:
        _check_resolved(histories, user, epoch, stamp, place, findings, resolve)


def _is_gone(user: User | None, stamp: Stamp) -> bool:
    """Is it of a history, or a part of one, that the events no longer tell?"""
    if user is None or user.current is None or user.lost:
        return True
    epoch = user.epochs.get(stamp.epoch)
    return stamp.epoch < min(user.epochs) if epoch is None else stamp.seq_no < epoch.before


def _elsewhere(epoch: Epoch, stamp: Stamp) -> str:
    """Where the digest would be right: a stamp that is some events short says so."""
    for n in (stamp.seq_no + 1, stamp.seq_no - 1):
        if epoch.before <= n <= epoch.last and epoch.digest(n) == stamp.digest:
            return f", it is that of seq_no {n}"
    return ""


def _check_published(
    histories: Histories, user: User, epoch: Epoch, first: int, last: int, place: Place, findings: Findings
) -> None:
    """Updates and snapshots say all the events. (Those from before the log begins are proved by the digest alone.)"""
    assert user.current is not None
    if user.erased_below(user.current.number) > epoch.number:
        # The events themselves say that the user asked to be forgotten after this was served.
        findings.repeated["stamps_of_erased_users"] += 1
        return
    begin = max(first, epoch.before + 1)
    if histories.updates_from:
        # Offsets rise with the numbers.
        begin = max(begin, epoch.before + 1 + bisect_left(epoch.offsets, histories.updates_from))
    if epoch is not user.current or first <= epoch.last - histories.kept_events:
        # Of what is not kept, compaction has left no snapshot.
        begin = max(begin, epoch.seeded + 1)
    if begin <= last:
        findings.expect(
            epoch.published(begin, last),
            "stamp_unresolved",
            place,
            user.user_id,
            f"seq_no {first}..{last}: the updates and snapshots that are right do not hold them all",
        )


def _check_resolved(
    histories: Histories,
    user: User,
    epoch: Epoch,
    stamp: Stamp,
    place: Place,
    findings: Findings,
    resolve: Resolver,
) -> None:
    assert user.current is not None
    first, last = stamp.first_seq_no, stamp.seq_no
    resolved = resolve(user.user_id, stamp)
    if resolved == "erased" and user.current.number > epoch.number:
        findings.repeated["stamps_of_erased_users"] += 1
    elif resolved == "evicted" and first <= epoch.last - histories.kept_events:
        # So many events later nobody need keep it.
        findings.repeated["stamps_evicted"] += 1
    elif isinstance(resolved, str):
        findings.expect(False, "stamp_unresolved", place, user.user_id, f"seq_no {last}: {resolved}")
    elif first > epoch.before:
        findings.expect(
            resolved == epoch.row_bytes(first, last), "stamp_bytes", place, user.user_id, f"seq_no {last}: other events"
        )
    else:
        held = (last - epoch.before) * len(resolved) // stamp.length
        findings.expect(
            resolved[len(resolved) - held :] == epoch.row_bytes(epoch.before + 1, last),
            "stamp_bytes",
            place,
            user.user_id,
            f"seq_no {last}: other events",
        )
