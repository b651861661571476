"""Feedback that is not simply its request's: it names none, or takes effect after the example was written. Pure but for
the states handed in."""

from __future__ import annotations

from typing import Final

from schemas.v1.training_pb2 import TrainingExample
from streaming.examples.attribution import attribute, drop_old, last_end_ms, loose_until_ms, shown_until_ms
from streaming.examples.build import counting_feedback, ids, next_version
from streaming.examples.pending import Given, Phase, Request, Shown, UserPending, Waiting
from streaming.examples.settings import ExampleSettings
from streaming.examples.turn import AFTER_REVISION_WINDOW, OVER_LIMIT, PendingValues, Turn

#: So many of a user's impressions come before the old ones among them are looked for.
_SWEPT_TOGETHER: Final = 32


class FeedbackDesk:
    """Finds such feedback its request when the watermark is where it was published."""

    def __init__(self, settings: ExampleSettings, values: PendingValues) -> None:
        self._settings = settings
        self._values = values

    def take_unnamed(self, turn: Turn, given: Given) -> None:
        """Feedback that names no request has come."""
        user = self._values.user(turn)
        item_id = given.item_id
        if self._is_known(turn, user, given, ""):
            return
        if self._is_full(turn, user):
            turn.too_late(given, "", 0, OVER_LIMIT)
            return
        # Of what it may belong to, is something written before it takes effect?
        revises = any(
            item_id in shown.items and (shown.due_ms <= turn.now_ms or shown.due_ms < given.published_ms)
            for shown in user.shown
        )
        waiting = Waiting(given, 0, "")
        if not revises:
            self._keep_loose(turn, user, given)
        elif given.published_ms > turn.now_ms:
            self.wait(turn, waiting)
        else:
            self._settle(turn, user, waiting, written_ms=turn.now_ms)

    def wait(self, turn: Turn, waiting: Waiting) -> None:
        """Feedback will take effect when the watermark is where it was published."""
        user, given = self._values.user(turn), waiting.given
        if self._is_known(turn, user, given, waiting.request_id):
            return
        if self._is_full(turn, user):
            request_time_ms = waiting.due_ms - self._settings.label_window_ms
            turn.too_late(given, waiting.request_id, request_time_ms, OVER_LIMIT)
        else:
            user.waiting[waiting.request_id, given.event_id] = waiting
            turn.wake(given.published_ms)
            self._values.put_user(turn, user)

    def note_shown(self, turn: Turn, shown: Shown) -> None:
        """An impression has come, to which feedback may belong."""
        user = self._values.user(turn)
        for place, each in enumerate(user.shown):
            if each.item_id == shown.item_id and each[:5] == shown[:5]:
                # A copy: it was published when the first was.
                if shown.published_ms < each.published_ms:
                    user.shown[place] = shown
                    self._values.put_user(turn, user)
                return
        if len(user.shown) % _SWEPT_TOGETHER == _SWEPT_TOGETHER - 1:
            self._drop(turn, user)
        if len(user.shown) >= self._settings.limits.attributed_impressions_per_user:
            turn.count("impressions_not_attributed_to")
            return
        user.shown.append(shown)
        self._values.put_user(turn, user, shown_until_ms(shown, self._settings))

    def _is_full(self, turn: Turn, user: UserPending) -> bool:
        if len(user) < self._settings.limits.unattributed_per_user:
            return False
        self._drop(turn, user)
        return len(user) >= self._settings.limits.unattributed_per_user

    def _drop(self, turn: Turn, user: UserPending) -> None:
        turn.count("feedback_unattributed", drop_old(user, turn.now_ms, self._settings))

    def _is_known(self, turn: Turn, user: UserPending, given: Given, request_id: str) -> bool:
        """Whether this event is here as it was published first; if it was published later than this time, it goes."""
        of_item = {} if request_id else user.loose.get(given.item_id, {})
        waiting = user.waiting.get((request_id, given.event_id))
        known = waiting.given if waiting is not None else of_item.get(given.event_id)
        if known is None:
            return False
        turn.count("duplicate_feedback")
        if known <= given:
            return True
        user.waiting.pop((request_id, given.event_id), None)
        of_item.pop(given.event_id, None)
        self._values.put_user(turn, user)
        return False

    def attribute_unnamed(
        self, turn: Turn, request_time_ms: int, request_id: str, request: Request, items: frozenset[int]
    ) -> None:
        """The label time of a request has come: what belongs to it moves from the user's feedback to its own.

        Args:
            items: what was shown of it.
        """
        user = self._values.user(turn)
        due_ms, changed = turn.now_ms, False
        for item in sorted(items & user.loose.keys()):
            of_item = user.loose[item]
            for given in list(of_item.values()):
                if given.published_ms > due_ms:
                    # It may revise what is now written; which impression is the newest then is not known yet.
                    user.waiting["", given.event_id] = Waiting(given, 0, "")
                    turn.wake(given.published_ms)
                else:
                    found = attribute(user.shown, given, self._settings.attribution_window_ms)
                    if found is None or (found.due_ms, found.request_id) != (due_ms, request_id):
                        continue
                    given = given._replace(response_id=found.response_id)
                    self._add(turn, request_time_ms, request_id, request, given)
                changed = True
                del of_item[given.event_id]
            if not of_item:
                del user.loose[item]
        if changed:
            self._values.put_user(turn, user)

    def _add(self, turn: Turn, request_time_ms: int, request_id: str, request: Request, given: Given) -> bool:
        """Whether the request has the feedback now and had not before."""
        if given.event_id in request.feedback:
            turn.count("duplicate_feedback")
            return False
        if len(request.feedback) >= self._settings.limits.feedback_per_request:
            turn.too_late(given, request_id, request_time_ms, OVER_LIMIT)
            return False
        request.feedback[given.event_id] = given
        return True

    def on_timer(self, turn: Turn) -> None:
        """Whatever was published until now takes effect, before the examples of now are written: it may be theirs."""
        user = self._values.user(turn)
        if not user.waiting:
            return
        ready = sorted(each for each in user.waiting.values() if each.given.published_ms <= turn.now_ms)
        for waiting in ready:
            del user.waiting[waiting.request_id, waiting.given.event_id]
            self._settle(turn, user, waiting, written_ms=turn.now_ms - 1)
        if ready:
            self._values.put_user(turn, user)

    def sweep(self, turn: Turn) -> None:
        """After the examples of now are written: requests that have ended are released; and, when it is time, what is
        too old of the user's own is dropped."""
        settings, user = self._settings, self._values.user(turn)
        dues = user.dues
        if dues and min(dues.values()) <= turn.now_ms:
            for due_ms in sorted(due_ms for due_ms, until_ms in dues.items() if until_ms <= turn.now_ms):
                due = self._values.due(turn, due_ms)
                assert due is not None  # The user's own names it.
                self._values.release(turn, due_ms, due)
            user = self._values.user(turn)
        if 0 < user.sweep_ms <= turn.now_ms:
            self._drop(turn, user)
            # Not for every single one that ends: the last of them.
            user.sweep_ms = last_end_ms(user, settings)
            if user.sweep_ms:
                turn.wake(user.sweep_ms)
            self._values.put_user(turn, user)

    def _keep_loose(self, turn: Turn, user: UserPending, given: Given) -> None:
        until_ms = loose_until_ms(given, self._settings)
        if until_ms <= turn.now_ms:
            turn.count("feedback_unattributed")
            return
        user.loose.setdefault(given.item_id, {})[given.event_id] = given
        self._values.put_user(turn, user, until_ms)

    def _settle(self, turn: Turn, user: UserPending, waiting: Waiting, written_ms: int) -> None:
        """Feedback takes effect: what was published before it is here, and examples are written up to `written_ms`."""
        given = waiting.given
        if waiting.request_id:
            self.revise(turn, waiting)
            return
        found = attribute(user.shown, given, self._settings.attribution_window_ms)
        if found is None or found.due_ms > written_ms:
            # To nothing yet, or to nothing at all: its copies shall not fare otherwise.
            self._keep_loose(turn, user, given)
        elif max(given.published_ms - 1, written_ms) >= found.request_time_ms + self._settings.kept_ms:
            turn.too_late(given, found.request_id, found.request_time_ms, AFTER_REVISION_WINDOW)
        else:
            given = given._replace(response_id=found.response_id)
            self.revise(turn, Waiting(given, found.due_ms, found.request_id))

    def revise(self, turn: Turn, waiting: Waiting) -> None:
        """Feedback to a request whose label time has passed takes effect."""
        given, due_ms, request_id = waiting
        due = self._values.due(turn, due_ms)
        request = due.requests.get(request_id) if due is not None else None
        if due is None or request is None or request.phase != Phase.WRITTEN:
            turn.count("feedback_to_no_example")
            return
        if given.event_id in request.feedback:
            turn.count("duplicate_feedback")
            return
        example = TrainingExample.FromString(request.example)
        items = ids(example.targets.item_id)
        if not list(counting_feedback([given], example.response_id, items, turn.outcome.counts)):
            return
        if not self._add(turn, example.request_time_ms, request_id, request, given):
            return
        request.since.append(given.event_id)
        revised = next_version(example, request.feedback.values(), request.since, self._settings)
        if revised is not None:
            turn.count("revisions")
            request.example, request.since = revised.SerializeToString(deterministic=True), []
            turn.outcome.examples.append((turn.user_id, request.example))
        self._values.put(turn.state, turn.user_id, due_ms, due)
