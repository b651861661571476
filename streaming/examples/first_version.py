"""A request's first example, its bytes written directly: the message and its parts were a third of what it costs. Pure.

They are those of Protobuf's own deterministic serialisation (tested); wire format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final

from schemas import SCHEMA_VERSION
from schemas.v1.ranking_pb2 import FeatureColumn, RankingResponse
from schemas.v1.training_pb2 import TaskLabels
from streaming.examples.build import Chosen
from streaming.examples.labels import Feedback, Task, label_targets
from streaming.sequence.update import varint

_INT64_BYTES: Final = 8
_FLOAT32_BYTES: Final = 4
_UINT64_MASK: Final = (1 << 64) - 1
_HEAD: Final = b"\x08" + varint(SCHEMA_VERSION)
_FIRST: Final = b"\x30\x01"


class FirstVersions:
    """The examples of some tasks at their label times."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        # What stands before and behind a task's labels.
        self._frames = [
            (TaskLabels(task=task.name).SerializeToString(), TaskLabels(weight=task.weight).SerializeToString())
            for task in tasks
        ]

    def encode(
        self,
        user_id: int,
        request_id: str,
        request_time_ms: int,
        chosen: Chosen,
        feedback: Iterable[Feedback],
        superseded: int,
    ) -> bytes:
        """The TrainingExample's bytes.

        Args:
            feedback: to any of the targets.
            superseded: responses to the request that were not shown.
        """
        response, rows, items, positions = chosen
        parts = [
            _HEAD,
            _delimited(b"\x12", request_id.encode("ascii")),
            _delimited(b"\x1a", response.response_id.encode("ascii")),
            b"\x20" + varint(user_id),
            b"\x28" + varint(request_time_ms & _UINT64_MASK) if request_time_ms else b"",
            _FIRST,
            _delimited(b"\x3a", _targets(response, rows, items)),
        ]
        if positions:
            parts.append(_delimited(b"\x42", struct.pack(f"<{len(positions)}H", *positions)))
        labels = label_targets(self._tasks, items, feedback, request_time_ms)
        for (before, behind), column in zip(self._frames, labels, strict=True):
            parts.append(_delimited(b"\x4a", before + _delimited(b"\x12", column) + behind))
        parts.append(_delimited(b"\x52", response.stamp.SerializeToString(deterministic=True)))
        if superseded:
            parts.append(b"\x58" + varint(superseded))
        parts += [_delimited(b"\x6a", column.SerializeToString(deterministic=True)) for column in response.context]
        return b"".join(parts)


def _targets(response: RankingResponse, rows: Sequence[int], items: Sequence[int]) -> bytes:
    """`Candidates`: these rows of the response's."""
    candidates = response.candidates
    targets = _delimited(b"\x0a", struct.pack(f"<{len(items)}Q", *items))
    group_id = candidates.group_id
    if group_id:
        targets += _delimited(b"\x12", _take(group_id, rows, _INT64_BYTES))
    for column in candidates.features:
        targets += _delimited(b"\x1a", _feature(column, rows))
    return targets


def _feature(column: FeatureColumn, rows: Sequence[int]) -> bytes:
    feature = _delimited(b"\x0a", column.name.encode("ascii"))
    if column.int64:
        feature += _delimited(b"\x12", _take(column.int64, rows, _INT64_BYTES))
    if column.float32:
        feature += _delimited(b"\x1a", _take(column.float32, rows, _FLOAT32_BYTES))
    return feature


def _take(column: bytes, rows: Sequence[int], width: int) -> bytes:
    """The values of these rows."""
    code = "Q" if width == _INT64_BYTES else "I"
    values = struct.unpack(f"<{len(column) // width}{code}", column)
    if len(rows) == 1:
        return struct.pack(f"<{code}", values[rows[0]])
    return struct.pack(f"<{len(rows)}{code}", *itemgetter(*rows)(values))


def _delimited(tag: bytes, content: bytes) -> bytes:
    """A field of bytes."""
    return b"%b%b%b" % (tag, varint(len(content)), content)
