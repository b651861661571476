"""A user's impressions: each once, however often it was published, and with its dead letter. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from infra.verify.epochs import User
from infra.verify.findings import Findings
from infra.verify.records import Batches, Place
from infra.verify.rules import ExampleRules
from infra.verify.shown import JOIN_REASONS, Page, page_of
from schemas.topics import HEARTBEAT_KEY, IMPRESSIONS
from schemas.v1.ranking_pb2 import Impression


def read_pages(
    partition: int, impressions: Batches, letters: Mapping[int, str], findings: Findings
) -> dict[bytes, dict[str, list[Page]]]:
    """key -> request_id -> its impressions; those that are malformed by their dead letter are none.

    Of one that was published more than once, the copy that was published first; it has the letter that any copy has.
    """
    pages: dict[bytes, dict[str, dict[bytes, Page]]] = defaultdict(lambda: defaultdict(dict))
    for batch in impressions:
        for offset, time_ms, key, value in batch:
            letter = letters.get(offset, "")
            if key == HEARTBEAT_KEY or (letter and letter not in JOIN_REASONS):
                continue
            place = Place(IMPRESSIONS.name, partition, offset)
            impression = findings.decode(Impression, value, place)
            if impression is not None:
                page = page_of(impression, value, time_ms, place, letter)
                of_request = pages[key or b""][impression.request_id]
                known = of_request.get(page.identity)
                of_request[page.identity] = page if known is None else _one(known, page)
    return {
        key: {name: list(of_request.values()) for name, of_request in of_user.items()} for key, of_user in pages.items()
    }


def _one(page: Page, copy: Page) -> Page:
    first = min(page, copy, key=lambda each: each.published_ms)
    return first._replace(letter=page.letter or copy.letter)


def check_letters(
    user: User,
    pages: Sequence[Page],
    refused: Sequence[tuple[Page, str]],
    rules: ExampleRules,
    findings: Findings,
    takes: Callable[[int], bool],
) -> None:
    """An impression that cannot be joined is a dead letter, and one that can, or that came too late, is none.

    Args:
        pages: of a request, all of them.
        refused: those that must be dead letters, and why.
        takes: is a request of this time checked?
    """
    reasons = {page.identity: reason for page, reason in refused}
    for page in pages:
        reason, due_ms = reasons.get(page.identity), rules.due_ms(page.request_time_ms)
        if page.letter and reason is None:
            why = "it fits" if page.published_ms <= due_ms else "it was published after the label time"
            findings.expect(False, "impression_refused", page.place, user.user_id, f"{page.letter}, and {why}")
        elif reason and not page.letter and takes(page.request_time_ms):
            findings.expect(
                False,
                "impression_without_letter",
                page.place,
                user.user_id,
                f"{reason}, and there is no dead letter",
                until_ms=max(page.published_ms, due_ms),
            )
