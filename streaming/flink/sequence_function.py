"""The sequence step in Flink: keyed state under it, Kafka rows around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from pyflink.common import Row
from pyflink.common.typeinfo import Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor, ValueState, ValueStateDescriptor

from schemas.limits import Limits
from schemas.partitioner import user_key
from schemas.reasons import Rejected
from schemas.topics import EVENTS
from streaming.dead_letters import Source, dead_letter
from streaming.flink.fresh_code import Shipped
from streaming.flink.metrics import SEQUENCE_COUNTERS, Counters, reason_counter
from streaming.flink.rows import message_row, wall_clock_ms
from streaming.flink.sinks import output_type
from streaming.sequence.accept import accept_event
from streaming.sequence.step import Outcome, SequenceSettings, SequenceStep

STAGE: Final = "sequence_job"


def snapshot_tag() -> OutputTag:
    """Where the snapshots go; built afresh at every use, for a used type cannot be pickled."""
    return OutputTag("snapshots", output_type())


def dead_letter_tag() -> OutputTag:
    """Where the dead letters go; likewise."""
    return OutputTag("dead-letters", output_type())


class FlinkUserState:
    """`UserState` over the current key's Flink state."""

    def __init__(self, header: ValueState, chunks: MapState) -> None:
        self._header = header
        self._chunks = chunks

    def get_header(self) -> bytes | None:
        header: bytes | None = self._header.value()
        return header

    def put_header(self, header: bytes) -> None:
        self._header.update(header)

    def get_chunks(self, numbers: range) -> Iterable[bytes | None]:
        return [self._chunks.get(number) for number in numbers]

    def put_chunk(self, number: int, chunk: bytes) -> None:
        self._chunks.put(number, chunk)

    def remove_chunk(self, number: int) -> None:
        self._chunks.remove(number)


class SequenceFunction(Shipped, KeyedProcessFunction):  # type: ignore[misc]
    """Rows of `source.record_type` in; updates out, snapshots and dead letters on the side, all `sinks.output_type`."""

    def __init__(self, settings: SequenceSettings, limits: Limits, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._settings = settings
        self._limits = limits
        self._clock_ms = clock_ms

    def open(self, runtime_context: RuntimeContext) -> None:
        """Flink's hook: state and counters, on the TaskManager."""
        # Bytes in state are declared pickled: PRIMITIVE_ARRAY(BYTE) does not survive thread mode.
        self._state = FlinkUserState(
            runtime_context.get_state(ValueStateDescriptor("header", Types.PICKLED_BYTE_ARRAY())),
            runtime_context.get_map_state(MapStateDescriptor("chunks", Types.LONG(), Types.PICKLED_BYTE_ARRAY())),
        )
        self._counters = Counters(runtime_context, SEQUENCE_COUNTERS)
        self._step = SequenceStep(self._settings)
        self._snapshots, self._dead_letters = snapshot_tag(), dead_letter_tag()

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one record."""
        _, key, body, partition, offset = value
        timestamp_ms = ctx.timestamp()
        try:
            event = accept_event(key, body, partition, timestamp_ms, self._limits)
            outcome = self._step.on_event(self._state, event, partition, offset, self._clock_ms())
        except Rejected as refused:
            self._counters.add(reason_counter(refused.reason.value))
            letter = dead_letter(refused, STAGE, Source(EVENTS.name, partition, offset, timestamp_ms), key, body)
            yield self._dead_letters, message_row(key or b"", letter)
            return
        if outcome.duplicate:
            self._counters.add("duplicates")
            return
        yield from self._emit(outcome, key, ctx)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[object]:
        """Flink's hook: the time for a snapshot may have come."""
        user_id = int(ctx.get_current_key())
        outcome = self._step.on_timer(self._state, user_id, timestamp)
        yield from self._emit(outcome, user_key(user_id), ctx)

    def _emit(self, outcome: Outcome, key: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        if outcome.update is not None:
            self._counters.add("accepted")
            if outcome.late:
                self._counters.add("late")
            yield message_row(key, outcome.update)
        if outcome.snapshot is not None:
            self._counters.add("snapshots")
            if outcome.seeded:
                self._counters.add("seeded")
            if outcome.erased:
                self._counters.add("erased")
            yield self._snapshots, message_row(key, outcome.snapshot)
        if outcome.evicted_chunks:
            self._counters.add("evicted_chunks", outcome.evicted_chunks)
        if outcome.timer_ms is not None:
            ctx.timer_service().register_processing_time_timer(outcome.timer_ms)
