"""Feedback that names no request: which impression it belongs to, and how long it and they are kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from streaming.examples.pending import Given, Shown, UserPending
from streaming.examples.settings import ExampleSettings


def attribute(shown: Iterable[Shown], given: Given, window_ms: int) -> Shown | None:
    """The newest impression of the item that was published not after the feedback, and is not after the act nor after
    the publishing, and not more than `window_ms` before it."""
    item_id, latest_ms = given.item_id, min(given.published_ms, given.event_time_ms)
    earliest_ms = given.published_ms - window_ms
    possible = [
        each
        for each in shown
        if earliest_ms <= each.time_ms <= latest_ms
        and each.published_ms <= given.published_ms
        and item_id in each.items
    ]
    # Times and names only: sets have no order.
    return max(possible, key=lambda each: each[:5]) if possible else None


def drop_old(user: UserPending, time_ms: int, settings: ExampleSettings) -> int:
    """Drops what no request can want any more once the watermark is at `time_ms`; and returns how much feedback that
    was."""
    dropped = 0
    # The impression came before the publishing, its request before the impression: that one is due by then.
    for item_id in list(user.loose):
        of_item = user.loose[item_id]
        for event_id in [name for name, each in of_item.items() if loose_until_ms(each, settings) <= time_ms]:
            del of_item[event_id]
            dropped += 1
        if not of_item:
            del user.loose[item_id]
    user.shown = [each for each in user.shown if shown_until_ms(each, settings) > time_ms]
    return dropped


def last_end_ms(user: UserPending, settings: ExampleSettings) -> int:
    """When all that the user has can be dropped; 0: there is nothing."""
    ends = [shown_until_ms(each, settings) for each in user.shown]
    ends += [loose_until_ms(each, settings) for of_item in user.loose.values() for each in of_item.values()]
    ends += user.dues.values()
    return max(ends, default=0)


def loose_until_ms(given: Given, settings: ExampleSettings) -> int:
    """When every request that may have shown it is written."""
    return given.published_ms + settings.label_window_ms + 1


def shown_until_ms(shown: Shown, settings: ExampleSettings) -> int:
    """When no feedback that is kept can belong to it any more."""
    return shown.time_ms + settings.attribution_window_ms + settings.label_window_ms + 1
