"""Whose feedback it is (schemas/EXAMPLES.md, 4 and 5). Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from infra.verify.epochs import ID_BYTES, ROW, ROW_BYTES, Named, User
from infra.verify.rules import Act
from infra.verify.shown import Choice, Page

_HAS_WATCH = 1
_HAS_DURATION = 2
_ITEM_AT = 8


def act_of(published_ms: int, event_id: bytes, row: bytes) -> Act:
    """Feedback of an event's canonical bytes."""
    acted_ms, item_id, _, action, _, watch_ms, duration_ms, present = ROW.unpack(row)
    return Act(
        published_ms,
        event_id,
        acted_ms,
        item_id,
        action,
        watch_ms if present & _HAS_WATCH else None,
        duration_ms if present & _HAS_DURATION else None,
    )


def named_acts(named: Iterable[Named], request_id: str, choice: Choice) -> Iterator[Act]:
    """The feedback that names the request, and the response that was shown."""
    response = choice.response
    for each in named:
        if (
            each.request_id == request_id
            and each.response_id == response.response_id
            and each.published_ms >= response.request_time_ms
        ):
            yield act_of(each.published_ms, each.event_id, each.row)


def attributed(
    user: User, pages: Mapping[str, Iterable[Page]], choices: Mapping[str, Choice], window_ms: int
) -> dict[str, list[Act]]:
    """request_id -> the feedback that names no request and belongs to it.

    Args:
        pages: request_id -> its impressions, all that are well formed and were published up to its label time.
        choices: of the user's requests, where something was shown.
        window_ms: an impression is at most so old when the feedback is published.
    """
    # item -> (age, request time, request_id, response_id, published): the largest is the one it belongs to.
    shown: dict[int, set[tuple[int, int, str, str, int]]] = defaultdict(set)
    for request_id, of_request in pages.items():
        for page in of_request:
            age_ms = max(page.time_ms, page.request_time_ms)
            order = (age_ms, page.request_time_ms, request_id, page.response_id, page.published_ms)
            for item in page.items:
                shown[item].add(order)
    found: dict[str, list[Act]] = defaultdict(list)
    ages = [order[0] for of_item in shown.values() for order in of_item]
    first_ms = _first_published(user)
    for act in _unnamed(user, shown, min(ages, default=0), max(ages, default=0) + window_ms):
        if act.published_ms > first_ms.get(act.event_id, act.published_ms):
            continue
        earliest_ms, latest_ms = act.published_ms - window_ms, min(act.acted_ms, act.published_ms)
        orders = shown[act.item_id]
        possible = [order for order in orders if earliest_ms <= order[0] <= latest_ms and order[-1] <= act.published_ms]
        if possible:
            _, _, request_id, response_id, _ = max(possible)
            choice = choices.get(request_id)
            if choice is not None and choice.response.response_id == response_id:
                found[request_id].append(act)
    return found


def _first_published(user: User) -> dict[bytes, int]:
    """event_id -> when it was published first, of events that were published more than once."""
    first_ms: dict[bytes, int] = {}
    for published_ms, event_id, _, _ in user.unnumbered:
        first_ms[event_id] = min(published_ms, first_ms.get(event_id, published_ms))
    for epoch in user.epochs.values():
        # The seeded ones among them have no time.
        skipped = epoch.seeded - epoch.before
        for event_id in first_ms:
            at = epoch.event_ids.find(event_id, skipped * ID_BYTES)
            while at >= 0 and at % ID_BYTES:
                at = epoch.event_ids.find(event_id, at + 1)
            if at >= 0:
                published_ms = user.times[epoch.times_at + at // ID_BYTES - skipped]
                first_ms[event_id] = min(first_ms[event_id], published_ms)
    return first_ms


def _unnamed(user: User, items: Mapping[int, object], from_ms: int, until_ms: int) -> Iterator[Act]:
    """The feedback to these items that names no request, published from <= time <= until."""
    named, unpack = {each.offset for each in user.named}, ROW.unpack_from
    for published_ms, event_id, row, _ in user.unnumbered:
        act = act_of(published_ms, event_id, row)
        if act.item_id in items and from_ms <= published_ms <= until_ms:
            yield act
    for epoch in user.epochs.values():
        live = len(epoch.digests) - (epoch.seeded - epoch.before)
        if not live:
            continue
        # The seeded ones among them are no feedback.
        skipped = len(epoch.digests) - live
        rows = np.frombuffer(epoch.rows, dtype=np.uint8).reshape(-1, ROW_BYTES)[skipped:]
        item_ids = np.ascontiguousarray(rows[:, _ITEM_AT : _ITEM_AT + 8]).view("<u8")[:, 0]
        times = np.frombuffer(user.times, dtype=np.int64)[epoch.times_at : epoch.times_at + live]
        possible = np.flatnonzero((times >= from_ms) & (times <= until_ms))
        for at, item_id in zip(possible.tolist(), item_ids[possible].tolist(), strict=True):
            number = skipped + at
            if item_id in items and epoch.offsets[number] not in named:
                event_id = bytes(epoch.event_ids[number * ID_BYTES : (number + 1) * ID_BYTES])
                acted_ms, _, _, action, _, watch_ms, duration_ms, present = unpack(epoch.rows, number * ROW_BYTES)
                yield Act(
                    user.times[epoch.times_at + at],
                    event_id,
                    acted_ms,
                    item_id,
                    action,
                    watch_ms if present & _HAS_WATCH else None,
                    duration_ms if present & _HAS_DURATION else None,
                )
