"""The example job's transition: responses, impressions and feedback of one user, joined at the label time. Pure.

Inputs may come in any order; what is emitted depends on their set alone. All timers derive from `request_time_ms`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np

from schemas import SCHEMA_VERSION
from schemas.partitioner import user_key
from schemas.reasons import Reason, Rejected
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.operations_pb2 import DeadLetter
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_INVALID, Candidates, Impression, RankingResponse
from schemas.v1.training_pb2 import TrainingExample
from streaming.dead_letters import Source, dead_letter
from streaming.examples.labels import LabelRule, label_targets
from streaming.examples.pending import EntryKey, Kind, Pending, PendingState, pack_pending, unpack_pending

STAGE: Final = "example_job"
_FEEDBACK: Final = struct.Struct("<QI")
_IMPRESSION: Final = struct.Struct("<Iqq")


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """The rules of the examples. They change only across stop-with-savepoint; requests that then wait for their
    label time under another window are joined only with what came before the change."""

    #: How long after the request feedback to it counts, ms.
    label_window_ms: int
    labels: tuple[LabelRule, ...]
    #: Where impressions come from, for the coordinates of their dead letters.
    impressions_topic: str


@dataclass(kw_only=True)
class JoinOutcome:
    """What one step did and wants. `counts` is keyed by the counter names in streaming/flink/metrics.py."""

    examples: list[TrainingExample] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter[str])
    #: Register an event-time timer for this user.
    timer_ms: int | None = None


class _Feedback(NamedTuple):
    item_id: int
    action: int
    response_id: str


class _Shown(NamedTuple):
    """An impression and where it stands."""

    impression: Impression
    identity: bytes
    source: Source
    value: bytes


class ExampleJoin:
    """The transitions, under one set of rules."""

    def __init__(self, settings: ExampleSettings) -> None:
        self._settings = settings

    def on_response(self, state: PendingState, response: RankingResponse, watermark_ms: int) -> JoinOutcome:
        """Takes a response that `accept_response` returned."""
        if response.status == RESPONSE_STATUS_INVALID:
            # Nothing was scored, so nothing can have been shown.
            return JoinOutcome(counts=Counter(invalid_responses=1))
        kept = RankingResponse(response_id=response.response_id, candidates=response.candidates, stamp=response.stamp)
        key = EntryKey(Kind.RESPONSE, response.request_id, response.response_id.encode("ascii"))
        payload = kept.SerializeToString(deterministic=True)
        return self._keep(state, response.request_time_ms, key, payload, watermark_ms)

    def on_impression(
        self, state: PendingState, impression: Impression, source: Source, value: bytes, watermark_ms: int
    ) -> JoinOutcome:
        """Takes an impression that `accept_impression` returned, and its record."""
        identity = blake2b(value, digest_size=16).digest()
        payload = _IMPRESSION.pack(source.partition, source.offset, source.timestamp_ms) + value
        key = EntryKey(Kind.IMPRESSION, impression.request_id, identity)
        return self._keep(state, impression.request_time_ms, key, payload, watermark_ms)

    def on_feedback(
        self, state: PendingState, event: BehaviourEvent, record_timestamp_ms: int, watermark_ms: int
    ) -> JoinOutcome:
        """Takes an interaction that `accept_event` returned and that names a request."""
        reference = event.request
        age_ms = record_timestamp_ms - reference.request_time_ms
        if not 0 <= age_ms <= self._settings.label_window_ms:
            return JoinOutcome(counts=Counter(feedback_outside_window=1))
        interaction = event.interaction
        payload = _FEEDBACK.pack(interaction.item_id, interaction.action) + reference.response_id.encode("ascii")
        key = EntryKey(Kind.FEEDBACK, reference.request_id, event.event_id)
        return self._keep(state, reference.request_time_ms, key, payload, watermark_ms)

    def on_timer(self, state: PendingState, user_id: int, due_ms: int, now_ms: int) -> JoinOutcome:
        """The label time has come: emits the examples of the user's requests that waited for it.

        Args:
            now_ms: wall clock, for `produced_at_ms` only.

        Raises:
            StateError: the state is not what this code wrote.
        """
        outcome = JoinOutcome()
        packed = state.get(due_ms)
        if packed is None:
            return outcome
        state.remove(due_ms)
        pending = unpack_pending(packed)
        for request_id in sorted({key.request_id for key in pending}):
            of_request = {key: payload for key, payload in pending.items() if key.request_id == request_id}
            self._join(user_id, request_id, due_ms - self._settings.label_window_ms, of_request, now_ms, outcome)
        return outcome

    def _keep(
        self, state: PendingState, request_time_ms: int, key: EntryKey, payload: bytes, watermark_ms: int
    ) -> JoinOutcome:
        due_ms = request_time_ms + self._settings.label_window_ms
        if due_ms <= watermark_ms:
            return JoinOutcome(counts=Counter({f"late_{Kind(key.kind).name.lower()}": 1}))
        packed = state.get(due_ms)
        pending = {} if packed is None else unpack_pending(packed)
        known = pending.get(key)
        # Of two records with one identity the smaller bytes stay, so that arrival order decides nothing.
        if known is None or payload < known:
            pending[key] = payload
            state.put(due_ms, pack_pending(pending))
        return JoinOutcome(
            counts=Counter() if known is None else Counter({f"duplicate_{Kind(key.kind).name.lower()}": 1}),
            timer_ms=due_ms if packed is None else None,
        )

    def _join(
        self, user_id: int, request_id: str, request_time_ms: int, pending: Pending, now_ms: int, outcome: JoinOutcome
    ) -> None:
        responses = {
            key.identity.decode("ascii"): RankingResponse.FromString(payload)
            for key, payload in pending.items()
            if key.kind == Kind.RESPONSE
        }
        impressions = [
            self._shown(key.identity, payload) for key, payload in pending.items() if key.kind == Kind.IMPRESSION
        ]
        if not impressions:
            outcome.counts["without_impression"] += 1
            return
        rows = {name: _rows(response.candidates.item_id) for name, response in responses.items()}
        shown = self._consistent(user_id, impressions, rows, outcome)
        if not shown:
            return
        response = responses[shown[0].impression.response_id]
        candidate_rows, positions = _targets(shown, rows[response.response_id])
        items = np.frombuffer(response.candidates.item_id, dtype="<u8")[candidate_rows]
        groups = np.frombuffer(response.candidates.group_id, dtype="<u8")
        row_of_item = {int(item): row for row, item in enumerate(items)}
        interactions = []
        for feedback in _feedback(pending):
            if feedback.response_id != response.response_id:
                outcome.counts["feedback_to_other_response"] += 1
            elif feedback.item_id not in row_of_item:
                outcome.counts["feedback_to_unshown_item"] += 1
            else:
                interactions.append((feedback.item_id, feedback.action))
        outcome.counts["superseded_responses"] += len(responses) - 1
        outcome.examples.append(
            TrainingExample(
                schema_version=SCHEMA_VERSION,
                request_id=request_id,
                response_id=response.response_id,
                user_id=user_id,
                request_time_ms=request_time_ms,
                label_version=1,
                targets=Candidates(
                    item_id=items.tobytes(), group_id=groups[candidate_rows].tobytes() if len(groups) else b""
                ),
                position=np.asarray(positions, dtype="<u2").tobytes(),
                labels=label_targets(self._settings.labels, row_of_item, interactions),
                stamp=response.stamp,
                superseded_responses=len(responses) - 1,
                produced_at_ms=now_ms,
            )
        )

    def _consistent(
        self, user_id: int, impressions: Sequence[_Shown], rows: dict[str, dict[int, int]], outcome: JoinOutcome
    ) -> list[_Shown]:
        """The impressions of the one response that was shown first, in shown order; the others become dead letters."""

        def refuse(shown: _Shown, reason: Reason, detail: str) -> None:
            refused = Rejected(reason, f"request {shown.impression.request_id}: {detail}")
            outcome.dead_letters.append(dead_letter(refused, STAGE, shown.source, user_key(user_id), shown.value))

        possible: list[_Shown] = []
        for shown in sorted(impressions, key=lambda shown: (shown.impression.impression_time_ms, _order(shown))):
            name = shown.impression.response_id
            if name not in rows:
                there = ", ".join(sorted(rows)) or "none"
                refuse(shown, Reason.RESPONSE_MISSING, f"response {name} did not come by the label time; came: {there}")
                continue
            items = np.frombuffer(shown.impression.item_id, dtype="<u8").tolist()
            unknown = [item for item in items if item not in rows[name]]
            if unknown:
                refuse(
                    shown, Reason.UNKNOWN_CANDIDATE, f"response {name} has no item {', '.join(map(str, unknown[:8]))}"
                )
            elif possible and name != possible[0].impression.response_id:
                refuse(
                    shown,
                    Reason.CONFLICTING_IMPRESSION,
                    f"response {name} was shown after response {possible[0].impression.response_id}",
                )
            else:
                possible.append(shown)
        return sorted(possible, key=_order)

    def _shown(self, identity: bytes, payload: bytes) -> _Shown:
        partition, offset, timestamp_ms = _IMPRESSION.unpack_from(payload)
        value = payload[_IMPRESSION.size :]
        source = Source(self._settings.impressions_topic, partition, offset, timestamp_ms)
        return _Shown(Impression.FromString(value), identity, source, value)


def _order(shown: _Shown) -> tuple[int, int, bytes]:
    impression = shown.impression
    return impression.first_position, impression.impression_time_ms, shown.identity


def _rows(item_id: bytes) -> dict[int, int]:
    """item -> its first row among the candidates."""
    items = np.frombuffer(item_id, dtype="<u8").tolist()
    return {item: row for row, item in reversed(list(enumerate(items)))}


def _targets(shown: Sequence[_Shown], row_of_item: dict[int, int]) -> tuple[list[int], list[int]]:
    """(candidate rows [m], positions [m]) in shown order; an item shown again keeps its first position."""
    position_of_row: dict[int, int] = {}
    for impression in (one.impression for one in shown):
        items = np.frombuffer(impression.item_id, dtype="<u8").tolist()
        for position, item in enumerate(items, impression.first_position):
            position_of_row.setdefault(row_of_item[item], position)
    return list(position_of_row), list(position_of_row.values())


def _feedback(pending: Pending) -> list[_Feedback]:
    found = []
    for key, payload in pending.items():
        if key.kind == Kind.FEEDBACK:
            item_id, action = _FEEDBACK.unpack_from(payload)
            found.append(_Feedback(item_id, action, payload[_FEEDBACK.size :].decode("ascii")))
    return found
