"""Every topic, declared once: key, partitions, cleanup, retention, message limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: The same for every keyed topic, so that partition p of the requests and of the sequences hold the same users.
#: Never changes within a topic version.
PARTITIONS: Final = 8
HEARTBEAT_KEY: Final = b"heartbeat"

_DAY_MS: Final = 86_400_000
#: Every topic that names a user ages out within this, except the compacted snapshots, which honour ERASE.
ERASURE_MAX_DAYS: Final = 30


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One Kafka topic. `retention_ms` -1 keeps records for ever; times in ms, sizes in bytes."""

    name: str
    partitions: int = PARTITIONS
    cleanup: str = "delete"
    retention_ms: int
    max_message_bytes: int
    #: CreateTime: the record's timestamp is the event's own time. LogAppendTime: the broker's clock.
    timestamp_type: str

    def settings(self, *, replay: bool = False) -> dict[str, str]:
        """Kafka's topic settings.

        Args:
            replay: an old log will be replayed into this cluster. Topics in event time then keep everything:
                retention and segment rolling go by the records' own timestamps and would eat or shred the log
                as it is written.
        """
        settings = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": self.timestamp_type,
        }
        if replay and self.timestamp_type == "CreateTime":
            settings |= {"retention.ms": "-1", "segment.ms": str(100 * 365 * _DAY_MS)}
        return settings


EVENTS: Final = Topic(
    name="behaviour.events.v1",
    retention_ms=ERASURE_MAX_DAYS * _DAY_MS,
    max_message_bytes=1 << 20,
    timestamp_type="CreateTime",
)
UPDATES: Final = Topic(
    name="sequence.updates.v1",
    retention_ms=14 * _DAY_MS,
    max_message_bytes=1 << 20,
    timestamp_type="LogAppendTime",
)
SNAPSHOTS: Final = Topic(
    name="sequence.snapshots.v1",
    cleanup="compact",
    retention_ms=-1,
    max_message_bytes=4 << 20,
    timestamp_type="LogAppendTime",
)
REQUESTS: Final = Topic(
    name="ranking.requests.v1",
    retention_ms=3 * _DAY_MS,
    max_message_bytes=1 << 20,
    timestamp_type="CreateTime",
)
RESPONSES: Final = Topic(
    name="ranking.responses.v1",
    retention_ms=7 * _DAY_MS,
    max_message_bytes=1 << 20,
    timestamp_type="CreateTime",
)
IMPRESSIONS: Final = Topic(
    name="ranking.impressions.v1",
    retention_ms=7 * _DAY_MS,
    max_message_bytes=1 << 20,
    timestamp_type="CreateTime",
)
EXAMPLES: Final = Topic(
    name="training.examples.v1",
    retention_ms=14 * _DAY_MS,
    max_message_bytes=1 << 20,
    timestamp_type="LogAppendTime",
)
LATE_FEEDBACK: Final = Topic(
    name="training.late-feedback.v1",
    retention_ms=14 * _DAY_MS,
    max_message_bytes=1 << 20,
    timestamp_type="LogAppendTime",
)

LIVE_TOPICS: Final = (EVENTS, UPDATES, SNAPSHOTS, REQUESTS, RESPONSES, IMPRESSIONS, EXAMPLES, LATE_FEEDBACK)


def dead_letter_topic(topic: Topic) -> Topic:
    """Where the records of `topic` go that cannot be accepted."""
    return Topic(
        name=f"{topic.name}.dlq",
        partitions=1,
        retention_ms=ERASURE_MAX_DAYS * _DAY_MS,
        # The letter holds the refused record whole, and its coordinates.
        max_message_bytes=topic.max_message_bytes + (64 << 10),
        timestamp_type="LogAppendTime",
    )


DEAD_LETTER_TOPICS: Final = {topic.name: dead_letter_topic(topic) for topic in LIVE_TOPICS}
ALL_TOPICS: Final = (*LIVE_TOPICS, *DEAD_LETTER_TOPICS.values())

#: Consumer groups whose first offsets are written at deployment: Flink sources start from group offsets only, for
#: "earliest" would silently step over a hole when a job is restored after the log has moved on.
SEQUENCE_JOB_GROUP: Final = "longrank.sequence-job"
EXAMPLE_JOB_GROUP: Final = "longrank.example-job"
SCORER_GROUP: Final = "longrank.scorer"
GROUP_TOPICS: Final = {
    SEQUENCE_JOB_GROUP: (EVENTS,),
    EXAMPLE_JOB_GROUP: (EVENTS, RESPONSES, IMPRESSIONS),
    SCORER_GROUP: (REQUESTS,),
}
