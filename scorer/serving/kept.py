"""Encoded users between requests: a new event costs one token, not the whole history.

Exact, not approximate: the history encoder is token-wise, so the keys and values of events that were served before are
those of now, up to the attention terms, which `Model.extend` moves to the new head. What is kept is used only when the
chain of digests from its end leads to the served digest, so it can never be another history than the stamp names.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import NamedTuple, Protocol

from schemas.digest import extend_digest_over
from schemas.history import History
from scorer.features import HistoryHead
from scorer.sequences.reads import ServedHistory
from scorer.serving.engine import EncodedHistory


class Encoder(Protocol):
    """What this needs of a model."""

    @property
    def version(self) -> str:
        """Encodings of different versions have nothing in common."""

    def encode(self, history: History, first_seq_no: int) -> EncodedHistory:
        """The whole history."""

    def extend(self, encoded: EncodedHistory, dropped: int, new: History, head: HistoryHead) -> EncodedHistory:
        """The same without its oldest `dropped` events and with new ones, up to `head`."""


class Encoding(StrEnum):
    """How a user was encoded for a batch."""

    COLD = "cold"
    WARM = "warm"


class _Kept(NamedTuple):
    version: str
    epoch: int
    first_seq_no: int
    seq_no: int
    digest: int
    encoded: EncodedHistory

    @property
    def bytes(self) -> int:
        return self.encoded.keys.nbytes + self.encoded.values.nbytes


class KeptEncodings:
    """The most recently used encodings, within a limit of memory. Belongs to one thread."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` of keys and values; 0 keeps none."""
        self._max_bytes = max_bytes
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def encode(self, user_id: int, served: ServedHistory, model: Encoder) -> tuple[EncodedHistory, Encoding]:
        """The user's encoding for exactly this history."""
        kept = self._drop(user_id)
        head = HistoryHead.of(served.rows, served.first_seq_no)
        if kept is not None and _leads_to(kept, served, head, model.version):
            new = served.rows[kept.seq_no + 1 - served.first_seq_no :]
            dropped = served.first_seq_no - kept.first_seq_no
            encoding, encoded = Encoding.WARM, model.extend(kept.encoded, dropped, new, head)
        else:
            encoding, encoded = Encoding.COLD, model.encode(served.rows, served.first_seq_no)
        self._keep(
            user_id, _Kept(model.version, served.epoch, served.first_seq_no, served.seq_no, served.digest, encoded)
        )
        return encoded, encoding

    def _drop(self, user_id: int) -> _Kept | None:
        kept = self._kept.pop(user_id, None)
        if kept is not None:
            self.bytes -= kept.bytes
        return kept

    def _keep(self, user_id: int, kept: _Kept) -> None:
        if not 0 < kept.bytes <= self._max_bytes:
            return
        self._kept[user_id] = kept
        self.bytes += kept.bytes
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))


def _leads_to(kept: _Kept, served: ServedHistory, head: HistoryHead, version: str) -> bool:
    """What is kept is a part of the served history, and none of the served events lies before it."""
    if (kept.version, kept.epoch) != (version, served.epoch):
        return False
    if not kept.first_seq_no <= served.first_seq_no <= kept.seq_no <= served.seq_no:
        return False
    if head.newest_ms < kept.encoded.head.newest_ms:
        # The newest event by its own time has been dropped: attention terms cannot move backwards.
        return False
    new = served.rows[kept.seq_no + 1 - served.first_seq_no :]
    return extend_digest_over(kept.digest, new.tobytes()) == served.digest
