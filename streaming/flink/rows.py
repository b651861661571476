"""What both process functions do with rows and time."""

from __future__ import annotations

import time

from google.protobuf.message import Message

from streaming.flink.internals import OutputRow


def wall_clock_ms() -> int:
    """Processing time: the clock of Flink's own timers, without crossing into Java for it."""
    return time.time_ns() // 1_000_000


def message_row(key: bytes, message: Message) -> OutputRow:
    """A row of `sinks.output_type`."""
    return OutputRow(key, message.SerializeToString())
