"""The example join in Flink: keyed state under it, Kafka rows around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from pyflink.common.typeinfo import Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor

from schemas.limits import Limits
from schemas.partitioner import user_key
from schemas.reasons import Rejected
from schemas.topics import EVENTS, IMPRESSIONS, RESPONSES, Topic
from schemas.v1.operations_pb2 import DeadLetter
from streaming.dead_letters import Source, dead_letter
from streaming.examples.accept import accept_impression, accept_response
from streaming.examples.join import STAGE, ExampleJoin, ExampleSettings, JoinOutcome
from streaming.flink.batches import split_records
from streaming.flink.fresh_code import Shipped
from streaming.flink.internals import KeySwitch
from streaming.flink.metrics import EXAMPLE_COUNTERS, Counters, reason_counter
from streaming.flink.rows import message_row, wall_clock_ms
from streaming.flink.sinks import output_type
from streaming.sequence.accept import accept_event

#: The job's inputs; a record's tag is its topic's place here.
TOPICS: Final[tuple[Topic, ...]] = (EVENTS, RESPONSES, IMPRESSIONS)
_EVENT, _RESPONSE = 0, 1
_REMEMBERED_KEYS: Final = 16_384


def dead_letter_tag(topic: Topic) -> OutputTag:
    """Where the dead letters of an input go; built afresh at every use, for a used type cannot be pickled."""
    return OutputTag(f"dead-letters-of-{topic.name}", output_type())


class FlinkPendingState:
    """`PendingState` over the current key's Flink state."""

    def __init__(self, pending: MapState) -> None:
        self._pending = pending

    def get(self, due_ms: int) -> bytes | None:
        pending: bytes | None = self._pending.get(due_ms)
        return pending

    def put(self, due_ms: int, pending: bytes) -> None:
        self._pending.put(due_ms, pending)

    def remove(self, due_ms: int) -> None:
        self._pending.remove(due_ms)


class ExampleFunction(Shipped, KeyedProcessFunction):  # type: ignore[misc]
    """Batches of records in; examples out, dead letters on the side, all `sinks.output_type`."""

    def __init__(self, settings: ExampleSettings, limits: Limits, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._settings = settings
        self._limits = limits
        self._clock_ms = clock_ms

    def open(self, runtime_context: RuntimeContext) -> None:
        """Flink's hook: state and counters, on the TaskManager."""
        # Bytes in state are declared pickled: PRIMITIVE_ARRAY(BYTE) does not survive thread mode.
        descriptor = MapStateDescriptor("pending", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        self._state = FlinkPendingState(runtime_context.get_map_state(descriptor))
        self._keys = KeySwitch(runtime_context, _REMEMBERED_KEYS)
        self._counters = Counters(runtime_context, EXAMPLE_COUNTERS)
        self._join = ExampleJoin(self._settings)
        self._dead_letters = {topic.name: dead_letter_tag(topic) for topic in (RESPONSES, IMPRESSIONS)}

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one batch; an empty one comes before the state is saved, which holds everything already."""
        self._keys.key_was_set()
        timers = ctx.timer_service()
        # No watermark passes within a batch.
        watermark_ms = timers.current_watermark() if value else 0
        counts: Counter[str] = Counter()
        for tag, key, body, partition, offset, timestamp_ms in split_records(value):
            source = Source(TOPICS[tag].name, partition, offset, timestamp_ms)
            try:
                outcome = self._take(tag, key, body, source, watermark_ms)
            except Rejected as refused:
                if tag == _EVENT:
                    # The sequence job reads the same record by the same rules and writes its letter; not twice.
                    counts["refused_events"] += 1
                else:
                    yield from self._refuse(dead_letter(refused, STAGE, source, key, body))
                continue
            if outcome.timer_ms is not None:
                # The user's key is set: something of the user was kept.
                timers.register_event_time_timer(outcome.timer_ms)
            counts.update(outcome.counts)
        self._count(counts)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[object]:
        """Flink's hook: a label time has come."""
        user_id = int(ctx.get_current_key())
        self._keys.key_was_set()
        outcome = self._join.on_timer(self._state, user_id, timestamp, self._clock_ms())
        self._count(outcome.counts)
        for example in outcome.examples:
            self._counters.add("examples")
            yield message_row(user_key(user_id), example)
        for letter in outcome.dead_letters:
            yield from self._refuse(letter)

    def _take(self, tag: int, key: bytes | None, body: bytes | None, source: Source, watermark_ms: int) -> JoinOutcome:
        partition, timestamp_ms = source.partition, source.timestamp_ms
        if tag == _EVENT:
            event = accept_event(key, body, partition, timestamp_ms, self._limits)
            if not event.HasField("request") or not event.HasField("interaction"):
                return _SKIPPED
            self._keys.enter(event.user_id)
            return self._join.on_feedback(self._state, event, timestamp_ms, watermark_ms)
        if tag == _RESPONSE:
            response = accept_response(key, body, partition, timestamp_ms, self._limits)
            self._keys.enter(response.user_id)
            return self._join.on_response(self._state, response, watermark_ms)
        impression = accept_impression(key, body, partition, timestamp_ms, self._limits)
        assert body is not None  # It was parsed.
        self._keys.enter(impression.user_id)
        return self._join.on_impression(self._state, impression, source, body, watermark_ms)

    def _count(self, counts: Counter[str]) -> None:
        for name, count in counts.items():
            self._counters.add(name, count)

    def _refuse(self, letter: DeadLetter) -> Iterator[object]:
        self._counters.add(reason_counter(letter.reason))
        yield self._dead_letters[letter.source_topic], message_row(letter.key, letter)


_SKIPPED: Final = JoinOutcome()
_SKIPPED.counts["skipped_events"] = 1
