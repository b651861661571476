"""The writes of one batch, over what is stored: read through, written once. Pure; the store hands in its reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from scorer.sequences.layout import Chunk, Header, LayoutError, chunk_key_bytes, user_key_bytes

#: Values of some keys, None where there is none, in the keys' order.
ReadMany = Callable[[Sequence[bytes]], Sequence[bytes | None]]


class Rows(Protocol):
    """What the transitions and the reads need of a store."""

    def header(self, user_id: int) -> Header | None:
        """None for a user never heard of."""

    def chunks(self, user_id: int, epoch: int, numbers: range) -> list[Chunk]:
        """Chunks that must be there.

        Raises:
            LayoutError: one is not.
        """


class MutableRows(Rows, Protocol):
    """`Rows` that take changes."""

    def put_header(self, user_id: int, header: Header) -> None: ...

    def put_chunk(self, user_id: int, epoch: int, number: int, chunk: Chunk) -> None: ...

    def remove_chunks(self, user_id: int, epoch: int, numbers: range) -> None: ...


class Write(NamedTuple):
    """One change; value None deletes."""

    key: bytes
    value: bytes | None


class StoredRows:
    """Reads straight from the store. `Header`s and `Chunk`s are fresh objects."""

    def __init__(self, read_headers: ReadMany, read_chunks: ReadMany) -> None:
        self._read_headers, self._read_chunks = read_headers, read_chunks

    def header(self, user_id: int) -> Header | None:
        """See `Rows`."""
        (packed,) = self._read_headers([user_key_bytes(user_id)])
        return None if packed is None else Header.unpack(packed)

    def chunks(self, user_id: int, epoch: int, numbers: range) -> list[Chunk]:
        """See `Rows`."""
        if not numbers:
            return []
        packed = self._read_chunks([chunk_key_bytes(user_id, epoch, number) for number in numbers])
        found: list[Chunk] = []
        for number, value in zip(numbers, packed, strict=True):
            if value is None:
                raise LayoutError(
                    f"user {user_id} epoch {epoch}: chunk {number} is missing; delete the store to rebuild"
                )
            found.append(Chunk.unpack(value))
        return found


class PendingRows:
    """The changes of a batch on top of stored rows. What it returns may be changed by its caller and put back."""

    def __init__(self, stored: Rows) -> None:
        self._stored = stored
        self._headers: dict[int, Header | None] = {}
        self._changed_headers: set[int] = set()
        self._chunks: dict[tuple[int, int, int], Chunk | None] = {}
        self._changed_chunks: set[tuple[int, int, int]] = set()

    def header(self, user_id: int) -> Header | None:
        """See `Rows`."""
        if user_id not in self._headers:
            self._headers[user_id] = self._stored.header(user_id)
        return self._headers[user_id]

    def chunks(self, user_id: int, epoch: int, numbers: range) -> list[Chunk]:
        """See `Rows`."""
        found: list[Chunk] = []
        for number in numbers:
            key = user_id, epoch, number
            if key not in self._chunks:
                (self._chunks[key],) = self._stored.chunks(user_id, epoch, range(number, number + 1))
            chunk = self._chunks[key]
            if chunk is None:
                raise LayoutError(f"user {user_id} epoch {epoch}: chunk {number} was removed in this batch")
            found.append(chunk)
        return found

    def put_header(self, user_id: int, header: Header) -> None:
        """See `MutableRows`."""
        self._headers[user_id] = header
        self._changed_headers.add(user_id)

    def put_chunk(self, user_id: int, epoch: int, number: int, chunk: Chunk) -> None:
        """See `MutableRows`."""
        self._chunks[user_id, epoch, number] = chunk
        self._changed_chunks.add((user_id, epoch, number))

    def remove_chunks(self, user_id: int, epoch: int, numbers: range) -> None:
        """See `MutableRows`."""
        for number in numbers:
            self._chunks[user_id, epoch, number] = None
            self._changed_chunks.add((user_id, epoch, number))

    def header_writes(self) -> Iterator[Write]:
        """The batch's changes of headers."""
        for user_id in self._changed_headers:
            header = self._headers[user_id]
            assert header is not None, "headers are never removed"
            yield Write(user_key_bytes(user_id), header.pack())

    def chunk_writes(self) -> Iterator[Write]:
        """The batch's changes of chunks."""
        for key in self._changed_chunks:
            chunk = self._chunks[key]
            yield Write(chunk_key_bytes(*key), None if chunk is None else chunk.pack())
