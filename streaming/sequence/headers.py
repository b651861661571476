"""Users' headers, decoded, between their states and the step."""

from __future__ import annotations

from typing import Final

from streaming.sequence.state import Header, UserState
from streaming.write_back import WriteBack

#: So few that it costs a full batch little; more than a batch's users where batches are small.
_WRITTEN_TOGETHER: Final = 32


class Headers(WriteBack[int, UserState, Header]):
    """All users' headers; those of the users who acted last are kept.

    Args:
        kept_users: how many; with 0, every header is written at once.
        window_events: event ids that a loaded header remembers.
    """

    def __init__(self, kept_users: int, window_events: int) -> None:
        super().__init__(kept_users, _write, _WRITTEN_TOGETHER)
        self._window_events = window_events

    def load(self, state: UserState, user_id: int) -> Header | None:
        """The user's header; None for a user never seen.

        Raises:
            StateError: the state is not what this code wrote.
        """
        return self.get(user_id) or Header.load(state, self._window_events)


def _write(state: UserState, user_id: int, header: Header) -> None:  # noqa: ARG001 - the state is the user's
    state.put_header(header.pack())
