"""The sequence step in Flink: keyed state under it, Kafka rows around it."""

from __future__ import annotations

import time
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
from streaming.flink.internals import OutputRow
from streaming.flink.metrics import SEQUENCE_COUNTERS, SEQUENCE_DISTRIBUTIONS, Metrics, late_counter, reason_counter
from streaming.flink.rows import message_row, wall_clock_ms
from streaming.flink.sinks import output_type
from streaming.sequence.accept import accept_event
from streaming.sequence.step import Outcome, SequenceSettings, SequenceStep

STAGE: Final = "sequence_job"
#: How long a count may wait for Flink to see it: every call into Java is a share of an event's cost.
_PUBLISH_EVERY_MS: Final = 1_000
#: One record of so many is timed.
_SAMPLED: Final = 64


def snapshot_tag() -> OutputTag:
    """Where the snapshots go; built afresh at every use, for a used type cannot be pickled."""
    return OutputTag("snapshots", output_type())


def dead_letter_tag() -> OutputTag:
    """Where the dead letters go; likewise."""
    return OutputTag("dead-letters", output_type())


class FlinkUserState:
    """`UserState` over the current key's Flink state."""

    def __init__(self, header: ValueState, chunks: MapState, ids: MapState) -> None:
        self._header = header
        self._chunks = chunks
        self._ids = ids
        #: Of the last header written and of the last chunks read: the user's own, right after a snapshot of it.
        self.header_bytes = 0
        self.chunk_bytes = 0

    def get_header(self) -> bytes | None:
        header: bytes | None = self._header.value()
        return header

    def put_header(self, header: bytes) -> None:
        self._header.update(header)
        self.header_bytes = len(header)

    def get_chunks(self, numbers: range) -> Iterable[bytes | None]:
        chunks: list[bytes | None] = [self._chunks.get(number) for number in numbers]
        self.chunk_bytes = sum(len(chunk) for chunk in chunks if chunk is not None)
        return chunks

    def put_chunk(self, number: int, chunk: bytes) -> None:
        self._chunks.put(number, chunk)

    def remove_chunk(self, number: int) -> None:
        self._chunks.remove(number)

    def get_ids(self, number: int) -> bytes | None:
        ids: bytes | None = self._ids.get(number)
        return ids

    def put_ids(self, number: int, ids: bytes) -> None:
        self._ids.put(number, ids)

    def remove_ids(self, number: int) -> None:
        self._ids.remove(number)


class SequenceFunction(Shipped, KeyedProcessFunction):  # type: ignore[misc]
    """Rows of `source.record_type` in; updates out, snapshots and dead letters on the side, all `sinks.output_type`.

    Args:
        cached_users: see `SequenceStep`.
    """

    def __init__(
        self,
        settings: SequenceSettings,
        limits: Limits,
        cached_users: int,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._cached_users = cached_users
        self._clock_ms = clock_ms

    def open(self, runtime_context: RuntimeContext) -> None:
        """Flink's hook: state and metrics, on the TaskManager."""
        # Bytes in state are declared pickled: PRIMITIVE_ARRAY(BYTE) does not survive thread mode.
        self._state = FlinkUserState(
            runtime_context.get_state(ValueStateDescriptor("header", Types.PICKLED_BYTE_ARRAY())),
            runtime_context.get_map_state(MapStateDescriptor("chunks", Types.LONG(), Types.PICKLED_BYTE_ARRAY())),
            runtime_context.get_map_state(MapStateDescriptor("event-ids", Types.LONG(), Types.PICKLED_BYTE_ARRAY())),
        )
        self._metrics = Metrics(runtime_context, SEQUENCE_COUNTERS, SEQUENCE_DISTRIBUTIONS)
        #: When the one timer fires that publishes the metrics; 0: there is nothing to publish.
        self._publish_ms = 0
        self._records = 0
        self._step = SequenceStep(self._settings, self._cached_users)
        self._snapshots, self._dead_letters = snapshot_tag(), dead_letter_tag()

    def close(self) -> None:
        """Flink's hook: the task ends."""
        self._metrics.publish()

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one record."""
        self._records += 1
        started_ns = 0 if self._records % _SAMPLED else time.perf_counter_ns()
        _, key, body, partition, offset = value
        timestamp_ms = ctx.timestamp()
        now_ms = self._clock_ms()
        if not self._publish_ms:
            self._publish_ms = now_ms + _PUBLISH_EVERY_MS
            ctx.timer_service().register_processing_time_timer(self._publish_ms)
        try:
            event = accept_event(key, body, partition, timestamp_ms, self._limits)
            outcome = self._step.on_event(self._state, event, partition, offset, now_ms)
        except Rejected as refused:
            self._metrics.add(reason_counter(refused.reason.value))
            letter = dead_letter(refused, STAGE, Source(EVENTS.name, partition, offset, timestamp_ms), key, body)
            yield self._dead_letters, message_row(key or b"", letter)
            return
        update = outcome.update
        if update is not None:
            row = OutputRow(key, update)
            self._metrics.add("accepted")
            if started_ns:
                self._metrics.observe("processing_us", (time.perf_counter_ns() - started_ns) // 1_000)
            yield row
        if outcome.plain:
            return
        yield from self._emit(outcome, key, ctx)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[object]:
        """Flink's hook: the time for a snapshot may have come, or that to publish the metrics."""
        if timestamp == self._publish_ms:
            self._publish_ms = 0
            self._metrics.publish()
        user_id = int(ctx.get_current_key())
        outcome = self._step.on_timer(self._state, user_id, timestamp)
        yield from self._emit(outcome, user_key(user_id), ctx)

    def _emit(self, outcome: Outcome, key: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """All but the update."""
        metrics = self._metrics
        if outcome.duplicate:
            metrics.add("duplicates")
        if outcome.late_ms:
            metrics.add(late_counter(outcome.late_ms))
        if outcome.evicted_events:
            metrics.add("evicted_chunks", outcome.evicted_chunks)
            metrics.add("evicted_events", outcome.evicted_events)
        if outcome.erased:
            metrics.add("erased")
        if outcome.seeded:
            metrics.add("seeded")
        if outcome.timer_ms is not None:
            ctx.timer_service().register_processing_time_timer(outcome.timer_ms)
        if outcome.snapshot is not None:
            metrics.add("snapshots")
            metrics.observe("snapshot_age_ms", outcome.snapshot_age_ms)
            metrics.observe("snapshot_bytes", len(outcome.snapshot.packed))
            metrics.observe("user_state_bytes", self._state.header_bytes + self._state.chunk_bytes)
            yield self._snapshots, message_row(key, outcome.snapshot)
