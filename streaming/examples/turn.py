"""One user's turn: whose values are looked at, what comes of it, and the values themselves between state and logic."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from schemas import SCHEMA_VERSION
from schemas.v1.behaviour_pb2 import Interaction, RequestRef
from schemas.v1.training_pb2 import LateFeedback
from streaming.examples.build import Unusable
from streaming.examples.pending import USER_SLOT, DueRequests, Given, PendingState, Request, UserPending
from streaming.examples.settings import ExampleSettings
from streaming.sequence.state import StateError
from streaming.write_back import WriteBack

#: Fewer than a batch changes: in a replay most requests are done with before they have to be written at all.
_WRITTEN_TOGETHER: Final = 4
AFTER_REVISION_WINDOW: Final = "after_revision_window"
OVER_LIMIT: Final = "over_limit"

#: (user_id, label time), or (user_id, USER_SLOT).
_Slot = tuple[int, int]


@dataclass(slots=True, kw_only=True)
class JoinOutcome:
    """What some steps did and want. `counts` is keyed by the counter names in streaming/flink/metrics.py."""

    #: (user_id, a TrainingExample).
    examples: list[tuple[int, bytes]] = field(default_factory=list)
    #: (user_id, impression).
    unusable: list[tuple[int, Unusable]] = field(default_factory=list)
    late: list[LateFeedback] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter[str])
    #: (user_id, ms): event-time timers to register.
    timers: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Turn:
    """One record or timer of one user."""

    user_id: int
    state: PendingState
    outcome: JoinOutcome
    #: The watermark, or the timer's time.
    now_ms: int

    def count(self, name: str, count: int = 1) -> None:
        """Counts."""
        self.outcome.counts[name] += count

    def wake(self, time_ms: int) -> None:
        """Asks for a timer."""
        self.outcome.timers.append((self.user_id, time_ms))

    def too_late(self, given: Given, request_id: str, request_time_ms: int, reason: str) -> None:
        """Feedback to `request_id`, "" where it is not known, that no example will have."""
        self.count(f"feedback_{reason}")
        late = LateFeedback(
            schema_version=SCHEMA_VERSION,
            user_id=self.user_id,
            event_id=given.event_id,
            event_time_ms=given.event_time_ms,
            interaction=Interaction(
                item_id=given.item_id,
                action=given.action,
                watch_ms=given.watch_ms if given.watch_ms >= 0 else None,
                duration_ms=given.duration_ms if given.duration_ms >= 0 else None,
                surface=given.surface if given.surface >= 0 else None,
                group_id=given.group_id if given.group_id >= 0 else None,
            ),
            published_ms=given.published_ms,
            source_partition=given.partition,
            source_offset=given.offset,
            reason=reason,
        )
        if request_id:
            late.request.CopyFrom(
                RequestRef(request_id=request_id, response_id=given.response_id, request_time_ms=request_time_ms)
            )
        self.outcome.late.append(late)


class PendingValues:
    """All users' values. Raises StateError wherever it reads: the state is not what this code wrote.

    Args:
        kept: so many values of requests, and as many of users, are kept decoded and written later, see `WriteBack`.
    """

    def __init__(self, settings: ExampleSettings, kept: int) -> None:
        self._settings = settings
        self._due: WriteBack[_Slot, PendingState, DueRequests] = WriteBack(kept, _write, _WRITTEN_TOGETHER)
        self._users: WriteBack[_Slot, PendingState, UserPending] = WriteBack(kept, _write, _WRITTEN_TOGETHER)

    def write_some(self) -> None:
        """See `WriteBack`."""
        self._due.write_some()
        self._users.write_some()

    def flush(self) -> None:
        """See `WriteBack`."""
        self._due.flush()
        self._users.flush()

    def here(self, user_id: int, due_ms: int) -> DueRequests | None:
        """The user's requests with this label time, if they are decoded."""
        return self._due.look((user_id, due_ms))

    def due(self, turn: Turn, due_ms: int) -> DueRequests | None:
        """The user's requests with this label time."""
        slot = turn.user_id, due_ms
        due = self._due.look(slot)
        # To look for what is not there costs as much as to find it: the user's own knows.
        if due is None and due_ms in self.user(turn).dues:
            packed = turn.state.get(due_ms)
            if packed is None:
                raise StateError(f"requests of user {turn.user_id} with label time {due_ms} are missing")
            due = DueRequests.unpack(packed)
            self._due.keep(slot, due)
        return due

    def open(self, turn: Turn, request_time_ms: int, request_id: str) -> tuple[DueRequests, Request]:
        """The requests of this time, and the one of this id; new where there was none."""
        due_ms = request_time_ms + self._settings.label_window_ms
        due = self.due(turn, due_ms)
        if due is None:
            due, until_ms = DueRequests(request_time_ms), request_time_ms + self._settings.kept_ms
            user = self.user(turn)
            user.dues[due_ms] = until_ms
            self.put_user(turn, user, until_ms)
            turn.wake(due_ms)
        request = due.requests.get(request_id)
        if request is None:
            request = due.requests[request_id] = Request()
            turn.count("requests_opened")
        return due, request

    def put(self, state: PendingState, user_id: int, due_ms: int, due: DueRequests) -> None:
        """They have changed."""
        self._due.put(state, (user_id, due_ms), due)

    def release(self, turn: Turn, due_ms: int, due: DueRequests) -> None:
        """They are done with."""
        turn.count("requests_released", len(due.requests))
        self._due.forget((turn.user_id, due_ms))
        if due.stored:
            turn.state.remove(due_ms)
        user = self.user(turn)
        user.dues.pop(due_ms, None)
        self.put_user(turn, user)

    def user(self, turn: Turn) -> UserPending:
        """The user's own; empty where there was none."""
        slot = turn.user_id, USER_SLOT
        user = self._users.get(slot)
        if user is None:
            packed = turn.state.get(USER_SLOT)
            user = UserPending() if packed is None else UserPending.unpack(packed)
            self._users.keep(slot, user)
        return user

    def put_user(self, turn: Turn, user: UserPending, until_ms: int = 0) -> None:
        """It has changed; something new in it wants to be swept at `until_ms`, 0: nothing does."""
        if until_ms and not user.sweep_ms:
            user.sweep_ms = until_ms
            turn.wake(until_ms)
        slot = turn.user_id, USER_SLOT
        if user.dues or user.loose or user.waiting or user.shown:
            self._users.put(turn.state, slot, user)
            return
        self._users.settle(slot, user)
        if user.stored:
            turn.state.remove(USER_SLOT)
            user.stored = False


def _write(state: PendingState, slot: _Slot, value: DueRequests | UserPending) -> None:
    state.put(slot[1], value.pack())
    value.stored = True
