"""The sequence step in Flink: keyed state under it, Kafka rows around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Final

from pyflink.common.typeinfo import Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor, ValueState, ValueStateDescriptor

from schemas.limits import Limits
from schemas.partitioner import user_key
from schemas.reasons import Rejected
from schemas.topics import EVENTS
from streaming.dead_letters import Source, dead_letter
from streaming.flink.batches import BatchedRecord, join_rows, split_records
from streaming.flink.collector import collect_rarely
from streaming.flink.fresh_code import Shipped
from streaming.flink.internals import KeySwitch, OutputRow
from streaming.flink.metrics import SEQUENCE_COUNTERS, SEQUENCE_DISTRIBUTIONS, Metrics, late_counter, reason_counter
from streaming.flink.rows import message_row, wall_clock_ms
from streaming.flink.sinks import output_type
from streaming.sequence.accept import accept
from streaming.sequence.step import Outcome, SequenceSettings, SequenceStep

STAGE: Final = "sequence_job"
#: How long a count may wait for Flink to see it: every call into Java is a share of an event's cost.
_PUBLISH_EVERY_MS: Final = 1_000


def snapshot_tag() -> OutputTag:
    """Where the snapshots go; built afresh at every use, for a used type cannot be pickled."""
    return OutputTag("snapshots", output_type())


def dead_letter_tag() -> OutputTag:
    """Where the dead letters go; likewise."""
    return OutputTag("dead-letters", output_type())


class FlinkUserStates:
    """The states of all users of a subtask. Flink has one current key; each access makes its user's the current one.

    Args:
        keys: whose states they are.
    """

    def __init__(self, context: RuntimeContext, keys: KeySwitch) -> None:
        # Bytes in state are declared pickled: PRIMITIVE_ARRAY(BYTE) does not survive thread mode.
        self.header: ValueState = context.get_state(ValueStateDescriptor("header", Types.PICKLED_BYTE_ARRAY()))
        self.chunks: MapState = context.get_map_state(
            MapStateDescriptor("chunks", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        )
        self.ids: MapState = context.get_map_state(
            MapStateDescriptor("event-ids", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        )
        self.keys = keys


class FlinkUserState:
    """`UserState` over Flink's state; nothing is read before it is asked for."""

    __slots__ = ("_states", "chunk_bytes", "user_id")

    def __init__(self, states: FlinkUserStates, user_id: int) -> None:
        self._states = states
        self.user_id = user_id
        #: Of the chunks of events that were read last: all of them, right after a snapshot that read them.
        self.chunk_bytes = 0

    def enter(self) -> FlinkUserStates:
        """Makes this user the current one."""
        self._states.keys.enter(self.user_id)
        return self._states

    def get_header(self) -> bytes | None:
        header: bytes | None = self.enter().header.value()
        return header

    def put_header(self, header: bytes) -> None:
        self.enter().header.update(header)

    def get_chunks(self, numbers: range) -> Iterable[bytes | None]:
        held = self.enter().chunks
        chunks: list[bytes | None] = [held.get(number) for number in numbers]
        if numbers.start >= 0:  # What lies below are notes and waiting seeds.
            self.chunk_bytes = sum(len(chunk) for chunk in chunks if chunk is not None)
        return chunks

    def put_chunk(self, number: int, chunk: bytes) -> None:
        self.enter().chunks.put(number, chunk)

    def remove_chunk(self, number: int) -> None:
        self.enter().chunks.remove(number)

    def get_ids(self, number: int) -> bytes | None:
        ids: bytes | None = self.enter().ids.get(number)
        return ids

    def put_ids(self, number: int, ids: bytes) -> None:
        self.enter().ids.put(number, ids)

    def remove_ids(self, number: int) -> None:
        self.enter().ids.remove(number)


