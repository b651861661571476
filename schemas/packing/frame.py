"""zstd around a packed body, with a bound on what a frame may claim."""

from __future__ import annotations

import threading
from typing import Final

import zstandard

_LEVEL: Final = 6


class _Contexts(threading.local):
    """A thread's own: to make one costs more than to compress a chunk, and two threads must not share one."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_OF_THREAD: Final = _Contexts()


def deflate(body: bytes) -> bytes:
    """One frame that states its content's size."""
    return _OF_THREAD.compressor.compress(body)


def inflate(frame: bytes, most: int) -> bytes:
    """The content of a frame, at most `most` bytes.

    Raises:
        ValueError: it is none, or claims more.
    """
    try:
        # The claim is believed by the decompressor, which allocates it.
        claimed = zstandard.frame_content_size(frame)
        if not 0 <= claimed <= most:
            raise ValueError(f"packed history claims {claimed} bytes, allowed are {most}")
        return _OF_THREAD.decompressor.decompress(frame, max_output_size=most, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"packed history does not decompress: {error}") from error
