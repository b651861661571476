"""A partition on its way from its stored position to serving: the order of the topics, and whether to begin afresh.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorer.sequences.partition import Position
from scorer.sequences.source import FOLLOWED_TOPICS


@dataclass
class Route:
    """One followed partition."""

    #: topic -> next offset to read.
    offsets: dict[str, int]
    #: topic -> offset to reach before serving, as seen when the partition was opened.
    targets: dict[str, int]
    #: topic -> where reading began, for progress.
    begins: dict[str, int]
    topic_ids: Mapping[str, str]
    #: Topics that wait for those before them.
    waiting: list[str]

    @classmethod
    def plan(
        cls,
        stored: Position | None,
        topic_ids: Mapping[str, str],
        oldest: Mapping[str, int],
        newest: Mapping[str, int],
    ) -> Route:
        """From the stored position, or from the oldest records; to the newest that there are now."""
        offsets = {topic: stored.offsets[topic] if stored else oldest[topic] for topic in FOLLOWED_TOPICS}
        route = cls(offsets, dict(newest), dict(offsets), topic_ids, waiting=list(FOLLOWED_TOPICS[1:]))
        route.release()
        return route

    @property
    def caught_up(self) -> bool:
        """All targets are reached."""
        return all(self.offsets[topic] >= target for topic, target in self.targets.items())

    @property
    def reading(self) -> list[str]:
        """Topics that do not wait."""
        return [topic for topic in FOLLOWED_TOPICS if topic not in self.waiting]

    def release(self) -> list[str]:
        """Topics that may begin, for those before them have reached their targets."""
        released: list[str] = []
        while self.waiting:
            before = FOLLOWED_TOPICS[: FOLLOWED_TOPICS.index(self.waiting[0])]
            if any(self.offsets[topic] < self.targets[topic] for topic in before):
                break
            released.append(self.waiting.pop(0))
        return released


def unusable(
    stored: Position, topic_ids: Mapping[str, str], oldest: Mapping[str, int], newest: Mapping[str, int]
) -> str | None:
    """Why a stored position cannot be continued; None when it can."""
    for topic in FOLLOWED_TOPICS:
        if stored.topic_ids.get(topic) != topic_ids[topic]:
            return f"topic {topic} was recreated"
        offset = stored.offsets.get(topic, -1)
        if not oldest[topic] <= offset <= newest[topic]:
            return f"offset {offset} of {topic} is outside {oldest[topic]} .. {newest[topic]}"
    return None
