"""The example join in Flink: keyed state under it, Kafka rows around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import Final

from google.protobuf.message import Message
from pyflink.common.typeinfo import Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor
from pyflink.datastream.timerservice import TimerService

from schemas.limits import Limits
from schemas.partitioner import user_key
from schemas.reasons import Rejected
from schemas.topics import EVENTS, IMPRESSIONS, LATE_FEEDBACK, RESPONSES, Topic
from streaming.dead_letters import Source, dead_letter
from streaming.examples.accept import accept_feedback, accept_impression, accept_response
from streaming.examples.alarms import Alarm, Alarms
from streaming.examples.build import Record
from streaming.examples.join import ExampleJoin
from streaming.examples.settings import ExampleSettings
from streaming.examples.turn import JoinOutcome
from streaming.flink.batches import split_records, told_watermark
from streaming.flink.collector import collect_rarely
from streaming.flink.fresh_code import Shipped
from streaming.flink.internals import KeySwitch, OutputRow
from streaming.flink.metrics import EXAMPLE_COUNTERS, Metrics, reason_counter
from streaming.flink.rows import message_row, wall_clock_ms
from streaming.flink.saved_alarms import SavedAlarms, is_user
from streaming.flink.sinks import output_type
from streaming.sections import PendingSection

STAGE: Final = "example_job"
#: The job's inputs; a record's tag is its topic's place here.
TOPICS: Final[tuple[Topic, ...]] = (EVENTS, RESPONSES, IMPRESSIONS)
_EVENT, _RESPONSE = 0, 1
_NO_WATERMARK_MS: Final = -(1 << 63)
#: So many ring before what they made goes on its way.
_RING_TOGETHER: Final = 256
#: How long a count may wait for Flink to see it, while records come; a checkpoint shows all.
_PUBLISH_EVERY_MS: Final = 1_000


def dead_letter_tag(topic: Topic) -> OutputTag:
    """Where the dead letters of an input go; built afresh at every use, for a used type cannot be pickled."""
    return OutputTag(f"dead-letters-of-{topic.name}", output_type())


def late_feedback_tag() -> OutputTag:
    """Where feedback goes that came too late; likewise."""
    return OutputTag(LATE_FEEDBACK.name, output_type())


class FlinkPendingState:
    """`PendingState` of one user over Flink's state; Flink has one current key, and each access makes the user's it."""

    __slots__ = ("_keys", "_pending", "_user_id")

    def __init__(self, pending: MapState, keys: KeySwitch, user_id: int) -> None:
        self._pending, self._keys, self._user_id = pending, keys, user_id

    def get(self, slot: int) -> bytes | None:
        self._keys.enter(self._user_id)
        packed: bytes | None = self._pending.get(slot)
        return packed

    def put(self, slot: int, packed: bytes) -> None:
        self._keys.enter(self._user_id)
        self._pending.put(slot, packed)

    def remove(self, slot: int) -> None:
        self._keys.enter(self._user_id)
        self._pending.remove(slot)


class ExampleFunction(Shipped, KeyedProcessFunction):  # type: ignore[misc]
    """Batches of records in; examples out, late feedback and dead letters on the side, all `sinks.output_type`.

    Args:
        kept: how much is kept in Python.
    """

    def __init__(self, settings: ExampleSettings, limits: Limits, kept: PendingSection) -> None:
        self._settings = settings
        self._limits = limits
        self._kept = kept

    def open(self, runtime_context: RuntimeContext) -> None:
        """Flink's hook: state and counters, on the TaskManager."""
        collect_rarely()
        # Bytes in state are declared pickled: PRIMITIVE_ARRAY(BYTE) does not survive thread mode.
        descriptor = MapStateDescriptor("pending", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        self._keys = KeySwitch(runtime_context, self._kept.cached_requests)
        state = partial(FlinkPendingState, runtime_context.get_map_state(descriptor), self._keys)
        self._state_of = lru_cache(maxsize=self._kept.cached_requests)(state)
        self._metrics = Metrics(runtime_context, EXAMPLE_COUNTERS, ())
        self._publish_ms = 0
        #: Whether watermarks and checkpoints are told, see `in_batches`; only then are alarms here.
        self._batched = False
        #: As it was told. Flink's own forgets what it was before a restore.
        self._watermark_ms = _NO_WATERMARK_MS
        self._join = ExampleJoin(self._settings, self._kept.cached_requests)
        self._alarms = Alarms(self._kept.cached_timers)
        self._saved_alarms = SavedAlarms(runtime_context, self._keys, self._kept.cached_requests)
        self._dead_letters = {topic.name: dead_letter_tag(topic) for topic in (RESPONSES, IMPRESSIONS)}
        self._late_feedback = late_feedback_tag()

    def close(self) -> None:
        """Flink's hook: the task ends."""
        self._metrics.publish()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one batch, a watermark, or that the state is about to be saved."""
        self._keys.key_was_set()
        timers = ctx.timer_service()
        if not self._batched:
            self._batched = True
            for alarm in self._saved_alarms.load():
                self._alarms.add(alarm)
        if not value:
            self._join.values.flush()
            self._saved_alarms.save(self._alarms, timers)
            self._metrics.publish()
            return
        told_ms = told_watermark(value)
        if told_ms is not None:
            self._watermark_ms = told_ms
            yield from self._ring(told_ms)
            return
        # No watermark passes within a batch.
        watermark_ms = self._watermark_ms
        outcome = JoinOutcome()
        for tag, key, body, partition, offset, timestamp_ms in split_records(value):
            try:
                self._take(tag, key, body, partition, offset, timestamp_ms, watermark_ms, outcome)
            except Rejected as refused:
                if tag == _EVENT:
                    # The sequence job reads the same record by the same rules and writes its letter; not twice.
                    outcome.counts["refused_events"] += 1
                else:
                    source = Source(TOPICS[tag].name, partition, offset, timestamp_ms)
                    yield self._refuse(refused, source, key, body)
        yield from self._emit(outcome)
        if self._alarms.full:
            self._hand_over(self._alarms.hand_over(), timers)
        self._join.values.write_some()
        now_ms = wall_clock_ms()
        if now_ms >= self._publish_ms:
            self._publish_ms = now_ms + _PUBLISH_EVERY_MS
            self._metrics.publish()

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[object]:
        """Flink's hook: a timer that Flink has. They ring in order, and so do those here between them."""
        self._keys.key_was_set()
        user_id = int(ctx.get_current_key())
        if not is_user(user_id):
            if not self._batched:
                # Restored, and no record has come: nobody says when they are due. Flink does from now on.
                self._hand_over(self._saved_alarms.load(), ctx.timer_service())
                self._saved_alarms.save((), ctx.timer_service())
            return
        yield from self._ring(timestamp - 1)
        outcome = JoinOutcome()
        self._join.on_timer(self._state_of(user_id), user_id, timestamp, outcome)
        if not self._batched:
            # Restored, and no record has come: nobody says yet when the state is saved.
            self._join.values.flush()
            self._hand_over(((time_ms, user_id) for _, time_ms in outcome.timers), ctx.timer_service())
            outcome.timers.clear()
        yield from self._emit(outcome)

    def _ring(self, until_ms: int) -> Iterator[object]:
        outcome = JoinOutcome()
        for number, (time_ms, user_id) in enumerate(self._alarms.ring(until_ms), 1):
            self._join.on_timer(self._state_of(user_id), user_id, time_ms, outcome)
            self._set_alarms(outcome)
            if number % _RING_TOGETHER == 0:
                yield from self._emit(outcome)
                outcome = JoinOutcome()
        yield from self._emit(outcome)

    def _hand_over(self, alarms: Iterable[Alarm], timers: TimerService) -> None:
        for time_ms, user_id in alarms:
            self._keys.enter(user_id)
            timers.register_event_time_timer(time_ms)

    def _set_alarms(self, outcome: JoinOutcome) -> None:
        for user_id, time_ms in outcome.timers:
            self._alarms.add((time_ms, user_id))
        outcome.timers.clear()

    def _take(
        self,
        tag: int,
        key: bytes | None,
        body: bytes | None,
        partition: int,
        offset: int,
        timestamp_ms: int,
        watermark_ms: int,
        outcome: JoinOutcome,
    ) -> None:
        if tag == _EVENT:
            feedback = accept_feedback(key, body, partition, offset, timestamp_ms, self._limits)
            if feedback is None:
                outcome.counts["other_events"] += 1
                return
            self._join.take_feedback(self._state_of(feedback[0]), feedback, watermark_ms, outcome)
        elif tag == _RESPONSE:
            response = accept_response(key, body, partition, timestamp_ms, self._limits)
            state = self._state_of(response.user_id)
            self._join.on_response(state, response, timestamp_ms, watermark_ms, outcome)
        else:
            impression = accept_impression(key, body, partition, timestamp_ms, self._limits)
            assert body is not None  # It was parsed.
            record = Record(partition, offset, timestamp_ms, body)
            self._join.on_impression(self._state_of(impression.user_id), impression, record, watermark_ms, outcome)

    def _emit(self, outcome: JoinOutcome) -> Iterator[object]:
        metrics = self._metrics
        self._set_alarms(outcome)
        for name, count in outcome.counts.items():
            metrics.add(name, count)
        metrics.add("examples", len(outcome.examples))
        for user_id, example in outcome.examples:
            yield OutputRow(user_key(user_id), example)
        for late in outcome.late:
            yield self._late_feedback, message_row(user_key(late.user_id), late)
        for user_id, unusable in outcome.unusable:
            partition, offset, timestamp_ms, value = unusable.record
            source = Source(IMPRESSIONS.name, partition, offset, timestamp_ms)
            yield self._refuse(unusable.refused, source, user_key(user_id), value)

    def _refuse(self, refused: Rejected, source: Source, key: bytes | None, value: bytes | None) -> object:
        self._metrics.add(reason_counter(refused.reason.value))
        letter: Message = dead_letter(refused, STAGE, source, key, value)
        return self._dead_letters[source.topic], message_row(key or b"", letter)
