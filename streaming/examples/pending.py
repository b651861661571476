"""What waits in one user's state: requests until their labels are final, and feedback that has not found its request.

Two kinds of values in one map. Under a label time (ms, above 0): the requests that have it, normally one. Under 0: the
user's own, what concerns no single request. Both begin with the layout's version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, Protocol, Self

from schemas.history import HAS_DURATION, HAS_GROUP, HAS_SURFACE, HAS_WATCH
from streaming.sequence.state import EVENT_ID_BYTES, StateError

PENDING_VERSION: Final = 2
#: Where the user's own value stands.
USER_SLOT: Final = 0

_IDENTITY_BYTES: Final = 16
_COUNT: Final = struct.Struct("<I")
#: published, event_id, partition, offset, `schemas.history`'s encoding, and the bytes of the response's id, which
#: follows.
_GIVEN: Final = struct.Struct("<q16sIqqQQIIIIBB")
_WAITING: Final = struct.Struct("<q")
_SHOWN: Final = struct.Struct("<qqqq")
_DUE: Final = struct.Struct("<q")
_DUES: Final = struct.Struct("<qq")
_SWEEP: Final = struct.Struct("<q")


class PendingState(Protocol):
    """One user's part of the keyed state."""

    def get(self, slot: int) -> bytes | None: ...

    def put(self, slot: int, packed: bytes) -> None: ...

    def remove(self, slot: int) -> None: ...


class Given(NamedTuple):
    """Feedback with its record's timestamp, ms, and coordinates; what it says, as the rules see it (`labels.Feedback`);
    and the response it names, "": none.

    One flat tuple, and written out wherever it is made: it is what most records become.
    """

    published_ms: int
    event_id: bytes
    partition: int
    offset: int
    event_time_ms: int
    item_id: int
    action: int
    #: These four are -1 where they are absent.
    watch_ms: int
    duration_ms: int
    surface: int
    group_id: int
    response_id: str


class Phase(IntEnum):
    """How far a request is."""

    #: Its records are collected.
    OPEN = 0
    #: The example is written; feedback may revise it.
    WRITTEN = 1


@dataclass(slots=True)
class Request:
    """One request. OPEN: everything that came, each once. WRITTEN: its newest example, and the feedback it knows."""

    phase: Phase = Phase.OPEN
    #: response_id -> a RankingResponse with what the example needs of it.
    responses: dict[str, bytes] = field(default_factory=dict)
    #: BLAKE2b-128 of the record -> its coordinates and value, see `join`.
    impressions: dict[bytes, bytes] = field(default_factory=dict)
    #: event_id ->
    feedback: dict[bytes, Given] = field(default_factory=dict)
    #: The TrainingExample that was written last.
    example: bytes = b""
    #: Ids of the feedback that came since then and changed no label.
    since: list[bytes] = field(default_factory=list)


class Shown(NamedTuple):
    """An impression, for the attribution of feedback that names no request; ms."""

    time_ms: int
    request_time_ms: int
    due_ms: int
    request_id: str
    response_id: str
    published_ms: int
    #: The items, and their column: uint64 little-endian.
    items: frozenset[int]
    item_id: bytes


class Waiting(NamedTuple):
    """Feedback that takes effect when the watermark is where it was published; `request_id` "": it names none."""

    given: Given
    due_ms: int
    request_id: str


