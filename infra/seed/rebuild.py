"""All state of the sequence job is lost: its histories as SEED records, from what readers of its topics hold.

The job starts again from its committed offsets under a higher generation, before or after this. What it takes in
meanwhile is behind the seed in the topic and ends up behind it in the history; what it takes in twice, because its
updates were written after its last checkpoint, is found by the event ids of the updates.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from infra.seed.pack import seed_records
from infra.seed.publish import EventPublisher
from schemas.digest import generation_of
from schemas.limits import Limits
from schemas.partitioner import user_key
from schemas.topics import PARTITIONS, UPDATES
from schemas.v1.sequence_pb2 import SequenceUpdate
from scorer.landing.bounded import read_bounded
from scorer.sequences.store import SequenceStore


@dataclass
class Rebuilt:
    """What was published."""

    #: Of the histories found; the job must start with a higher one.
    generation: int = 0
    users: int = 0
    events: int = 0
    #: Users whose history in the store waits for repair: what there is of it was published.
    stale: int = 0
    #: Users without events: erased, or never more than heard of.
    empty: int = 0
    records: int = 0


@dataclass(frozen=True, kw_only=True)
class RebuildSettings:
    """How."""

    bootstrap: str
    limits: Limits
    #: The job's dedupe window.
    window_events: int
    #: The records' event time and timestamp, ms UTC.
    now_ms: int


def rebuild(store: SequenceStore, settings: RebuildSettings, on_user: Callable[[int], None]) -> Rebuilt:
    """Publish a SEED for every user of the store's open partitions, a partition at a time.

    Args:
        store: brought to the topics' ends.
        on_user: told the number of a user's events.

    Raises:
        KafkaError, BoundedReadError: Kafka does not answer.
        ValueError: a history does not fit the limits.
    """
    rebuilt = Rebuilt()
    with EventPublisher(settings.bootstrap) as publisher:
        for partition in store.partitions:
            ids = _newest_ids(settings.bootstrap, partition, store, settings.window_events)
            records = _records(store, partition, ids, settings, rebuilt, on_user)
            publisher.publish(records, settings.now_ms)
    return rebuilt


def _records(
    store: SequenceStore,
    partition: int,
    ids: dict[int, bytes],
    settings: RebuildSettings,
    rebuilt: Rebuilt,
    on_user: Callable[[int], None],
) -> Iterator[tuple[int, bytes]]:
    database = store.open_partition(partition)
    for user_id in database.users():
        held = database.tail(user_id, 0)
        rebuilt.generation = max(rebuilt.generation, generation_of(held.epoch))
        if not len(held.rows):
            rebuilt.empty += 1
            continue
        rebuilt.users += 1
        rebuilt.events += len(held.rows)
        rebuilt.stale += held.stale
        for record in seed_records(
            user_id, held.rows, ids.get(user_id, b""), settings.now_ms, settings.limits, rebuild=True
        ):
            rebuilt.records += 1
            yield user_id, record
        on_user(len(held.rows))


def _newest_ids(bootstrap: str, partition: int, store: SequenceStore, window_events: int) -> dict[int, bytes]:
    """user -> ids of the newest events that the store holds, oldest first, as far back as the updates go."""
    database = store.open_partition(partition)
    newest: dict[int, deque[tuple[int, bytes]]] = defaultdict(lambda: deque(maxlen=window_events))
    others = dict.fromkeys(set(range(PARTITIONS)) - {partition}, 0)
    for record in read_bounded(bootstrap, UPDATES.name, end=others):
        update = SequenceUpdate.FromString(record.value)
        if record.key != user_key(update.user_id) or update.epoch != database.epoch(update.user_id):
            continue
        known = newest[update.user_id]
        if update.seq_no <= database.head_seq_no(update.user_id) and (not known or update.seq_no > known[-1][0]):
            known.append((update.seq_no, update.event_id))
    return {user: _up_to(database.head_seq_no(user), known) for user, known in newest.items()}


def _up_to(head: int, known: Iterable[tuple[int, bytes]]) -> bytes:
    """The ids of the events before and at `head` without a gap: those of updates that have aged out are not known."""
    by_number = dict(known)
    first = head
    while first in by_number:
        first -= 1
    return b"".join(by_number[number] for number in range(first + 1, head + 1))
