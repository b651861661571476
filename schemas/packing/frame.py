"""zstd around a packed body, with a bound on what a frame may claim."""

from __future__ import annotations

from typing import Final

import zstandard

_LEVEL: Final = 6


def deflate(body: bytes) -> bytes:
    """One frame that states its content's size."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(body)


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
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=most)
    except zstandard.ZstdError as error:
        raise ValueError(f"packed history does not decompress: {error}") from error
