"""One user's state in memory: for measurements and tests of the step without Flink."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class MemoryUserState:
    """`UserState` over dicts."""

    header: bytes | None = None
    chunks: dict[int, bytes] = field(default_factory=dict)
    ids: dict[int, bytes] = field(default_factory=dict)

    def get_header(self) -> bytes | None:
        return self.header

    def put_header(self, header: bytes) -> None:
        self.header = header

    def get_chunks(self, numbers: range) -> Iterable[bytes | None]:
        return [self.chunks.get(number) for number in numbers]

    def put_chunk(self, number: int, chunk: bytes) -> None:
        self.chunks[number] = chunk

    def remove_chunk(self, number: int) -> None:
        del self.chunks[number]

    def get_ids(self, number: int) -> bytes | None:
        return self.ids.get(number)

    def put_ids(self, number: int, ids: bytes) -> None:
        self.ids[number] = ids

    def remove_ids(self, number: int) -> None:
        del self.ids[number]
