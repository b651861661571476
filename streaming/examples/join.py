"""The example job's transition: responses, impressions and feedback of one user, joined at the label time. Pure but for
the states handed in.

Inputs may come in any order; what is written depends on their set alone, see schemas/EXAMPLES.md. A record takes effect
when the watermark is where it was published: all timers are in event time.
"""

from __future__ import annotations

from hashlib import blake2b

from schemas.reasons import Reason, Rejected
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_INVALID, Impression, RankingResponse
from streaming.examples.accept import AcceptedFeedback, feedback_of
from streaming.examples.build import Chosen, Record, choose, counting_feedback, ids
from streaming.examples.feedback import FeedbackDesk
from streaming.examples.first_version import FirstVersions
from streaming.examples.pending import DueRequests, Given, PendingState, Phase, Request, Shown, Waiting
from streaming.examples.settings import ExampleSettings
from streaming.examples.turn import AFTER_REVISION_WINDOW, OVER_LIMIT, JoinOutcome, PendingValues, Turn
from streaming.sequence.accept import Accepted
from streaming.sequence.update import varint


class ExampleJoin:
    """The transitions, under one set of rules. All of them raise StateError when the state is not what this code wrote.

    Args:
        kept_values: see `PendingValues`.
    """

    def __init__(self, settings: ExampleSettings, kept_values: int = 0) -> None:
        self._settings = settings
        self.values = PendingValues(settings, kept_values)
        self._desk = FeedbackDesk(settings, self.values)
        self._first_versions = FirstVersions(settings.tasks)

    def on_response(
        self,
        state: PendingState,
        response: RankingResponse,
        published_ms: int,
        watermark_ms: int,
        outcome: JoinOutcome,
    ) -> None:
        """Takes a response that `accept_response` returned, and its record's timestamp.

        Raises:
            Rejected: over_limit.
        """
        if response.status == RESPONSE_STATUS_INVALID:
            # Nothing was scored, so nothing can have been shown.
            outcome.counts["invalid_responses"] += 1
            return
        request_id, response_id = response.request_id, response.response_id
        request_time_ms = response.request_time_ms
        due_ms = request_time_ms + self._settings.label_window_ms
        if due_ms <= watermark_ms or published_ms > due_ms:
            outcome.counts["late_response"] += 1
            return
        turn = Turn(response.user_id, state, outcome, watermark_ms)
        due, request = self.values.open(turn, request_time_ms, request_id)
        kept = kept_of_response(response, response_id)
        known = request.responses.get(response_id)
        if known is not None:
            turn.count("duplicate_response")
        elif len(request.responses) >= self._settings.limits.responses_per_request:
            raise Rejected(Reason.OVER_LIMIT, f"request {request_id} has {len(request.responses)} responses")
        # Of two records with one identity the smaller bytes stay, so that arrival order decides nothing.
        if known is None or kept < known:
            request.responses[response_id] = kept
            self.values.put(state, response.user_id, due_ms, due)

    def on_impression(
        self, state: PendingState, impression: Impression, record: Record, watermark_ms: int, outcome: JoinOutcome
    ) -> None:
        """Takes an impression that `accept_impression` returned, and its record.

        Raises:
            Rejected: over_limit.
        """
        settings, request_id, request_time_ms = self._settings, impression.request_id, impression.request_time_ms
        due_ms = request_time_ms + settings.label_window_ms
        if due_ms <= watermark_ms or record.timestamp_ms > due_ms:
            outcome.counts["late_impression"] += 1
            return
        turn = Turn(impression.user_id, state, outcome, watermark_ms)
        due, request = self.values.open(turn, request_time_ms, request_id)
        identity = blake2b(record.value, digest_size=16).digest()
        known, packed = request.impressions.get(identity), record.pack()
        if known is not None:
            turn.count("duplicate_impression")
        elif len(request.impressions) >= settings.limits.impressions_per_request:
            raise Rejected(Reason.OVER_LIMIT, f"request {request_id} has {len(request.impressions)} impressions")
        if known is None or packed < known:
            request.impressions[identity] = packed
            self.values.put(state, turn.user_id, due_ms, due)
        if settings.attribution_window_ms:
            item_id = impression.item_id
            shown = Shown(
                max(impression.impression_time_ms, request_time_ms),
                request_time_ms,
                due_ms,
                request_id,
                impression.response_id,
                record.timestamp_ms,
                frozenset(ids(item_id)),
                item_id,
            )
            self._desk.note_shown(turn, shown)

    def on_feedback(
        self,
        state: PendingState,
        accepted: Accepted,
        partition: int,
        offset: int,
        published_ms: int,
        watermark_ms: int,
        outcome: JoinOutcome,
    ) -> None:
        """Takes an interaction as `accept` returned it, and where its record stands."""
        feedback = feedback_of(accepted[0], accepted[1], partition, offset, published_ms)
        self.take_feedback(state, feedback, watermark_ms, outcome)

    def take_feedback(
        self, state: PendingState, feedback: AcceptedFeedback, watermark_ms: int, outcome: JoinOutcome
    ) -> None:
        """Takes feedback that `accept_feedback` returned."""
        user_id, given, request_id, request_time_ms = feedback
        if not request_id:
            turn = Turn(user_id, state, outcome, watermark_ms)
            if self._settings.attribution_window_ms:
                self._desk.take_unnamed(turn, given)
            else:
                turn.count("skipped_events")
            return
        due_ms = request_time_ms + self._settings.label_window_ms
        # As nearly all of it is: in time, for the first time, and its request is here.
        if request_time_ms <= given.published_ms <= due_ms > watermark_ms:
            due = self.values.here(user_id, due_ms)
            request = due.requests.get(request_id) if due is not None else None
            if (
                due is not None
                and request is not None
                and given.event_id not in request.feedback
                and len(request.feedback) < self._settings.limits.feedback_per_request
            ):
                request.feedback[given.event_id] = given
                self.values.put(state, user_id, due_ms, due)
                return
        self._on_named(Turn(user_id, state, outcome, watermark_ms), given, request_id, request_time_ms)

    def _on_named(self, turn: Turn, given: Given, request_id: str, request_time_ms: int) -> None:
        settings, published_ms = self._settings, given.published_ms
        due_ms, until_ms = request_time_ms + settings.label_window_ms, request_time_ms + settings.kept_ms
        if published_ms < request_time_ms:
            turn.count("feedback_before_request")
        elif published_ms > until_ms or turn.now_ms >= until_ms:
            turn.too_late(given, request_id, request_time_ms, AFTER_REVISION_WINDOW)
        elif published_ms > due_ms and published_ms > turn.now_ms:
            self._desk.wait(turn, Waiting(given, due_ms, request_id))
        elif due_ms <= turn.now_ms:
            self._desk.revise(turn, Waiting(given, due_ms, request_id))
        else:
            due, request = self.values.open(turn, request_time_ms, request_id)
            known = request.feedback.get(given.event_id)
            if known is not None:
                turn.count("duplicate_feedback")
                if known <= given:
                    return
            elif len(request.feedback) >= settings.limits.feedback_per_request:
                turn.too_late(given, request_id, request_time_ms, OVER_LIMIT)
                return
            request.feedback[given.event_id] = given
            self.values.put(turn.state, turn.user_id, due_ms, due)

    def on_timer(self, state: PendingState, user_id: int, time_ms: int, outcome: JoinOutcome) -> None:
        """The watermark is at `time_ms`: a label time, the end of a request, or when feedback was published."""
        turn = Turn(user_id, state, outcome, time_ms)
        self._desk.on_timer(turn)
        due = self.values.due(turn, time_ms)
        if due is not None:
            self._write_examples(turn, due)
        self._desk.sweep(turn)

    def _write_examples(self, turn: Turn, due: DueRequests) -> None:
        settings, due_ms = self._settings, turn.now_ms
        for request_id, request in sorted(due.requests.items()):
            if request.phase != Phase.OPEN:
                continue
            chosen, unusable = choose(request_id, request, emit_unshown=settings.emit_unshown)
            turn.outcome.unusable += ((turn.user_id, each) for each in unusable)
            if not request.impressions:
                turn.count("without_impression")
            if chosen is None:
                del due.requests[request_id]
                turn.count("requests_released")
            else:
                self._write_example(turn, due.request_time_ms, request_id, request, chosen)
        if due.requests and due.request_time_ms + settings.kept_ms > due_ms:
            self.values.put(turn.state, turn.user_id, due_ms, due)
        else:
            self.values.release(turn, due_ms, due)

    def _write_example(
        self, turn: Turn, request_time_ms: int, request_id: str, request: Request, chosen: Chosen
    ) -> None:
        items = frozenset(chosen.items)
        if self._settings.attribution_window_ms:
            self._desk.attribute_unnamed(turn, request_time_ms, request_id, request, items)
        response_id = chosen.response.response_id
        counting = counting_feedback(request.feedback.values(), response_id, items, turn.outcome.counts)
        if len(counting) < len(request.feedback):
            request.feedback = {each.event_id: each for each in counting}
        superseded = len(request.responses) - 1
        if superseded:
            turn.count("superseded_responses", superseded)
        request.phase = Phase.WRITTEN
        request.example = self._first_versions.encode(
            turn.user_id, request_id, request_time_ms, chosen, counting, superseded
        )
        request.responses, request.impressions = {}, {}
        turn.outcome.examples.append((turn.user_id, request.example))


def kept_of_response(response: RankingResponse, response_id: str) -> bytes:
    """A RankingResponse with what the example needs: its fields' bytes one after the other, which costs half of what
    copying them into another message does."""
    name = response_id.encode("ascii")
    candidates = response.candidates.SerializeToString(deterministic=True)
    stamp = response.stamp.SerializeToString(deterministic=True)
    parts = [b"\x1a", varint(len(name)), name, b"\x42", varint(len(candidates)), candidates]
    parts += b"\x52", varint(len(stamp)), stamp
    for column in response.context:
        value = column.SerializeToString(deterministic=True)
        parts += b"\x72", varint(len(value)), value
    return b"".join(parts)
