"""Every delta against the independent histories. Pure."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from infra.verify.epochs import ID_BYTES, ROW, ROW_BYTES, ROW_FIELDS, Epoch, User, encode_row
from infra.verify.findings import Findings
from infra.verify.histories import Histories
from infra.verify.records import Batches, Place
from schemas import SCHEMA_VERSION
from schemas.digest import DIGEST_VERSION
from schemas.topics import EVENTS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.sequence_pb2 import SequenceUpdate


def check_updates(histories: Histories, partition: int, batches: Batches, findings: Findings) -> None:
    """Every delta is its event, in order.

    Args:
        batches: of a partition of the updates topic, in order; several calls go on where the last one ended.
    """
    # As in `Histories.add`: the way of every update is written out. What differs in anything is looked at again.
    users, parse, pack = histories.users, SequenceUpdate.FromString, ROW.pack
    for batch in batches:
        findings.checked["updates"] += len(batch)
        for offset, _, key, value in batch:
            user = users.get(key)  # type: ignore[arg-type]
            if user is not None and (epoch := user.current) is not None:
                at = epoch.head - epoch.before
                if at < len(epoch.wanted) and epoch.wanted[at] == hash(value):
                    epoch.head += 1
                    continue
            try:
                update = parse(value)
            except DecodeError as error:
                findings.undecodable("SequenceUpdate", Place(UPDATES.name, partition, offset), error)
                continue
            if user is not None and (epoch := user.current) is not None and epoch.number == update.epoch:
                seq_no = update.seq_no
                at, digests = seq_no - epoch.before - 1, epoch.digests
                if seq_no == epoch.head + 1 and at < len(digests):
                    it = update.interaction
                    group_id, surface = it.group_id, it.surface
                    watch_ms, duration_ms = it.watch_ms, it.duration_ms
                    row = pack(
                        update.event_time_ms,
                        it.item_id,
                        group_id,
                        it.action,
                        surface,
                        watch_ms,
                        duration_ms,
                        (1 if watch_ms or it.HasField("watch_ms") else 0)
                        | (2 if duration_ms or it.HasField("duration_ms") else 0)
                        | (4 if surface or it.HasField("surface") else 0)
                        | (8 if group_id or it.HasField("group_id") else 0),
                    )
                    if (
                        row == epoch.rows[at * ROW_BYTES : (at + 1) * ROW_BYTES]
                        and update.digest == digests[at]
                        and update.prev_digest == (digests[at - 1] if at else epoch.origin)
                        and update.event_id == epoch.event_ids[at * ID_BYTES : (at + 1) * ID_BYTES]
                        and update.source_offset == epoch.offsets[at]
                        and update.source_partition == partition
                        and update.user_id == user.user_id
                        and update.digest_version == DIGEST_VERSION
                        and update.schema_version == SCHEMA_VERSION
                    ):
                        epoch.head = seq_no
                        continue
            if update.source_offset < histories.first_offset or (user is not None and user.lost):
                findings.repeated["updates_of_what_is_gone"] += 1
            else:
                place = Place(UPDATES.name, partition, offset)
                _look(user, key, update, histories.updates_from, place, findings)


def check_missing_updates(histories: Histories, findings: Findings) -> None:
    """Every accepted event has its delta; to be called when all of them were checked."""
    for user in histories.users.values():
        if user.lost:
            continue
        for epoch in user.epochs.values():
            missing = _wanted(epoch, epoch.head + 1, epoch.last + 1, histories.updates_from) | epoch.missing
            if missing:
                first = min(missing)
                findings.expect(
                    False,
                    "update_missing",
                    Place(EVENTS.name, user.partition, epoch.offset(first)),
                    user.user_id,
                    f"epoch {epoch.number}: {len(missing)} updates are missing, the first is seq_no {first}",
                )


def _wanted(epoch: Epoch, first: int, end: int, updates_from: int) -> set[int]:
    """Of the events first .. end - 1, those whose updates are not gone with the topic's beginning."""
    return {n for n in range(first, end) if epoch.offset(n) >= updates_from}


def _look(
    user: User | None, key: bytes | None, update: SequenceUpdate, updates_from: int, place: Place, findings: Findings
) -> None:
    """An update that is not the next one, or that differs."""
    user_id, seq_no, before = update.user_id, update.seq_no, findings.total
    epoch = None if user is None else user.epochs.get(update.epoch)
    if (
        epoch is None
        or user is None
        or not epoch.seeded < seq_no <= epoch.last
        or not findings.expect(
            user_id == user.user_id,
            "update_key",
            place,
            user_id,
            field="user_id",
            found=user_id,
            wanted=user.user_id,
        )
    ):
        findings.expect(
            findings.total > before,
            "update_of_no_event",
            place,
            user_id,
            f"key {key!r}, epoch {update.epoch} seq_no {seq_no} does not follow from the events",
        )
    else:
        _compare(epoch, update, place, findings)
        _order(epoch, seq_no, user_id, updates_from, place, findings)
    findings.unmatched["updates"] += findings.total > before


def _compare(epoch: Epoch, update: SequenceUpdate, place: Place, findings: Findings) -> None:
    user_id, n = update.user_id, update.seq_no
    found = ROW.unpack(encode_row(BehaviourEvent(event_time_ms=update.event_time_ms, interaction=update.interaction)))
    wanted = ROW.unpack(epoch.row_bytes(n, n))
    different = [at for at in range(len(ROW_FIELDS)) if found[at] != wanted[at]]
    if different:
        at = different[0]
        findings.expect(False, "update_event", place, user_id, field=ROW_FIELDS[at], found=found[at], wanted=wanted[at])
    for kind, name, is_there, should_be in (
        ("digest", "digest", f"{update.digest:016x}", f"{epoch.digest(n):016x}"),
        ("prev_digest", "prev_digest", f"{update.prev_digest:016x}", f"{epoch.digest(n - 1):016x}"),
        ("event_id", "event_id", update.event_id, epoch.event_id(n)),
        ("source", "source_partition", update.source_partition, place.partition),
        ("source", "source_offset", update.source_offset, epoch.offset(n)),
        ("version", "digest_version", update.digest_version, DIGEST_VERSION),
        ("version", "schema_version", update.schema_version, SCHEMA_VERSION),
    ):
        findings.expect(
            is_there == should_be, f"update_{kind}", place, user_id, field=name, found=is_there, wanted=should_be
        )


def _order(epoch: Epoch, seq_no: int, user_id: int, updates_from: int, place: Place, findings: Findings) -> None:
    head = epoch.head
    if seq_no in epoch.missing:
        # It was noted when the one after it came.
        epoch.missing -= {seq_no}
    elif seq_no <= head:
        findings.repeated["updates"] += 1
    else:
        missing = _wanted(epoch, head + 1, seq_no, updates_from)
        findings.expect(not missing, "update_order", place, user_id, field="seq_no", found=seq_no, wanted=head + 1)
        epoch.missing |= missing
        epoch.head = seq_no
