"""Every metric of the jobs, in one closed list, on Flink's metric group `longrank` of the keyed operator.

A counter costs a call into Java: the jobs count in Python and hand the sums over once a second. In thread mode the
"distribution" of PyFlink is a gauge of the last value alone, so a distribution is three of them here, over what was
observed since they were last set: `<name>_p50`, `<name>_p99` and `<name>_max`.
"""

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
    "late_seconds": "an accepted event less than a minute older than the newest of its sequence",
    "late_minutes": "an accepted event less than an hour older than that, and not less than a minute",
    "late_hours": "an accepted event less than a day older than that, and not less than an hour",
    "late_days": "an accepted event older still",
    "erased": "an erase that was carried out",
    "seeded": "a seed that is complete and in front of its user's history",
    "snapshots": "a snapshot written, those of erases and seeds included",
    "evicted_chunks": "a chunk that left the state",
    "evicted_events": "an event that left the state",
}
#: Distribution -> what is observed, with its unit.
SEQUENCE_DISTRIBUTIONS: Final[Mapping[str, str]] = {
    "processing_us": "from a batch's arrival in Python to what is to be written, us for each record; of every batch",
    "snapshot_age_ms": "processing time since the first event that only this snapshot covers, ms; of every snapshot",
    "snapshot_bytes": "the packed history, bytes; of every snapshot",
    "user_state_bytes": "header and chunks of the user's state, bytes; at every snapshot but a seed's",
}
EXAMPLE_COUNTERS: Final[Mapping[str, str]] = {
    "examples": "an example written, revisions included",
    "revisions": "an example written again because feedback changed a label",
    "requests_opened": "a request of which something came; less the released ones, those that are in the state",
    "requests_released": "a request that left the state",
    "without_impression": "a request of which nothing was shown by its label time",
    "superseded_responses": "a response that was not the one shown, at the request's label time",
    "invalid_responses": "a response that says why nothing was scored",
    "skipped_events": "a behaviour event that names no request, where feedback is not attributed",
    "refused_events": "a behaviour event that is the sequence job's dead letter",
    "other_events": "an erase or a seed",
    "feedback_before_request": "feedback published before the request that it names",
    "feedback_after_revision_window": "feedback that came too late for any example, in training.late-feedback.v1",
    "feedback_over_limit": "feedback beyond join_limits, in training.late-feedback.v1",
    "feedback_unattributed": "feedback that names no request and belongs to no impression",
    "feedback_to_no_example": "feedback published after the label time of a request of which nothing was written",
    "feedback_to_other_response": "feedback to a response that was not the one shown",
    "feedback_to_unshown_item": "feedback to an item that was not shown",
    "late_response": "a response that was published, or came, after the label time of its request",
    "late_impression": "an impression that was published, or came, after the label time of its request",
    "impressions_not_attributed_to": "an impression beyond join_limits.attributed_impressions_per_user",
    **{f"duplicate_{what}": f"a {what} that had come before" for what in ("response", "impression", "feedback")},
}


def reason_counter(reason: str) -> str:
    """The counter of the dead letters with this reason."""
    return f"dead_letters_{reason}"


def late_counter(late_ms: int) -> str:
    """The counter of an event that is older than its sequence's newest by `late_ms` > 0."""
    if late_ms < 60_000:
        return "late_seconds"
    if late_ms < 3_600_000:
        return "late_minutes"
    return "late_hours" if late_ms < 86_400_000 else "late_days"


class Counters:
    """The operator's counters by name.

    Raises:
        KeyError: a name that is not in the list.
    """

    def __init__(self, context: RuntimeContext, names: Iterable[str]) -> None:
        group = context.get_metrics_group().add_group(GROUP)
        every = (*names, *(reason_counter(reason.value) for reason in Reason))
        self._counters: dict[str, Any] = {name: group.counter(name) for name in every}

    def names(self) -> Iterable[str]:
        """Every counter's name."""
        return self._counters.keys()

    def add(self, name: str, count: int = 1) -> None:
        """Counts `count` more."""
        self._counters[name].inc(count)


class Metrics:
    """Counters and distributions that Flink sees when `publish` is called.

    Raises:
        KeyError: a name that is not in the lists.
    """

    def __init__(self, context: RuntimeContext, counters: Iterable[str], distributions: Iterable[str]) -> None:
        self._counters = Counters(context, counters)
        self._counts = dict.fromkeys(self._counters.names(), 0)
        group = context.get_metrics_group().add_group(GROUP)
        self._gauges: dict[str, list[Any]] = {
            name: [group.distribution(f"{name}_{part}") for part in ("p50", "p99", "max")] for name in distributions
        }
        self._observed: dict[str, list[int]] = {name: [] for name in self._gauges}

    def add(self, name: str, count: int = 1) -> None:
        """Counts `count` more."""
        self._counts[name] += count

    def observe(self, name: str, value: int) -> None:
        """One more value of a distribution."""
        self._observed[name].append(value)

    def publish(self) -> None:
        """Hands over to Flink what was counted and observed since the last time."""
        for name, count in self._counts.items():
            if count:
                self._counters.add(name, count)
                self._counts[name] = 0
        for name, values in self._observed.items():
            if values:
                values.sort()
                for gauge, share in zip(self._gauges[name], (0.5, 0.99, 1.0), strict=True):
                    gauge.update(values[min(len(values) - 1, int(share * len(values)))])
                values.clear()