class SequenceFunction(Shipped, KeyedProcessFunction):  # type: ignore[misc]
    """Batches of records in, batches of updates out; snapshots and dead letters on the side, as `sinks.output_type`.

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
        collect_rarely()
        self._keys = KeySwitch(runtime_context, self._cached_users)
        states = FlinkUserStates(runtime_context, self._keys)
        # A user who comes often is found again.
        self._state_of = lru_cache(maxsize=self._cached_users)(partial(FlinkUserState, states))
        self._metrics = Metrics(runtime_context, SEQUENCE_COUNTERS, SEQUENCE_DISTRIBUTIONS)
        #: When the one timer fires that publishes the metrics; 0: there is nothing to publish.
        self._publish_ms = 0
        self._step = SequenceStep(self._settings, self._cached_users)
        self._snapshots, self._dead_letters = snapshot_tag(), dead_letter_tag()

    def close(self) -> None:
        """Flink's hook: the task ends."""
        self._metrics.publish()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[object]:
        """Flink's hook: one batch; an empty one comes before the state is saved."""
        self._keys.key_was_set()
        if not value:
            self._step.headers.flush()
            return
        started_ns = time.perf_counter_ns()
        now_ms = self._clock_ms()
        if not self._publish_ms:
            self._publish_ms = now_ms + _PUBLISH_EVERY_MS
            ctx.timer_service().register_processing_time_timer(self._publish_ms)
        limits, take, state_of = self._limits, self._step.take, self._state_of
        rows: list[tuple[bytes, bytes]] = []
        records = 0
        for record in split_records(value):
            records += 1
            _, key, body, partition, offset, timestamp_ms = record
            try:
                event = accept(key, body, partition, timestamp_ms, limits)
                state = state_of(event[1])
                outcome = take(state, event, partition, offset, now_ms)
            except Rejected as refused:
                yield self._refuse(refused, record)
                continue
            assert key is not None  # It was accepted.
            if isinstance(outcome, bytes):
                rows.append((key, outcome))
                continue
            if outcome.update is not None:
                rows.append((key, outcome.update))
            yield from self._emit(outcome, key, state, ctx)
        if rows:
            self._metrics.add("accepted", len(rows))
            yield join_rows(rows)
        self._step.headers.write_some()
        self._metrics.observe("processing_us", (time.perf_counter_ns() - started_ns) // (1_000 * records))

    def _refuse(self, refused: Rejected, record: BatchedRecord) -> tuple[OutputTag, OutputRow]:
        _, key, body, partition, offset, timestamp_ms = record
        self._metrics.add(reason_counter(refused.reason.value))
        letter = dead_letter(refused, STAGE, Source(EVENTS.name, partition, offset, timestamp_ms), key, body)
        return self._dead_letters, message_row(key or b"", letter)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[object]:
        """Flink's hook: the time for a snapshot may have come, or that to publish the metrics."""
        if timestamp == self._publish_ms:
            self._publish_ms = 0
            self._metrics.publish()
        user_id = int(ctx.get_current_key())
        self._keys.key_was_set()
        state = self._state_of(user_id)
        outcome = self._step.on_timer(state, user_id, timestamp, self._clock_ms())
        yield from self._emit(outcome, user_key(user_id), state, ctx)

    def _emit(
        self, outcome: Outcome, key: bytes, state: FlinkUserState, ctx: KeyedProcessFunction.Context
    ) -> Iterator[object]:
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
            state.enter()
            ctx.timer_service().register_processing_time_timer(outcome.timer_ms)
        if outcome.snapshot is not None:
            metrics.add("snapshots")
            metrics.observe("snapshot_age_ms", outcome.snapshot_age_ms)
            metrics.observe("snapshot_bytes", len(outcome.snapshot.packed))
            if not outcome.seeded:  # Its chunks were written, not read.
                header_bytes = self._step.header_bytes(state, state.user_id)
                metrics.observe("user_state_bytes", header_bytes + state.chunk_bytes)
            yield self._snapshots, message_row(key, outcome.snapshot)
