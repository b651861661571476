"""Which response of a request was shown, and which of its items (schemas/EXAMPLES.md, 1 to 3). Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from infra.verify.records import Place
from schemas.reasons import Reason
from schemas.v1.ranking_pb2 import Candidates, FeatureColumn, Impression, RankingResponse
from schemas.v1.training_pb2 import TrainingExample

_ID_BYTES: Final = 8
_INT64_BYTES: Final = 8
_FLOAT32_BYTES: Final = 4
#: Reasons that say something of the join; an impression with another one is none.
JOIN_REASONS: Final = frozenset((Reason.RESPONSE_MISSING, Reason.UNKNOWN_CANDIDATE, Reason.CONFLICTING_IMPRESSION))


class Page(NamedTuple):
    """An impression."""

    time_ms: int
    first_position: int
    #: BLAKE2b-128 of the record's value.
    identity: bytes
    items: tuple[int, ...]
    response_id: str
    request_time_ms: int
    #: By the copy that was published first.
    published_ms: int
    place: Place
    #: The reason of its dead letter, "": no copy has one.
    letter: str


def page_of(impression: Impression, value: bytes, published_ms: int, place: Place, letter: str) -> Page:
    """What the checks need of an impression."""
    return Page(
        impression.impression_time_ms,
        impression.first_position,
        blake2b(value, digest_size=16).digest(),
        items_of(impression.item_id),
        impression.response_id,
        impression.request_time_ms,
        published_ms,
        place,
        letter,
    )


def items_of(column: bytes) -> tuple[int, ...]:
    """m x uint64; what is not whole ids is left out."""
    return struct.unpack_from(f"<{len(column) // _ID_BYTES}Q", column)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was shown of a request."""

    response: RankingResponse
    #: The targets, and their rows among the response's candidates.
    items: tuple[int, ...]
    rows: Sequence[int]
    #: None: nothing was shown, these are all candidates.
    positions: Sequence[int] | None
    #: Where they were shown.
    pages: Sequence[Page]

    def example(self, request_id: str, user_id: int) -> TrainingExample:
        """What every version of the example holds, all but version, labels and superseded responses."""
        response = self.response
        candidates, rows = response.candidates, self.rows
        return TrainingExample(
            schema_version=1,
            request_id=request_id,
            response_id=response.response_id,
            user_id=user_id,
            request_time_ms=response.request_time_ms,
            targets=Candidates(
                item_id=_take(candidates.item_id, rows, _ID_BYTES),
                group_id=_take(candidates.group_id, rows, _ID_BYTES),
                features=[
                    FeatureColumn(
                        name=column.name,
                        int64=_take(column.int64, rows, _INT64_BYTES),
                        float32=_take(column.float32, rows, _FLOAT32_BYTES),
                    )
                    for column in candidates.features
                ],
            ),
            position=b"" if self.positions is None else struct.pack(f"<{len(self.positions)}H", *self.positions),
            stamp=response.stamp,
            context=response.context,
        )


def choose(
    responses: Mapping[str, RankingResponse], pages: Sequence[Page], *, emit_unshown: bool
) -> tuple[Choice | None, Sequence[tuple[Page, Reason]]]:
    """What was shown (None: no example comes of the request), and the pages that should be dead letters.

    Args:
        responses: of the request, by response_id; these and the pages were published up to the label time.
        pages: of the request, each once.
    """
    if not pages:
        if not emit_unshown or not responses:
            return None, ()
        response = responses[min(responses)]
        of_item = _first_rows(response)
        rows = list(of_item.values())
        return Choice(response=response, items=tuple(of_item), rows=rows, positions=None, pages=()), ()
    row_of = {name: _first_rows(response) for name, response in responses.items()}
    usable: list[Page] = []
    refused: list[tuple[Page, Reason]] = []
    for page in sorted(pages):
        rows_of_items = row_of.get(page.response_id)
        if rows_of_items is None:
            refused.append((page, Reason.RESPONSE_MISSING))
        elif not rows_of_items.keys() >= set(page.items):
            refused.append((page, Reason.UNKNOWN_CANDIDATE))
        else:
            usable.append(page)
    if not usable:
        return None, refused
    # Pages sort by time, then first position, then hash.
    chosen = usable[0].response_id
    refused += ((page, Reason.CONFLICTING_IMPRESSION) for page in usable if page.response_id != chosen)
    positions: dict[int, int] = {}
    row_of_item = row_of[chosen]
    for page in sorted(usable, key=lambda page: (page.first_position, page.time_ms, page.identity)):
        if page.response_id == chosen:
            for position, item in enumerate(page.items, page.first_position):
                positions.setdefault(item, position)
    choice = Choice(
        response=responses[chosen],
        items=tuple(positions),
        rows=[row_of_item[item] for item in positions],
        positions=list(positions.values()),
        pages=[page for page in usable if page.response_id == chosen],
    )
    return choice, refused


def _first_rows(response: RankingResponse) -> dict[int, int]:
    """item -> its first row among the candidates, in their order."""
    items = items_of(response.candidates.item_id)
    rows = dict(zip(items, range(len(items)), strict=True))
    if len(rows) < len(items):
        # Later ones have replaced earlier ones.
        rows = {item: items.index(item) for item in rows}
    return rows


def _take(column: bytes, rows: Sequence[int], size: int) -> bytes:
    return b"".join([column[row * size : row * size + size] for row in rows]) if column else b""
