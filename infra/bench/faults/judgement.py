"""What the job wrote against the oracle made from the events in partition order. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from infra.bench.faults.rebuild import rebuild
from infra.verify.findings import Findings, Mismatch
from infra.verify.histories import Histories
from infra.verify.records import Place
from infra.verify.whole import check_histories
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from scorer.landing.bounded import Landed

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Written:
    """Everything in the topics, each in partition order."""

    events: Sequence[Landed]
    updates: Sequence[Landed]
    snapshots: Sequence[Landed]
    dead_letters: Sequence[Landed]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the events. An update written twice with the same bytes is `repeated`, and harmless."""

    users: int
    accepted: int
    duplicates: int
    refused: int
    erased: int
    seeded: int
    #: Accepted events without a number.
    lost: int
    #: Numbers that an event has beyond those it should have.
    doubled: int
    #: Missing numbers below a (user, epoch)'s highest.
    gaps: int
    #: (user, epoch, seq_no) with more than one digest.
    forks: int
    repeated: int
    #: Everything else that is not as the contracts say, and the details of the above.
    mismatches: list[Mismatch]

    @property
    def faultless(self) -> bool:
        """Every history equals the oracle's, and every refused record has its dead letter."""
        return not (self.lost or self.doubled or self.gaps or self.forks or self.mismatches)


def judge(
    written: Written,
    malformed: Collection[tuple[bytes, bytes, int]],
    *,
    generation: int,
    dedupe_window: int,
    kept_events: int,
) -> Verdict:
    """Compare.

    Args:
        kept_events: by the job, of each user: those that a seed finds there.
        malformed: (key, value, partition) of the records that must not be accepted, from those who sent them: the
            job's dead letters are compared with these, not believed.
    """
    findings = Findings()
    refused = {
        (record.topic, record.partition, record.offset)
        for record in written.events
        if (record.key, record.value, record.partition) in malformed
    }
    histories = Histories(generation, dedupe_window, kept_events)
    check_histories(histories, written.events, written.updates, written.snapshots, refused, findings)
    _check_dead_letters(written.dead_letters, refused, findings)
    updates = [update for one in written.updates if (update := _decode(SequenceUpdate, one, findings))]
    snapshots = [snapshot for one in written.snapshots if (snapshot := _decode(SequenceSnapshot, one, findings))]
    _check_rebuilt(histories, snapshots, updates, findings)

    digests: dict[tuple[int, int, int], int] = {}
    forked: set[tuple[int, int, int]] = set()
    named: set[tuple[int, int, int, bytes]] = set()
    for update in updates:
        number = (update.user_id, update.epoch, update.seq_no)
        if digests.setdefault(number, update.digest) != update.digest:
            forked.add(number)
        named.add((*number, update.event_id))
    heads: dict[tuple[int, int], int] = {}
    for user, epoch_number, seq_no in digests:
        heads[user, epoch_number] = max(heads.get((user, epoch_number), 0), seq_no)
    # Numbers per event, repeated updates counted once.
    numbers = Counter((user, event_id) for user, _, _, event_id in named)
    # An id that comes again after an erase, or beyond the window, has a number more: the oracle knows.
    wanted = Counter(
        (user.user_id, event_id)
        for user in histories.users.values()
        for epoch in user.epochs.values()
        for _, event_id in epoch.numbered()
    )
    # What an epoch opened with has its number from the snapshot.
    unwritten = {
        (user.user_id, number): epoch.seeded
        for user in histories.users.values()
        for number, epoch in user.epochs.items()
    }
    return Verdict(
        users=sum(user.current is not None for user in histories.users.values()),
        accepted=histories.accepted,
        duplicates=histories.duplicates,
        refused=histories.refused,
        erased=histories.erased,
        seeded=histories.seeded,
        lost=(wanted - numbers).total(),
        doubled=(numbers - wanted).total(),
        gaps=sum(head - unwritten.get(number, 0) for number, head in heads.items()) - len(digests),
        forks=len(forked),
        repeated=len(updates) - len(digests),
        mismatches=findings.mismatches,
    )


def _check_dead_letters(
    letters: Sequence[Landed], refused: Collection[tuple[str, int, int]], findings: Findings
) -> None:
    found: set[tuple[str, int, int]] = set()
    for record in letters:
        letter = _decode(DeadLetter, record, findings)
        if letter is None:
            continue
        source = (letter.source_topic, letter.source_partition, letter.source_offset)
        found.add(source)
        findings.expect(
            source in refused, "dead_letter_of_good_record", _place(record), 0, f"{letter.reason}: {letter.detail}"
        )
    for topic, partition, offset in sorted(set(refused) - found):
        findings.expect(False, "dead_letter_missing", f"{topic}/{partition}/{offset}", 0, "refused without a letter")


def _check_rebuilt(
    histories: Histories,
    snapshots: Sequence[SequenceSnapshot],
    updates: Sequence[SequenceUpdate],
    findings: Findings,
) -> None:
    rebuilt = rebuild(snapshots, updates)
    for user in histories.users.values():
        epoch, found = user.current, rebuilt.get(user.user_id)
        if epoch is None:
            continue
        number, last = epoch.number, epoch.last
        if found is None:
            findings.expect(False, "history_missing", f"epoch {number}", user.user_id, "nothing was written of it")
            continue
        findings.expect(
            (found.epoch, found.seq_no, found.digest) == (number, last, epoch.digest(last))
            and found.rows == epoch.row_bytes(found.first_seq_no, last),
            "history",
            f"epoch {number}",
            user.user_id,
            f"epoch {found.epoch} seq_no {found.first_seq_no}..{found.seq_no} was rebuilt, seq_no {last} is the last",
        )
    known = {user.user_id for user in histories.users.values() if user.current is not None}
    for user_id in sorted(rebuilt.keys() - known):
        findings.expect(False, "history_of_no_user", "updates", user_id, "this user sent no event")


def _decode(message: type[M], record: Landed, findings: Findings) -> M | None:
    return findings.decode(message, record.value, _place(record))


def _place(record: Landed) -> Place:
    return Place(record.topic, record.partition, record.offset)
