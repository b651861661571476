"""Which partition a user belongs to: Kafka's own default, murmur2 over the key.

Ported from the definition of MurmurHash2 (Austin Appleby, public domain), 32 bits, with the seed that Apache Kafka's
`Utils.murmur2` uses. librdkafka clients must set `partitioner=murmur2_random`.
"""

from __future__ import annotations

from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """32-bit MurmurHash2, unsigned."""
    length = len(key)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        k ^= k >> 24
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    if length & 3:
        h ^= int.from_bytes(key[whole:], "little")
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition, 0 .. partitions - 1, that Kafka's default partitioner gives this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def user_key(user_id: int) -> bytes:
    """The record key of a user: ASCII decimal."""
    return b"%d" % user_id
