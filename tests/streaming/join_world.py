"""The join of one user over a dict with event-time timers, and an oracle that sees all records at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from schemas.reasons import Rejected
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Candidates,
    FeatureColumn,
    Impression,
    RankingResponse,
    Stamp,
)
from schemas.v1.training_pb2 import LateFeedback, TrainingExample
from streaming.examples.build import Record, Unusable
from streaming.examples.join import ExampleJoin
from streaming.examples.labels import Acted, AllOf, Not, Task, Watched
from streaming.examples.settings import ExampleSettings, JoinLimits
from streaming.examples.turn import JoinOutcome
from streaming.sequence.accept import accepted

USER = 9
START_MS = 1_750_000_000_000
LABEL_MS = 1_000
REVISION_MS = 3_000
ATTRIBUTION_MS = 700
NEVER_MS = -(1 << 63)
END_MS = START_MS + 1_000 * LABEL_MS
TASKS = (
    Task(name="touch", rule=Acted(), window_ms=LABEL_MS),
    Task(name="share", rule=Acted(frozenset({3, 4})), window_ms=400, weight=0.5),
    Task(
        name="bored",
        rule=AllOf((Watched(500.0, of_duration=False, below=True), Not(Acted(frozenset({3}))))),
        window_ms=LABEL_MS,
    ),
)
PLAIN = ExampleSettings(tasks=TASKS)
FULL = ExampleSettings(tasks=TASKS, revision_window_ms=REVISION_MS, attribution_window_ms=ATTRIBUTION_MS)


@dataclass
class DictState:
    entries: dict[int, bytes] = field(default_factory=dict)

    def get(self, slot: int) -> bytes | None:
        return self.entries.get(slot)

    def put(self, slot: int, packed: bytes) -> None:
        self.entries[slot] = packed

    def remove(self, slot: int) -> None:
        del self.entries[slot]


def column(items: list[int]) -> bytes:
    return np.asarray(items, dtype="<u8").tobytes()


def time_of(request: int) -> int:
    # Two requests share a millisecond.
    return START_MS + request // 2 * 300


@dataclass(frozen=True)
class Response:
    request: int
    number: int
    items: tuple[int, ...]
    groups: bool = True
    invalid: bool = False
    #: Published so long after its time.
    lag_ms: int = 0

    @property
    def published_ms(self) -> int:
        return time_of(self.request) + self.lag_ms

    def message(self) -> RankingResponse:
        items = list(self.items)
        return RankingResponse(
            schema_version=1,
            request_id=f"q{self.request}",
            response_id=f"s{self.number}",
            user_id=USER,
            request_time_ms=time_of(self.request),
            status=RESPONSE_STATUS_INVALID if self.invalid else RESPONSE_STATUS_OK,
            candidates=Candidates(
                item_id=column(items),
                group_id=column([item * 10 for item in items]) if self.groups else b"",
                features=[FeatureColumn(name="age", float32=np.asarray(items, "<f4").tobytes())],
            ),
            stamp=Stamp(epoch=1, seq_no=self.number + 1, digest=7, model_version="m"),
            context=[FeatureColumn(name="place", int64=np.asarray([self.number], "<i8").tobytes())],
        )


@dataclass(frozen=True)
class Shown:
    request: int
    response: int
    items: tuple[int, ...]
    first_position: int = 0
    after_ms: int = 0
    offset: int = 0
    lag_ms: int = 0

    @property
    def time_ms(self) -> int:
        return time_of(self.request) + self.after_ms

    @property
    def published_ms(self) -> int:
        return self.time_ms + self.lag_ms

    def message(self) -> Impression:
        return Impression(
            schema_version=1,
            user_id=USER,
            request_id=f"q{self.request}",
            response_id=f"s{self.response}",
            request_time_ms=time_of(self.request),
            impression_time_ms=self.time_ms,
            item_id=column(list(self.items)),
            first_position=self.first_position,
        )

    @property
    def value(self) -> bytes:
        return self.message().SerializeToString(deterministic=True)

    @property
    def order(self) -> tuple[int, int, bytes]:
        return self.first_position, self.after_ms, blake2b(self.value, digest_size=16).digest()


@dataclass(frozen=True)
class Feedback:
    """`request` None: it names none, and `after_ms` counts from the start."""

    request: int | None
    response: int
    event: int
    item: int
    action: int = 1
    after_ms: int = 5
    #: Acted so long before it was published.
    age_ms: int = 0
    watch_ms: int | None = None

    @property
    def published_ms(self) -> int:
        return (START_MS if self.request is None else time_of(self.request)) + self.after_ms

    @property
    def acted_ms(self) -> int:
        return self.published_ms - self.age_ms

    @property
    def event_id(self) -> bytes:
        return self.event.to_bytes(16, "big")

    def message(self) -> BehaviourEvent:
        event = BehaviourEvent(
            schema_version=1,
            user_id=USER,
            event_id=self.event_id,
            event_time_ms=self.acted_ms,
            interaction=Interaction(item_id=self.item, action=self.action, watch_ms=self.watch_ms, duration_ms=1_000),
        )
        if self.request is not None:
            request_id, response_id = f"q{self.request}", f"s{self.response}"
            time_ms = time_of(self.request)
            event.request.CopyFrom(RequestRef(request_id=request_id, response_id=response_id, request_time_ms=time_ms))
        return event


Input = Response | Shown | Feedback


class World:
    """A user's join over a dict, with event-time timers.

    Args:
        kept: see `ExampleJoin`.
    """

    def __init__(self, settings: ExampleSettings = FULL, kept: int = 0) -> None:
        self.settings = settings
        self.kept = kept
        self.join = ExampleJoin(settings, kept)
        self.state = DictState()
        self.timers: set[int] = set()
        self.watermark_ms = NEVER_MS
        self.examples: list[TrainingExample] = []
        self.unusable: list[Unusable] = []
        self.late: list[LateFeedback] = []
        self.refused: list[Rejected] = []
        self.counts: Counter[str] = Counter()

    def _book(self, outcome: JoinOutcome) -> None:
        for user_id, example in outcome.examples:
            assert user_id == USER
            self.examples.append(TrainingExample.FromString(example))
        self.unusable += (unusable for _, unusable in outcome.unusable)
        self.late += outcome.late
        self.counts += outcome.counts
        self.timers |= {time_ms for _, time_ms in outcome.timers}

    def take(self, one: Input) -> None:
        outcome = JoinOutcome()
        try:
            if isinstance(one, Response):
                self.join.on_response(self.state, one.message(), one.published_ms, self.watermark_ms, outcome)
            elif isinstance(one, Shown):
                record = Record(3, one.offset, one.published_ms, one.value)
                self.join.on_impression(self.state, one.message(), record, self.watermark_ms, outcome)
            else:
                event = accepted(one.message())
                self.join.on_feedback(self.state, event, 3, one.event, one.published_ms, self.watermark_ms, outcome)
        except Rejected as refused:
            self.refused.append(refused)
        self._book(outcome)

    def advance(self, watermark_ms: int) -> None:
        """Timers that a timer asks for fire, too, as in Flink."""
        self.watermark_ms = max(watermark_ms, self.watermark_ms)
        while due := sorted(timer for timer in self.timers if timer <= self.watermark_ms):
            self.timers.discard(due[0])
            outcome = JoinOutcome()
            self.join.on_timer(self.state, USER, due[0], outcome)
            self._book(outcome)

    def restart(self) -> None:
        """From a checkpoint: another process over the same state."""
        self.join.values.flush()
        self.join = ExampleJoin(self.settings, self.kept)

    def finish(self) -> tuple[list[bytes], list[tuple[str, int]], list[bytes]]:
        """Examples, refused impressions, late feedback."""
        self.advance(END_MS)
        self.join.values.flush()
        assert not self.state.entries
        assert self.counts["requests_opened"] == self.counts["requests_released"]
        return (
            [example.SerializeToString(deterministic=True) for example in self.examples],
            sorted((each.refused.reason, each.record.offset) for each in self.unusable),
            # At least once, as its readers know.
            sorted({late.SerializeToString(deterministic=True) for late in self.late}),
        )


def run(inputs: list[Input], settings: ExampleSettings = FULL) -> World:
    """All of them before the watermark moves."""
    world = World(settings)
    for one in inputs:
        world.take(one)
    world.finish()
    return world


def contents(example: TrainingExample) -> dict[str, object]:
    """An example as `expected` tells it."""
    items = np.frombuffer(example.targets.item_id, "<u8").tolist()
    (age,) = example.targets.features
    (place,) = example.context
    assert np.frombuffer(age.float32, "<f4").tolist() == items
    return {
        "version": example.label_version,
        "response": example.response_id,
        "place": int(np.frombuffer(place.int64, "<i8")[0]),
        "items": items,
        "positions": np.frombuffer(example.position, "<u2").tolist(),
        "groups": np.frombuffer(example.targets.group_id, "<u8").tolist(),
        "labels": {one.task: list(one.labels) for one in example.labels},
        "weights": [one.weight for one in example.labels],
        "changed": {one.task: list(one.changed_targets) for one in example.labels if one.changed_targets},
        "caused_by": [int.from_bytes(one, "big") for one in example.caused_by],
        "superseded": example.superseded_responses,
    }


def expected(inputs: list[Input], request: int, settings: ExampleSettings = FULL) -> list[dict[str, object]]:
    """All versions of a request's example, straight from the contract, by filtering the whole list."""
    responses = {
        one.number: one
        for one in inputs
        if isinstance(one, Response) and one.request == request and not one.invalid and _in_time(one, settings)
    }
    good = [
        one
        for one in inputs
        if isinstance(one, Shown)
        and one.request == request
        and _in_time(one, settings)
        and one.response in responses
        and set(one.items) <= set(responses[one.response].items)
    ]
    if not good:
        return []
    first = min(good, key=lambda one: (one.after_ms, one.order))
    targets: dict[int, int] = {}
    for one in sorted(good, key=lambda one: one.order):
        if one.response == first.response:
            for index, item in enumerate(one.items):
                targets.setdefault(item, one.first_position + index)
    mine = {
        (one.published_ms, one.event_id): one
        for one in inputs
        if isinstance(one, Feedback)
        and _belongs(one, inputs, settings) == (request, first.response)
        and one.item in targets
        and time_of(request) <= one.published_ms <= time_of(request) + settings.kept_ms
    }
    ordered = [one for _, one in sorted(mine.items())]
    known = [one for one in ordered if one.published_ms <= time_of(request) + settings.label_window_ms]
    example: dict[str, object] = {
        "version": 1,
        "response": f"s{first.response}",
        "place": first.response,
        "items": list(targets),
        "positions": list(targets.values()),
        "groups": [item * 10 for item in targets] if responses[first.response].groups else [],
        "labels": _labels(known, list(targets), request),
        "weights": [1.0, 0.5, 1.0],
        "changed": {},
        "caused_by": [],
        "superseded": len(responses) - 1,
    }
    versions, since = [example], []
    for one in ordered[len(known) :]:
        known.append(one)
        since.append(one.event)
        labels, before = _labels(known, list(targets), request), versions[-1]["labels"]
        assert isinstance(before, dict)
        changed = {
            task: [row for row in range(len(targets)) if labels[task][row] != before[task][row]] for task in labels
        }
        if any(changed.values()):
            changed = {task: rows for task, rows in changed.items() if rows}
            number = len(versions) + 1
            versions.append({**example, "version": number, "labels": labels, "changed": changed, "caused_by": since})
            since = []
    return versions


