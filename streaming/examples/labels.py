"""Labels of a request's targets from the feedback to them, one rule per task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.v1.training_pb2 import TaskLabels


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """A target is positive for `task` when an interaction with it has one of these action codes."""

    task: str
    #: None: any action counts.
    actions: frozenset[int] | None = None

    def matches(self, action: int) -> bool:
        """Does this action make the item positive?"""
        return self.actions is None or action in self.actions


def label_targets(
    rules: Sequence[LabelRule], row_of_item: Mapping[int, int], interactions: Iterable[tuple[int, int]]
) -> list[TaskLabels]:
    """The labels of m targets under each rule, in the rules' order.

    Args:
        row_of_item: item id -> row, 0 .. m - 1.
        interactions: (item id, action), each item among the targets, in any order.
    """
    labels_TM = np.zeros((len(rules), len(row_of_item)), dtype=np.uint8)
    for item_id, action in interactions:
        for task, rule in enumerate(rules):
            labels_TM[task, row_of_item[item_id]] |= rule.matches(action)
    return [TaskLabels(task=rule.task, labels=labels.tobytes()) for rule, labels in zip(rules, labels_TM, strict=True)]
