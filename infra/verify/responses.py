"""Every response against its request and the history that it says it used. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from infra.verify.findings import Findings
from infra.verify.freshness import Freshness, behind
from infra.verify.histories import Histories
from infra.verify.records import Batches, Place
from infra.verify.selection import Selection
from infra.verify.stamps import Resolver, check_stamp
from schemas.topics import HEARTBEAT_KEY, REQUESTS, RESPONSES
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    RankingRequest,
    RankingResponse,
)

_FLOAT32_BYTES = 4
_ID_BYTES = 8


class Answer(NamedTuple):
    """A response, as it was published first."""

    published_ms: int
    #: The record's.
    value: bytes


@dataclass
class Served:
    """Responses that answered a request of their user, as the checks of examples need them."""

    #: key of the user -> request_id -> response_id.
    of_user: dict[bytes, dict[str, dict[str, Answer]]] = field(default_factory=dict)

    def add(self, key: bytes, request_id: str, response_id: str, published_ms: int, value: bytes) -> bool:
        """Note one; was it there before?"""
        of_request = self.of_user.setdefault(key, {}).setdefault(request_id, {})
        known = of_request.get(response_id)
        if known is None or published_ms < known.published_ms:
            of_request[response_id] = Answer(published_ms, value)
        return known is not None


def check_responses(
    histories: Histories,
    partition: int,
    requests: Batches,
    responses: Batches,
    findings: Findings,
    *,
    serving_length: int,
    resolve: Resolver | None = None,
    selection: Selection | None = None,
    freshness: Freshness | None = None,
    refused: Mapping[str, Mapping[int, str]] | None = None,
    requests_since_ms: int | None = None,
) -> Served:
    """Every response answers a request that was made, echoes it, and its stamp resolves; every request is answered.

    Args:
        requests: and responses, of the same partition.
        serving_length: newest events of a history that the scorer uses.
        refused: topic -> offset -> reason of the dead letters.
        requests_since_ms: retention has eaten the requests before; None: all are there.
    """
    selection, freshness, refused = selection or Selection(), freshness or Freshness(), refused or {}
    asked: dict[str, tuple[bytes | None, int, bytes]] = {}
    letters = refused.get(REQUESTS.name, {})
    for batch in requests:
        for offset, time_ms, key, value in batch:
            if key != HEARTBEAT_KEY and offset not in letters:
                request = findings.decode(RankingRequest, value, Place(REQUESTS.name, partition, offset))
                if request is not None:
                    asked[request.request_id] = (key, time_ms, value)
    served, answered = Served(), set[str]()
    letters = refused.get(RESPONSES.name, {})
    check = _Check(histories, serving_length, findings, resolve, freshness)
    for batch in responses:
        for offset, time_ms, key, value in batch:
            if key == HEARTBEAT_KEY or offset in letters:
                continue
            place, before = Place(RESPONSES.name, partition, offset), findings.total
            in_range = selection.takes_offset(RESPONSES, partition, offset) and selection.takes_time(time_ms)
            findings.checked["responses"] += in_range
            response = findings.decode(RankingResponse, value, place)
            if response is None:
                findings.unmatched["responses"] += in_range
                continue
            name, user_id = response.request_id, response.user_id
            asked_key, _, request_value = asked.get(name, (None, 0, b""))
            if asked_key is None and requests_since_ms is not None and time_ms <= requests_since_ms:
                findings.repeated["responses_to_requests_gone"] += in_range
            elif not findings.expect(
                asked_key is not None and asked_key == key == b"%d" % user_id,
                "response_to_no_request",
                place,
                user_id,
                name,
            ):
                findings.unmatched["responses"] += in_range
                continue
            answered.add(name)
            if response.status == RESPONSE_STATUS_INVALID:
                findings.checked["refused_requests"] += in_range
                continue
            assert key is not None
            repeated = served.add(key, name, response.response_id, time_ms, value)
            if in_range:
                findings.repeated["responses"] += repeated
                check.response(response, RankingRequest.FromString(request_value), place, asked_key is not None)
                findings.unmatched["responses"] += findings.total > before
    if selection.whole(RESPONSES, partition):
        for name, (key, time_ms, _) in asked.items():
            if name not in answered and selection.takes_time(time_ms):
                findings.expect(
                    False,
                    "response_missing",
                    f"request {name}",
                    int(key) if key and key.isdigit() else 0,
                    "never answered",
                )
    return served


@dataclass(frozen=True)
class _Check:
    histories: Histories
    serving_length: int
    findings: Findings
    resolve: Resolver | None
    freshness: Freshness

    def response(self, response: RankingResponse, asked: RankingRequest, place: Place, is_asked: bool) -> None:
        """One that answers `asked`, unless that is gone."""
        user_id, stamp, expect = response.user_id, response.stamp, self.findings.expect
        if is_asked:
            if response.candidates != asked.candidates:
                field = next(
                    name
                    for name in ("item_id", "group_id", "features")
                    if getattr(response.candidates, name) != getattr(asked.candidates, name)
                )
                found, wanted = getattr(response.candidates, field), getattr(asked.candidates, field)
                name = f"candidates.{field}"
                expect(False, "response_candidates", place, user_id, field=name, found=found, wanted=wanted)
            expect(
                list(response.context) == list(asked.context),
                "response_context",
                place,
                user_id,
                field="context",
                found=[each.name for each in response.context],
                wanted=[each.name for each in asked.context],
            )
            expect(
                response.request_time_ms == asked.request_time_ms,
                "response_time",
                place,
                user_id,
                field="request_time_ms",
                found=response.request_time_ms,
                wanted=asked.request_time_ms,
            )
            expect(
                response.status != RESPONSE_STATUS_OK or stamp.seq_no >= asked.min_seq_no,
                "response_behind",
                place,
                user_id,
                f"seq_no {stamp.seq_no}, asked for was {asked.min_seq_no} or later",
            )
        scores = len(response.candidates.item_id) // _ID_BYTES * _FLOAT32_BYTES
        for task in response.scores:
            expect(
                len(task.scores) == scores,
                "response_scores",
                place,
                user_id,
                field=f"scores of {task.task}, bytes",
                found=len(task.scores),
                wanted=scores,
            )
        length = min(stamp.seq_no, self.serving_length)
        expect(
            stamp.length == length,
            "response_length",
            place,
            user_id,
            field="stamp.length",
            found=stamp.length,
            wanted=length,
        )
        check_stamp(self.histories, stamp, user_id, place, self.findings, self.resolve)
        user = self.histories.users.get(b"%d" % user_id)
        self.freshness.add(*behind(user, stamp, response.request_time_ms))
