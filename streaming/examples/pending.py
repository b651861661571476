"""What waits for a label time: every response, impression and feedback that came, each once.

One value per user and label time, keyed by that time: normally one request. Layout 1: a version byte, then entries of
`<B kind><B request_id length><B identity length><I payload length>` request_id, identity, payload.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from streaming.sequence.state import StateError

PENDING_VERSION: Final = 1
_ENTRY: Final = struct.Struct("<BBBI")


class Kind(IntEnum):
    """What an entry is."""

    RESPONSE = 1
    IMPRESSION = 2
    FEEDBACK = 3


class EntryKey(NamedTuple):
    """An entry is kept once per kind, request and identity (a response's id, an impression's digest, an event's id)."""

    kind: int
    request_id: str
    identity: bytes


Pending = dict[EntryKey, bytes]


class PendingState(Protocol):
    """One user's part of the keyed state: label time in ms -> packed entries."""

    def get(self, due_ms: int) -> bytes | None: ...

    def put(self, due_ms: int, pending: bytes) -> None: ...

    def remove(self, due_ms: int) -> None: ...


def pack_pending(pending: Pending) -> bytes:
    """Bytes for the state."""
    parts = [bytes([PENDING_VERSION])]
    for (kind, request_id, identity), payload in pending.items():
        name = request_id.encode("ascii")
        parts += (_ENTRY.pack(kind, len(name), len(identity), len(payload)), name, identity, payload)
    return b"".join(parts)


def unpack_pending(packed: bytes) -> Pending:
    """The inverse of `pack_pending`.

    Raises:
        StateError: another layout version, or bytes that no `pack_pending` wrote.
    """
    if packed[:1] != bytes([PENDING_VERSION]):
        raise StateError(f"pending requests of layout {packed[:1].hex()}: not readable here")
    pending: Pending = {}
    at, end = 1, len(packed)
    while at < end:
        if at + _ENTRY.size > end:
            raise StateError(f"pending requests are truncated at byte {at} of {end}")
        kind, name_length, identity_length, payload_length = _ENTRY.unpack_from(packed, at)
        name_at = at + _ENTRY.size
        identity_at = name_at + name_length
        payload_at = identity_at + identity_length
        at = payload_at + payload_length
        if at > end:
            raise StateError(f"pending requests are truncated: an entry ends at byte {at} of {end}")
        key = EntryKey(kind, packed[name_at:identity_at].decode("ascii"), packed[identity_at:payload_at])
        pending[key] = packed[payload_at:at]
    return pending
