"""Users' headers, decoded, between their states and the step. Pure but for the states handed in.

A header is packed and written once for many events: when `flush` is called, before the state is saved; a few at a time
in `write_some`; or when others push it out. Nothing is lost with a process: what was not written since the state was
saved is made again from the same records.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final

from streaming.sequence.state import Header, UserState

#: So few that it costs a full batch little; more than a batch's users where batches are small.
_WRITTEN_TOGETHER: Final = 32


class Headers:
    """All users' headers; those of the users who acted last are kept.

    Args:
        kept_users: how many; with 0, every header is written at once.
        window_events: event ids that a loaded header remembers.
    """

    def __init__(self, kept_users: int, window_events: int) -> None:
        self._kept_users = kept_users
        self._window_events = window_events
        self._kept: OrderedDict[int, Header] = OrderedDict()
        #: Those of them that differ from the state, and where they belong; who has waited longest comes first.
        self._unwritten: dict[int, tuple[Header, UserState]] = {}

    def load(self, state: UserState, user_id: int) -> Header | None:
        """The user's header; None for a user never seen.

        Raises:
            StateError: the state is not what this code wrote.
        """
        header = self._kept.get(user_id)
        if header is None:
            return Header.load(state, self._window_events)
        self._kept.move_to_end(user_id)
        return header

    def put(self, state: UserState, user_id: int, header: Header) -> None:
        """The header has changed. `state` is held on to until it is written."""
        if header.unwritten:
            return
        if not self._kept_users:
            state.put_header(header.pack())
            return
        header.unwritten = True
        self._kept[user_id] = header
        self._unwritten[user_id] = header, state
        if len(self._kept) > self._kept_users:
            oldest, _ = self._kept.popitem(last=False)
            if oldest in self._unwritten:
                self._write(oldest)

    def put_at_once(self, state: UserState, user_id: int, header: Header) -> None:
        """The header has changed and is written before anything else happens."""
        self._unwritten[user_id] = header, state
        self._write(user_id)

    def write_some(self) -> None:
        """Writes those that have waited longest: called now and then, it leaves less for `flush` to stop for."""
        for user_id in list(islice(self._unwritten, _WRITTEN_TOGETHER)):
            self._write(user_id)

    def flush(self) -> None:
        """Writes all that are not written: before the state is saved, and before anyone else reads it."""
        for user_id in list(self._unwritten):
            self._write(user_id)

    def _write(self, user_id: int) -> None:
        header, state = self._unwritten.pop(user_id)
        header.unwritten = False
        state.put_header(header.pack())
