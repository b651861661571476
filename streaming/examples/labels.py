"""Labels of a request's targets from the feedback to them: rules that a configuration writes. Pure.

A rule looks at one target's feedback within the task's window. "No feedback" satisfies no rule but a `Not`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Feedback(NamedTuple):
    """One interaction, as the rules see it; times in ms UTC, an absent watch or duration is -1."""

    event_time_ms: int
    item_id: int
    action: int
    watch_ms: int
    duration_ms: int


class Rule(Protocol):
    """Is a target positive?"""

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """`feedback`: all to this target that counts, in any order."""


@dataclass(frozen=True)
class Acted:
    """One of these actions was done; None: any."""

    actions: frozenset[int] | None = None

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """See `Rule`."""
        if self.actions is None:
            return bool(feedback)
        return any(each.action in self.actions for each in feedback)


@dataclass(frozen=True)
class Watched:
    """How long the target was watched, against a bound.

    Feedback that does not say so is passed over. At least: some feedback reaches the bound. Below: there is some, and
    none reaches it.
    """

    bound: float
    #: The bound is a share of the duration (watch_ms >= bound * duration_ms, in doubles), else ms.
    of_duration: bool
    below: bool = False

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """See `Rule`."""
        if self.of_duration:
            said = [
                each.watch_ms >= self.bound * each.duration_ms
                for each in feedback
                if each.watch_ms >= 0 and each.duration_ms > 0
            ]
        else:
            said = [each.watch_ms >= self.bound for each in feedback if each.watch_ms >= 0]
        return bool(said) and not any(said) if self.below else any(said)


@dataclass(frozen=True)
class AllOf:
    """Every one of them holds."""

    rules: tuple[Rule, ...]

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """See `Rule`."""
        return all(rule.holds(feedback) for rule in self.rules)


@dataclass(frozen=True)
class AnyOf:
    """At least one of them holds."""

    rules: tuple[Rule, ...]

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """See `Rule`."""
        return any(rule.holds(feedback) for rule in self.rules)


@dataclass(frozen=True)
class Not:
    """It does not hold."""

    rule: Rule

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """See `Rule`."""
        return not self.rule.holds(feedback)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one label says."""

    name: str
    rule: Rule
    #: Feedback counts when the user acted at most so long after the request, ms.
    window_ms: int
    #: In the training loss.
    weight: float = 1.0


def label_targets(
    tasks: Sequence[Task], items: Sequence[int], feedback: Iterable[Feedback], request_time_ms: int
) -> list[bytes]:
    """m x uint8, 0 or 1, per task, for m targets.

    Args:
        items: the targets' ids, each once.
        feedback: to any of them, or to others; in any order.
    """
    of_item: dict[int, list[Feedback]] = {item: [] for item in items}
    for each in feedback:
        to_item = of_item.get(each.item_id)
        if to_item is not None:
            to_item.append(each)
    labels = []
    for task in tasks:
        until_ms = request_time_ms + task.window_ms
        # Most targets get no feedback at all.
        nothing = task.rule.holds(())
        labels.append(
            bytes(
                task.rule.holds([each for each in given if each.event_time_ms <= until_ms]) if given else nothing
                for given in of_item.values()
            )
        )
    return labels
