"""From everything that came of a request to its example, and to the next version of it. Pure."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from schemas.reasons import Reason, Rejected
from schemas.v1.ranking_pb2 import Impression, RankingResponse
from schemas.v1.training_pb2 import TrainingExample
from streaming.examples.labels import Feedback, label_targets
from streaming.examples.pending import Given, Request
from streaming.examples.settings import ExampleSettings

_IMPRESSION: Final = struct.Struct("<Iqq")
_ID_BYTES: Final = 8


class Record(NamedTuple):
    """Where an impression stands, and its bytes."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes

    def pack(self) -> bytes:
        """Bytes for the state."""
        return _IMPRESSION.pack(*self[:3]) + self.value

    @classmethod
    def unpack(cls, packed: bytes) -> Record:
        """The inverse."""
        partition, offset, timestamp_ms = _IMPRESSION.unpack_from(packed)
        return cls(partition, offset, timestamp_ms, packed[_IMPRESSION.size :])


class _Shown(NamedTuple):
    impression: Impression
    identity: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class Unusable:
    """An impression that cannot be joined, and why."""

    record: Record
    refused: Rejected


class Chosen(NamedTuple):
    """What was shown of a request: the targets' rows among the response's candidates, their items and, unless nothing
    was shown, positions."""

    response: RankingResponse
    rows: Sequence[int]
    items: Sequence[int]
    positions: Sequence[int]


def choose(request_id: str, request: Request, *, emit_unshown: bool) -> tuple[Chosen | None, list[Unusable]]:
    """The response that was shown and its targets (None: no example comes of the request), and the impressions that do
    not fit."""
    if len(request.impressions) == 1:
        chosen = _choose_simple(request)
        if chosen is not None:
            return chosen, []
    responses = {name: RankingResponse.FromString(kept) for name, kept in request.responses.items()}
    if not request.impressions:
        if not emit_unshown or not responses:
            return None, []
        response = responses[min(responses)]
        # An item twice among the candidates is one target.
        row_of_item = _rows(response.candidates.item_id)
        return Chosen(response, list(row_of_item.values()), list(row_of_item), ()), []
    rows = {name: _rows(response.candidates.item_id) for name, response in responses.items()}
    usable, unusable = _consistent(request_id, request, rows)
    if not usable:
        return None, unusable
    response = responses[usable[0].impression.response_id]
    row_of_item = rows[response.response_id]
    position_of_row: dict[int, int] = {}
    # An item that is shown again keeps its first position.
    for impression in (shown.impression for shown in usable):
        for position, item in enumerate(ids(impression.item_id), impression.first_position):
            position_of_row.setdefault(row_of_item[item], position)
    candidates = ids(response.candidates.item_id)
    items = [candidates[row] for row in position_of_row]
    return Chosen(response, list(position_of_row), items, list(position_of_row.values())), unusable


def _choose_simple(request: Request) -> Chosen | None:
    """The same for nearly all requests: one impression, of a response that is there, and no item twice; else None."""
    (packed,) = request.impressions.values()
    impression = Impression.FromString(packed[_IMPRESSION.size :])
    kept = request.responses.get(impression.response_id)
    if kept is None:
        return None
    response = RankingResponse.FromString(kept)
    candidates, items = ids(response.candidates.item_id), ids(impression.item_id)
    row_of_item = dict(zip(candidates, range(len(candidates)), strict=True))
    if len(row_of_item) < len(candidates) or len(set(items)) < len(items):
        return None
    try:
        rows = [row_of_item[item] for item in items]
    except KeyError:
        return None
    first = impression.first_position
    return Chosen(response, rows, items, range(first, first + len(items)))


def _consistent(
    request_id: str, request: Request, rows: dict[str, dict[int, int]]
) -> tuple[list[_Shown], list[Unusable]]:
    """The impressions of the one response that was shown first, in shown order, and the others."""
    impressions = []
    for identity, packed in request.impressions.items():
        record = Record.unpack(packed)
        impressions.append(_Shown(Impression.FromString(record.value), identity, record))
    usable: list[_Shown] = []
    unusable: list[Unusable] = []

    def refuse(shown: _Shown, reason: Reason, detail: str) -> None:
        unusable.append(Unusable(shown.record, Rejected(reason, f"request {request_id}: {detail}")))

    for shown in sorted(impressions, key=lambda shown: (shown.impression.impression_time_ms, _order(shown))):
        name = shown.impression.response_id
        if name not in rows:
            there = ", ".join(sorted(rows)) or "none"
            detail = f"response {name} did not come by the label time; came: {there}, {len(request.feedback)} feedback"
            refuse(shown, Reason.RESPONSE_MISSING, detail)
            continue
        unknown = [item for item in ids(shown.impression.item_id) if item not in rows[name]]
        if unknown:
            refuse(shown, Reason.UNKNOWN_CANDIDATE, f"response {name} has no item {', '.join(map(str, unknown[:8]))}")
        elif usable and name != usable[0].impression.response_id:
            first = usable[0].impression.response_id
            refuse(shown, Reason.CONFLICTING_IMPRESSION, f"response {name} was shown after response {first}")
        else:
            usable.append(shown)
    return sorted(usable, key=_order), unusable


def _order(shown: _Shown) -> tuple[int, int, bytes]:
    impression = shown.impression
    return impression.first_position, impression.impression_time_ms, shown.identity


def _rows(item_id: bytes) -> dict[int, int]:
    """item -> its first row among the candidates, in their order."""
    items = ids(item_id)
    rows = dict(zip(reversed(items), range(len(items) - 1, -1, -1), strict=True))
    return (
        {item: rows[item] for item in items}
        if len(rows) < len(items)
        else dict(zip(items, range(len(items)), strict=True))
    )


def ids(column: bytes) -> tuple[int, ...]:
    """A column of uint64 little-endian. (Without arrays: a request has few, and a call of numpy costs as much.)"""
    return struct.unpack(f"<{len(column) // _ID_BYTES}Q", column)


def counting_feedback(
    given: Iterable[Given], response_id: str, items: Collection[int], counts: Counter[str]
) -> list[Given]:
    """Of a request's feedback, that to the response and an item that were shown; the other is counted."""
    counting = []
    for each in given:
        if each.response_id != response_id and each.response_id:
            counts["feedback_to_other_response"] += 1
        elif each.item_id not in items:
            counts["feedback_to_unshown_item"] += 1
        else:
            counting.append(each)
    return counting


def next_version(
    example: TrainingExample, feedback: Iterable[Feedback], caused_by: Sequence[bytes], settings: ExampleSettings
) -> TrainingExample | None:
    """The example revised by all its feedback; None when no label changes.

    Args:
        caused_by: ids of the feedback since `example`.
    """
    items = ids(example.targets.item_id)
    labels = label_targets(settings.tasks, items, feedback, example.request_time_ms)
    before = {column.task: column.labels for column in example.labels}
    if all(before.get(task.name) == column for task, column in zip(settings.tasks, labels, strict=True)):
        return None
    revised = TrainingExample()
    revised.CopyFrom(example)
    revised.label_version += 1
    del revised.labels[:], revised.caused_by[:]
    revised.caused_by.extend(caused_by)
    for task, column in zip(settings.tasks, labels, strict=True):
        # A task that is new since the example was written has changed where it is positive.
        known = before.get(task.name, bytes(len(items)))
        changed = [row for row, (old, new) in enumerate(zip(known, column, strict=True)) if old != new]
        revised.labels.add(task=task.name, labels=column, weight=task.weight, changed_targets=changed)
    return revised
