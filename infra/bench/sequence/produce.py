"""Records into Kafka, many times faster than a Python producer: whole batches, one request for each.

Protocol: Apache Kafka's protocol guide, Produce version 3 (the oldest that brokers of 4.x take), record batches of
format 2.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from kafka.record.default_records import DefaultRecordBatchBuilder

from infra.bench.sequence.workload import Record
from infra.errors import InfraError

_PRODUCE: Final = 0
_VERSION: Final = 3
_CLIENT: Final = b"longrank-bench"
_TIMEOUT_MS: Final = 30_000
#: Below every topic's message limit.
BATCH_BYTES: Final = 256 << 10


class BatchWriter:
    """One connection to the only broker; every request waits for its answer, so nothing is lost or reordered."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=_TIMEOUT_MS / 1_000)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._correlation = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def write(self, topic: str, partition: int, records: list[Record]) -> None:
        """Appends the records, in order, as one batch.

        Raises:
            InfraError: the broker refused them, by Kafka's error code, or closed the connection.
        """
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 30)
        for number, record in enumerate(records):
            builder.append(number, record.timestamp_ms, record.key, record.value, [])
        batch = bytes(builder.build())
        self._correlation += 1
        name = topic.encode()
        request = b"".join(
            (
                struct.pack(">hhih", _PRODUCE, _VERSION, self._correlation, len(_CLIENT)),
                _CLIENT,
                # No transaction; acknowledged by all replicas; one topic.
                struct.pack(">hhiih", -1, -1, _TIMEOUT_MS, 1, len(name)),
                name,
                struct.pack(">iii", 1, partition, len(batch)),
                batch,
            )
        )
        self._socket.sendall(struct.pack(">i", len(request)) + request)
        answer = self._read(struct.unpack(">i", self._read(4))[0])
        # correlation, 1 topic, its name, 1 partition: its number and error code.
        code = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(name) + 4 + 4)[0]
        if code:
            raise InfraError(f"{topic}/{partition}: the broker refused {len(records)} records, Kafka error {code}")

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise InfraError("the broker closed the connection in the middle of an answer")
            parts += part
        return bytes(parts)


def prepare(bootstrap: str, topic: str, records: Iterable[Record], advance: Callable[[int], object]) -> list[int]:
    """`prepare_topics` for one topic.

    Returns:
        How many went to each partition, by number; a partition beyond the last used one is left out.
    """
    counts = prepare_topics(bootstrap, ((topic, record) for record in records), advance)
    return [counts[topic, partition] for partition in range(max((number for _, number in counts), default=-1) + 1)]


def prepare_topics(
    bootstrap: str, records: Iterable[tuple[str, Record]], advance: Callable[[int], object]
) -> Counter[tuple[str, int]]:
    """Writes all records of (topic, record) in batches of `BATCH_BYTES`, in order within each partition.

    Args:
        advance: told how many more are written, now and then.

    Returns:
        How many went to each partition of each topic.
    """
    waiting: dict[tuple[str, int], list[Record]] = {}
    sizes: Counter[tuple[str, int]] = Counter()
    counts: Counter[tuple[str, int]] = Counter()
    with BatchWriter(bootstrap) as writer:

        def flush(place: tuple[str, int]) -> None:
            batch = waiting.pop(place)
            sizes[place] = 0
            writer.write(*place, batch)
            counts[place] += len(batch)
            advance(len(batch))

        for topic, record in records:
            place = topic, record.partition
            waiting.setdefault(place, []).append(record)
            sizes[place] += len(record.value) + 32
            if sizes[place] >= BATCH_BYTES:
                flush(place)
        for place in sorted(waiting):
            flush(place)
    return counts
