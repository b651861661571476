"""Labels of a request's targets from the feedback to them: rules that a configuration writes. Pure.

A rule looks at one target's feedback within the task's window. "No feedback" satisfies no rule but a `Not`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol


class Feedback(Protocol):
    """One interaction, as the rules see it; times in ms UTC, an absent watch or duration is -1."""

    @property
    def event_time_ms(self) -> int: ...

    @property
    def item_id(self) -> int: ...

    @property
    def action(self) -> int: ...

    @property
    def watch_ms(self) -> int: ...

    @property
    def duration_ms(self) -> int: ...


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
        for each in feedback:  # noqa: SIM110 - a loop is faster than `any`, here and below
            if each.action in self.actions:
                return True
        return False


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
        said, bound = False, self.bound
        for each in feedback:
            watch_ms = each.watch_ms
            if watch_ms < 0:
                continue
            if self.of_duration:
                duration_ms = each.duration_ms
                if duration_ms <= 0:
                    continue
                bound = self.bound * duration_ms
            if watch_ms >= bound:
                return not self.below
            said = True
        return said and self.below


@dataclass(frozen=True)
class AllOf:
    """Every one of them holds."""

    rules: tuple[Rule, ...]

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """See `Rule`."""
        for rule in self.rules:  # noqa: SIM110
            if not rule.holds(feedback):
                return False
        return True


@dataclass(frozen=True)
class AnyOf:
    """At least one of them holds."""

    rules: tuple[Rule, ...]

    def holds(self, feedback: Sequence[Feedback]) -> bool:
        """See `Rule`."""
        for rule in self.rules:  # noqa: SIM110
            if rule.holds(feedback):
                return True
        return False


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

    @cached_property
    def of_none(self) -> bool:
        """Whether a target without feedback is positive."""
        return self.rule.holds(())


def label_targets(
    tasks: Sequence[Task], items: Sequence[int], feedback: Iterable[Feedback], request_time_ms: int
) -> list[bytes]:
    """m x uint8, 0 or 1, per task, for m targets.

    Args:
        items: the targets' ids, each once.
        feedback: to any of them, or to others; in any order.
    """
    of_item: dict[int, list[Feedback]] = {}
    latest_ms = 0
    for each in feedback:
        item_id, acted_ms = each.item_id, each.event_time_ms
        if item_id in of_item:
            of_item[item_id].append(each)
        else:
            of_item[item_id] = [each]
        if acted_ms > latest_ms:
            latest_ms = acted_ms
    # Most targets get no feedback at all, and what a rule says of none is the same for all of them.
    given = [(row, of_item[item]) for row, item in enumerate(items) if item in of_item]
    labels = []
    for task in tasks:
        until_ms, holds = request_time_ms + task.window_ms, task.rule.holds
        column = bytearray((task.of_none,)) * len(items)
        for row, to_item in given:
            if latest_ms > until_ms:
                to_item = [each for each in to_item if each.event_time_ms <= until_ms]
            column[row] = holds(to_item)
        labels.append(bytes(column))
    return labels
