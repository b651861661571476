"""The versions that an example must have (schemas/EXAMPLES.md, 6 to 8). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from infra.verify.rules import Act, ExampleRules


class Version(NamedTuple):
    """One of them."""

    #: task -> m x 0 or 1.
    labels: Mapping[str, bytes]
    #: task -> targets whose label is another one than in the version before.
    changed: Mapping[str, Sequence[int]]
    caused_by: Sequence[bytes]
    #: It is there once the watermark has passed this.
    due_ms: int


class _Labels:
    """The labels of one request as feedback comes in."""

    def __init__(self, rules: ExampleRules, items: Sequence[int], request_time_ms: int) -> None:
        self._rules, self._request_time_ms = rules, request_time_ms
        self._row_of = {item: row for row, item in enumerate(items)}
        self._acts: list[list[Act]] = [[] for _ in items]
        self.of_task = {task.name: bytearray([task.holds(())]) * len(items) for task in rules.tasks}

    def add(self, act: Act) -> bool:
        """Did it change a label?"""
        return self.add_all((act,))

    def add_all(self, acts: Iterable[Act]) -> bool:
        """Did they change a label, all together?"""
        rows, changed = set(), False
        for act in acts:
            row = self._row_of[act.item_id]
            self._acts[row].append(act)
            rows.add(row)
        for task in self._rules.tasks:
            until_ms, labels = self._request_time_ms + task.window_ms, self.of_task[task.name]
            for row in rows:
                label = task.holds([each for each in self._acts[row] if each.acted_ms <= until_ms])
                changed |= labels[row] != label
                labels[row] = label
        return changed

    def copy(self) -> dict[str, bytes]:
        return {task: bytes(labels) for task, labels in self.of_task.items()}


def counting(items: Iterable[int], acts: Iterable[Act]) -> dict[bytes, Act]:
    """event_id -> the feedback to a target, as it was published first; in the order in which it takes effect."""
    targets, of_id = frozenset(items), dict[bytes, Act]()
    for act in sorted([act for act in acts if act.item_id in targets]):
        of_id.setdefault(act.event_id, act)
    return of_id


def behind_watermark(of_id: Mapping[bytes, Act], said: Mapping[int, Sequence[bytes]], due_ms: int) -> set[bytes]:
    """event_id of the feedback that was published up to the label time, and that only a revision brings.

    Args:
        said: label_version -> `caused_by` of the versions that were found.
    """
    return {
        event_id
        for version, caused_by in said.items()
        if version > 1
        for event_id in caused_by
        if event_id in of_id and of_id[event_id].published_ms <= due_ms
    }


def versions(
    rules: ExampleRules,
    items: Sequence[int],
    of_id: Mapping[bytes, Act],
    request_time_ms: int,
    said: Mapping[int, Sequence[bytes]],
    came_late: Collection[bytes],
) -> list[Version]:
    """All of them, the first one first.

    Args:
        items: the targets, each once.
        of_id: the request's feedback, see `counting`.
        said: label_version -> `caused_by` of the versions that were found.
        came_late: see `behind_watermark`: it takes effect where it stands.
    """
    came_late = set(came_late)
    due_ms, end_ms = rules.due_ms(request_time_ms), request_time_ms + rules.kept_ms
    labels = _Labels(rules, items, request_time_ms)
    labels.add_all(act for act in of_id.values() if act.published_ms <= due_ms and act.event_id not in came_late)
    found = [Version(labels.copy(), {}, (), due_ms)]
    # Sorted as feedback takes effect.
    waiting = [act for act in of_id.values() if due_ms < act.published_ms <= end_ms]
    while waiting or came_late:
        group = _late_group(waiting, came_late, said.get(len(found) + 1, ()), of_id)
        before = labels.copy()
        if group:
            changed = labels.add_all(group)
        else:
            changed = False
            while waiting and not changed:
                group.append(waiting.pop(0))
                changed = labels.add(group[-1])
        if not changed:
            break
        after = labels.copy()
        differing = {
            task: [row for row in range(len(items)) if after[task][row] != before[task][row]] for task in after
        }
        causes = [act.event_id for act in group]
        found.append(Version(after, differing, causes, max(due_ms, *(act.published_ms for act in group))))
    return found


def _late_group(
    waiting: list[Act], came_late: set[bytes], said: Sequence[bytes], of_id: Mapping[bytes, Act]
) -> list[Act]:
    """The next version's feedback, taken from `waiting` and `came_late`, when some of it came late; else nothing."""
    if came_late.isdisjoint(said):
        return []
    others = [event_id for event_id in said if event_id not in came_late]
    if others != [act.event_id for act in waiting[: len(others)]]:
        return []
    del waiting[: len(others)]
    came_late.difference_update(said)
    return [of_id[event_id] for event_id in said]
