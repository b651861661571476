"""Every counter of the jobs, in one closed list, on Flink's metric group `longrank` of the keyed operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pyflink.datastream import RuntimeContext

from schemas.reasons import Reason

GROUP: Final = "longrank"

#: Counter -> what one of it is.
SEQUENCE_COUNTERS: Final[Mapping[str, str]] = {
    "accepted": "an event that got a number",
    "duplicates": "an event whose id the user's last accepted events have",
    "late": "an accepted event older than one its sequence already holds",
    "erased": "an erase that was carried out",
    "seeded": "a seed that was put in front of a history",
    "snapshots": "a snapshot written, those of erases and seeds included",
    "evicted_chunks": "a chunk that left the state",
}
EXAMPLE_COUNTERS: Final[Mapping[str, str]] = {
    "examples": "an example written",
    "without_impression": "a request that was dropped at its label time because nothing of it was shown",
    "superseded_responses": "a response that was not the one shown, at the request's label time",
    "invalid_responses": "a response that says why nothing was scored",
    "skipped_events": "a behaviour event that names no request",
    "refused_events": "a behaviour event that is the sequence job's dead letter",
    "feedback_outside_window": "feedback published before the request or after its label time",
    "feedback_to_other_response": "feedback to a response that was not the one shown",
    "feedback_to_unshown_item": "feedback to an item that was not shown",
    **{
        f"{how}_{what}": f"a {what} {why}"
        for how, why in (
            ("late", "that came after the label time of its request"),
            ("duplicate", "that had come before"),
        )
        for what in ("response", "impression", "feedback")
    },
}


def reason_counter(reason: str) -> str:
    """The counter of the dead letters with this reason."""
    return f"dead_letters_{reason}"


class Counters:
    """The operator's counters by name.

    Raises:
        KeyError: a name that is not in the list.
    """

    def __init__(self, context: RuntimeContext, names: Iterable[str]) -> None:
        group = context.get_metrics_group().add_group(GROUP)
        every = (*names, *(reason_counter(reason.value) for reason in Reason))
        self._counters: dict[str, Any] = {name: group.counter(name) for name in every}

    def add(self, name: str, count: int = 1) -> None:
        """Counts `count` more."""
        self._counters[name].inc(count)
