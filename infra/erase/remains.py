"""What the topics still say of a user, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.partitioner import partition_of, user_key
from schemas.topics import ALL_TOPICS, DEAD_LETTER_TOPICS, EXAMPLES, PARTITIONS, SNAPSHOTS, UPDATES, Topic
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from scorer.landing.bounded import read_bounded

_LETTERS: Final = frozenset(topic.name for topic in DEAD_LETTER_TOPICS.values())


@dataclass(frozen=True, kw_only=True)
class Remains:
    """One topic's records that name a user."""

    topic: str
    records: int
    #: Records of epochs before the newest, in the topics that have epochs.
    older_epochs: int
    newest_ms: int
    #: When retention has deleted the last of them, ms UTC; None: compaction has removed all but the newest.
    gone_by_ms: int | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """The state of a user's erasure."""

    user_id: int
    #: The newest snapshot's; 0 without one.
    epoch: int
    #: Epochs below this one are erased; 0: none.
    erased_below: int
    #: Events that the user has had since.
    events_since: int
    remains: tuple[Remains, ...]

    @property
    def erased(self) -> bool:
        """The user was erased, and what there is now is of later."""
        return 0 < self.erased_below <= self.epoch


def check_erased(bootstrap: str, user_id: int) -> Check:
    """Read every topic that names users and say what is there of this one.

    Raises:
        BoundedReadError: a topic does not exist, or the broker stopped answering.
    """
    newest, saw_erasure = (0, 0), 0
    for _, value in _named(bootstrap, SNAPSHOTS, user_id):
        snapshot = SequenceSnapshot.FromString(value)
        newest = max(newest, (snapshot.epoch, snapshot.seq_no))
        saw_erasure = max(saw_erasure, snapshot.erased_below)
    remains = []
    for topic in ALL_TOPICS:
        times, older = [], 0
        for timestamp_ms, value in _named(bootstrap, topic, user_id):
            times.append(timestamp_ms)
            if topic is UPDATES:
                older += SequenceUpdate.FromString(value).epoch < newest[0]
            elif topic is SNAPSHOTS:
                older += SequenceSnapshot.FromString(value).epoch < newest[0]
        if times:
            gone = None if topic.retention_ms < 0 else max(times) + topic.retention_ms
            remains.append(
                Remains(topic=topic.name, records=len(times), older_epochs=older, newest_ms=max(times), gone_by_ms=gone)
            )
    return Check(
        user_id=user_id,
        epoch=newest[0],
        erased_below=saw_erasure,
        events_since=newest[1],
        remains=tuple(remains),
    )


def _named(bootstrap: str, topic: Topic, user_id: int) -> list[tuple[int, bytes]]:
    """(timestamp_ms, value) of the records with this user's key."""
    key = user_key(user_id)
    skipped: dict[int, int] = {}
    if topic.partitions == PARTITIONS and topic is not EXAMPLES and topic.name not in _LETTERS:
        skipped = dict.fromkeys(set(range(PARTITIONS)) - {partition_of(key, PARTITIONS)}, 0)
    return [
        (record.timestamp_ms, record.value)
        for record in read_bounded(bootstrap, topic.name, end=skipped)
        if record.key == key
    ]
