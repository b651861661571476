"""The rules of the examples. They change only across stop-with-savepoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from streaming.examples.labels import Task


@dataclass(frozen=True, kw_only=True)
class JoinLimits:
    """How much may wait for one request or user; more is no traffic of people, and refused."""

    responses_per_request: int = 16
    impressions_per_request: int = 256
    feedback_per_request: int = 4_096
    #: Feedback of a user that waits: it names no request and may still find its impression, or will revise an example.
    unattributed_per_user: int = 4_096
    #: Impressions of a user to which feedback that names no request may belong; it belongs to no more than these.
    attributed_impressions_per_user: int = 1_024


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """What an example is."""

    tasks: tuple[Task, ...]
    #: Feedback published at most so long after the request, but after the example, revises it, ms; 0: nothing does.
    revision_window_ms: int = 0
    #: Feedback that names no request belongs to the newest impression of its item that is at most so old when it is
    #: published, ms; 0: to none.
    attribution_window_ms: int = 0
    #: Requests that were answered and not shown become examples, too.
    emit_unshown: bool = False
    limits: JoinLimits = JoinLimits()

    @cached_property
    def label_window_ms(self) -> int:
        """From a request to its example, ms: the longest window of the tasks. Requests that wait while it changes are
        joined only with what came before the change."""
        return max(task.window_ms for task in self.tasks)

    @cached_property
    def kept_ms(self) -> int:
        """From a request to the end of its state, ms."""
        return max(self.label_window_ms, self.revision_window_ms)
