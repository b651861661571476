"""Feedback that came too late for its example (schemas/EXAMPLES.md, 8). Pure."""

from __future__ import annotations

from collections import defaultdict

from infra.verify.epochs import Named, User, encode_row
from infra.verify.feedback import act_of
from infra.verify.findings import LATE_BY_WATERMARK, Findings
from infra.verify.histories import Histories
from infra.verify.records import Batches, Place
from infra.verify.rules import ExampleRules
from infra.verify.selection import Selection
from schemas.topics import EVENTS, HEARTBEAT_KEY, LATE_FEEDBACK
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.training_pb2 import LateFeedback

_AFTER_REVISION_WINDOW = "after_revision_window"
_REASONS = frozenset((_AFTER_REVISION_WINDOW, "over_limit"))


def check_late_feedback(
    histories: Histories,
    partition: int,
    records: Batches,
    findings: Findings,
    rules: ExampleRules,
    selection: Selection,
) -> dict[bytes, set[tuple[bytes, int]]]:
    """Every record is an event of the user; and all feedback is there that names a request and came too late.

    What was published in time and came later than the watermark allows is counted.

    Returns:
        key -> (event_id, published_ms) of the feedback that no example need have: there was too much, or it came too
        late.
    """
    passed: dict[bytes, set[tuple[bytes, int]]] = defaultdict(set)
    seen: set[int] = set()
    for batch in records:
        for offset, _, key, value in batch:
            if key == HEARTBEAT_KEY:
                continue
            findings.checked["late_feedback"] += 1
            place, before = Place(LATE_FEEDBACK.name, partition, offset), findings.total
            late = findings.decode(LateFeedback, value, place)
            if late is not None:
                # At least once, as its readers know.
                is_new = late.source_offset not in seen
                findings.repeated["late_feedback"] += not is_new
                seen.add(late.source_offset)
                event = _check(histories.users.get(key or b""), late, place, findings)
                findings.repeated[LATE_BY_WATERMARK] += is_new and _is_in_time(late, event, rules)
                passed[key or b""].add((late.event_id, late.published_ms))
            findings.unmatched["late_feedback"] += findings.total > before
    for key, user in histories.users.items():
        for each in user.named:
            until_ms = each.request_time_ms + rules.kept_ms
            if each.published_ms > until_ms and selection.takes_time(each.request_time_ms):
                findings.expect(
                    (each.event_id, each.published_ms) in passed.get(key, ()),
                    "late_feedback_missing",
                    Place(EVENTS.name, partition, each.offset),
                    user.user_id,
                    f"published {each.published_ms - until_ms} ms after the end of {each.request_id}",
                    until_ms=each.published_ms,
                )
    return dict(passed)


def _is_in_time(late: LateFeedback, event: Named | None, rules: ExampleRules) -> bool:
    """Is it no later than its request's windows allow, though it says so?"""
    # What names its request says when that was; of attributed feedback, only the record does.
    named = event is not None and event.request_id
    request_time_ms = event.request_time_ms if event is not None and named else late.request.request_time_ms
    published_ms = late.published_ms if event is None else event.published_ms
    return late.reason == _AFTER_REVISION_WINDOW and published_ms <= request_time_ms + rules.kept_ms


def _check(user: User | None, late: LateFeedback, place: Place, findings: Findings) -> Named | None:
    """The event that it is of."""
    event = None if user is None else _event_at(user, late.source_offset)
    if event is None or late.source_partition != place.partition:
        source = f"{EVENTS.name}/{late.source_partition}/{late.source_offset}"
        findings.expect(False, "late_feedback_of_no_event", place, late.user_id, f"{source} is no feedback of the user")
        return None
    act = act_of(event.published_ms, event.event_id, event.row)
    row = encode_row(BehaviourEvent(event_time_ms=late.event_time_ms, interaction=late.interaction))
    # Of attributed feedback, the reference says what it was attributed to.
    wanted_request = event.request_id or late.request.request_id
    for field, found, wanted in (
        ("event_id", late.event_id, act.event_id),
        ("event_time_ms", late.event_time_ms, act.acted_ms),
        ("interaction", row.hex(), event.row.hex()),
        ("published_ms", late.published_ms, act.published_ms),
        ("request_id", late.request.request_id, wanted_request),
    ):
        if not findings.expect(
            found == wanted, "late_feedback_differs", place, late.user_id, field=field, found=found, wanted=wanted
        ):
            return event
    findings.expect(
        late.reason in _REASONS, "late_feedback_reason", place, late.user_id, f"there is no reason {late.reason!r}"
    )
    return event


def _event_at(user: User, offset: int) -> Named | None:
    for named in user.named:
        if named.offset == offset:
            return named
    for published_ms, event_id, row, at in user.unnumbered:
        if at == offset:
            return Named(published_ms, event_id, row, offset, "", "", 0)
    for epoch in user.epochs.values():
        if offset in epoch.offsets:
            at = epoch.offsets.index(offset)
            number = at + 1 + epoch.before
            if number > epoch.seeded:
                published_ms = user.times[epoch.times_at + number - epoch.seeded - 1]
                return Named(published_ms, epoch.event_id(number), epoch.row_bytes(number, number), offset, "", "", 0)
    return None