def _in_time(one: Response | Shown, settings: ExampleSettings) -> bool:
    return one.published_ms <= time_of(one.request) + settings.label_window_ms


def _belongs(one: Feedback, inputs: list[Input], settings: ExampleSettings) -> tuple[int, int] | None:
    if one.request is not None:
        return one.request, one.response
    possible = [
        (shown.time_ms, time_of(shown.request), shown.request, shown.response)
        for shown in inputs
        if isinstance(shown, Shown)
        and one.item in shown.items
        and _in_time(shown, settings)
        and shown.published_ms <= one.published_ms
        and one.published_ms - settings.attribution_window_ms <= shown.time_ms <= min(one.acted_ms, one.published_ms)
    ]
    return max(possible)[2:] if possible and settings.attribution_window_ms else None


def _labels(feedback: list[Feedback], items: list[int], request: int) -> dict[str, list[int]]:
    def within(item: int, window_ms: int) -> list[Feedback]:
        return [one for one in feedback if one.item == item and one.acted_ms <= time_of(request) + window_ms]

    def bored(given: list[Feedback]) -> bool:
        told = [one.watch_ms for one in given if one.watch_ms is not None]
        return bool(told) and max(told) < 500 and not any(one.action == 3 for one in given)

    return {
        "touch": [int(bool(within(item, LABEL_MS))) for item in items],
        "share": [int(any(one.action in (3, 4) for one in within(item, 400))) for item in items],
        "bored": [int(bored(within(item, LABEL_MS))) for item in items],
    }


def limited(**limits: int) -> ExampleSettings:
    """`FULL` with other limits."""
    return ExampleSettings(
        tasks=TASKS,
        revision_window_ms=REVISION_MS,
        attribution_window_ms=ATTRIBUTION_MS,
        limits=JoinLimits(**limits),
    )
