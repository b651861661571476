"""The chain digest: eight bytes that name a whole history.

    digest(0) = H(version, user_id, epoch)
    digest(n) = H(digest(n - 1), canonical encoding of event n)

with H = BLAKE2b truncated to 64 bits (RFC 7693), personalised with the digest's version. Independent of Protobuf and
of how anything stores its state.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

from schemas.history import EVENT_BYTES

DIGEST_VERSION: Final = 1
_PERSON: Final = b"longrank.seq.v1"
_ORIGIN = struct.Struct("<BQQ")
_RESETS_BITS: Final = 32
#: Copying a keyed state costs less than half of making one.
_CHAIN: Final = blake2b(digest_size=8, person=_PERSON)


def make_epoch(generation: int, resets: int) -> int:
    """`generation` in the high 32 bits, the user's own resets in the low 32.

    Raises:
        ValueError: either is out of range.
    """
    if not 0 < generation < 1 << 31 or not 0 <= resets < 1 << _RESETS_BITS:
        raise ValueError(f"generation {generation} or resets {resets} out of range")
    return generation << _RESETS_BITS | resets


def generation_of(epoch: int) -> int:
    """The generation in which an epoch was opened."""
    return epoch >> _RESETS_BITS


def resets_of(epoch: int) -> int:
    """How often the user had been reset when it was opened."""
    return epoch & (1 << _RESETS_BITS) - 1


def origin_digest(user_id: int, epoch: int) -> int:
    """digest(0) of a user's epoch, an unsigned 64-bit integer."""
    origin = _ORIGIN.pack(DIGEST_VERSION, user_id, epoch)
    return int.from_bytes(blake2b(origin, digest_size=8, person=_PERSON).digest(), "little")


def extend_digest(digest: int, encoded_event: bytes) -> int:
    """digest(n) from digest(n - 1) and event n's canonical bytes."""
    chained = _CHAIN.copy()
    chained.update(digest.to_bytes(8, "little") + encoded_event)
    return int.from_bytes(chained.digest(), "little")


def extend_digest_over(digest: int, encoded_events: bytes) -> int:
    """`extend_digest` over concatenated events, in order."""
    return chain_digests(digest, encoded_events)[-1]


def chain_digests(digest: int, encoded_events: bytes) -> list[int]:
    """The digest before, and after each of, the concatenated events: n + 1 values for n events."""
    link = digest.to_bytes(8, "little")
    links, copy = [link], _CHAIN.copy
    for start in range(0, len(encoded_events), EVENT_BYTES):
        chained = copy()
        chained.update(link + encoded_events[start : start + EVENT_BYTES])
        link = chained.digest()
        links.append(link)
    return list(struct.unpack(f"<{len(links)}Q", b"".join(links)))