@dataclass(slots=True)
class DueRequests:
    """A user's requests with one label time."""

    #: Of all of them. (It does not follow from the label time: the windows may have changed since.)
    request_time_ms: int = 0
    requests: dict[str, Request] = field(default_factory=dict)
    #: Something of it is in the state.
    stored: bool = False

    def pack(self) -> bytes:
        """Bytes for the state."""
        parts: list[bytes] = [
            bytes([PENDING_VERSION]),
            _DUE.pack(self.request_time_ms),
            _COUNT.pack(len(self.requests)),
        ]
        for request_id, request in self.requests.items():
            parts += _text(request_id), bytes([request.phase]), _COUNT.pack(len(request.responses))
            for response_id, response in request.responses.items():
                parts += _text(response_id), _blob(response)
            parts.append(_COUNT.pack(len(request.impressions)))
            for identity, impression in request.impressions.items():
                parts += identity, _blob(impression)
            parts.append(_COUNT.pack(len(request.feedback)))
            parts += map(_pack_given, request.feedback.values())
            parts += _blob(request.example), _blob(b"".join(request.since))
        return b"".join(parts)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The inverse. Raises StateError: another layout version, or damaged."""
        reader = _Reader(packed)
        (request_time_ms,) = reader.fields(_DUE)
        due = cls(request_time_ms, stored=True)
        for _ in range(reader.count()):
            request_id = reader.text()
            request = due.requests[request_id] = Request(Phase(reader.take(1)[0]))
            request.responses = {reader.text(): reader.blob() for _ in range(reader.count())}
            request.impressions = {reader.take(_IDENTITY_BYTES): reader.blob() for _ in range(reader.count())}
            request.feedback = {given.event_id: given for given in reader.given()}
            request.example, since = reader.blob(), reader.blob()
            request.since = [since[at : at + EVENT_ID_BYTES] for at in range(0, len(since), EVENT_ID_BYTES)]
        reader.end()
        return due


@dataclass(slots=True)
class UserPending:
    """What concerns no single request of the user."""

    #: The label times of the requests that are in the state, and when they are done with.
    dues: dict[int, int] = field(default_factory=dict)
    #: item -> event_id -> feedback that names no request, until the requests that may have shown the item are due.
    loose: dict[int, dict[bytes, Given]] = field(default_factory=dict)
    #: (request_id, event_id) -> feedback published after the label time of its request, until it takes effect.
    waiting: dict[tuple[str, bytes], Waiting] = field(default_factory=dict)
    #: To which feedback may be attributed.
    shown: list[Shown] = field(default_factory=list)
    #: When the timer fires that drops what is left then and too old; 0: there is none.
    sweep_ms: int = 0
    stored: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.loose.values())) + len(self.waiting)

    def pack(self) -> bytes:
        """Bytes for the state."""
        loose = [given for of_item in self.loose.values() for given in of_item.values()]
        parts = [bytes([PENDING_VERSION]), _SWEEP.pack(self.sweep_ms), _COUNT.pack(len(self.dues))]
        parts += (_DUES.pack(*each) for each in self.dues.items())
        parts.append(_COUNT.pack(len(loose)))
        parts += map(_pack_given, loose)
        parts.append(_COUNT.pack(len(self.waiting)))
        for given, due_ms, request_id in self.waiting.values():
            parts += _pack_given(given), _WAITING.pack(due_ms), _text(request_id)
        parts.append(_COUNT.pack(len(self.shown)))
        for time_ms, request_time_ms, due_ms, request_id, response_id, published_ms, _, item_id in self.shown:
            parts += _SHOWN.pack(time_ms, request_time_ms, due_ms, published_ms), _text(request_id), _text(response_id)
            parts += _COUNT.pack(len(item_id)), item_id
        return b"".join(parts)

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The inverse. Raises StateError: another layout version, or damaged."""
        reader = _Reader(packed)
        user = cls(stored=True)
        (user.sweep_ms,) = reader.fields(_SWEEP)
        for _ in range(reader.count()):
            due_ms, until_ms = reader.fields(_DUES)
            user.dues[due_ms] = until_ms
        for given in reader.given():
            user.loose.setdefault(given.item_id, {})[given.event_id] = given
        for _ in range(reader.count()):
            given = reader.one_given()
            (due_ms,) = reader.fields(_WAITING)
            request_id = reader.text()
            user.waiting[request_id, given.event_id] = Waiting(given, due_ms, request_id)
        for _ in range(reader.count()):
            time_ms, request_time_ms, due_ms, published_ms = reader.fields(_SHOWN)
            request_id, response_id, items = reader.text(), reader.text(), reader.blob()
            shown = frozenset(struct.unpack(f"<{len(items) // 8}Q", items))
            names = request_id, response_id
            user.shown.append(Shown(time_ms, request_time_ms, due_ms, *names, published_ms, shown, items))
        reader.end()
        return user


def _text(text: str) -> bytes:
    encoded = text.encode("ascii")
    return bytes([len(encoded)]) + encoded


def _blob(content: bytes) -> bytes:
    return _COUNT.pack(len(content)) + content


def _pack_given(given: Given) -> bytes:
    *record, event_time_ms, item_id, action, watch_ms, duration_ms, surface, group_id, name = given
    response_id = name.encode("ascii")
    fields = (
        (HAS_WATCH if watch_ms >= 0 else 0)
        | (HAS_DURATION if duration_ms >= 0 else 0)
        | (HAS_SURFACE if surface >= 0 else 0)
        | (HAS_GROUP if group_id >= 0 else 0)
    )
    numbers = max(group_id, 0), action, max(surface, 0), max(watch_ms, 0), max(duration_ms, 0), fields
    return _GIVEN.pack(*record, event_time_ms, item_id, *numbers, len(response_id)) + response_id


class _Reader:
    def __init__(self, packed: bytes) -> None:
        if packed[:1] != bytes([PENDING_VERSION]):
            raise StateError(f"pending requests of layout {packed[:1].hex()}: not readable here")
        self._packed, self._at = packed, 1

    def take(self, count: int) -> bytes:
        begin, self._at = self._at, self._at + count
        if self._at > len(self._packed):
            raise StateError(f"pending requests are truncated at byte {len(self._packed)} of {self._at}")
        return self._packed[begin : self._at]

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def count(self) -> int:
        return self.fields(_COUNT)[0]

    def blob(self) -> bytes:
        return self.take(self.count())

    def text(self) -> str:
        return self.take(self.take(1)[0]).decode("ascii")

    def one_given(self) -> Given:
        published_ms, event_id, partition, offset, *said, length = _GIVEN.unpack(self.take(_GIVEN.size))
        time_ms, item, group, action, surface, watch_ms, duration_ms, has = said
        return Given(
            published_ms,
            event_id,
            partition,
            offset,
            time_ms,
            item,
            action,
            watch_ms if has & HAS_WATCH else -1,
            duration_ms if has & HAS_DURATION else -1,
            surface if has & HAS_SURFACE else -1,
            group if has & HAS_GROUP else -1,
            self.take(length).decode("ascii"),
        )

    def given(self) -> Iterator[Given]:
        for _ in range(self.count()):
            yield self.one_given()

    def end(self) -> None:
        if self._at != len(self._packed):
            raise StateError(f"pending requests have {len(self._packed) - self._at} bytes left over")
