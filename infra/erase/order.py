"""The ERASE record, and the wait until the sequence job and the scorers have carried it out."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from kafka import KafkaConsumer, TopicPartition

from infra.errors import InfraError
from infra.seed.publish import EventPublisher
from schemas import SCHEMA_VERSION
from schemas.partitioner import partition_of, user_key
from schemas.topics import EVENTS, PARTITIONS, SNAPSHOTS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase
from schemas.v1.sequence_pb2 import SequenceSnapshot

_POLL_MS: Final = 500
_PAUSE_S: Final = 0.2
_HTTP_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Carried:
    """An ERASE that the sequence job has carried out."""

    user_id: int
    partition: int
    #: Of the ERASE in behaviour.events.v1.
    event_offset: int
    #: Of the empty snapshot in sequence.snapshots.v1 that says so.
    snapshot_offset: int
    #: The user's epoch from there on; every older one is to be deleted.
    epoch: int


def erase(
    bootstrap: str,
    user_id: int,
    event_id: bytes,
    now_ms: int,
    patience_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Carried:
    """Publish the ERASE and wait for the job's empty snapshot.

    Args:
        event_id: 16 bytes; the same ones again are the same order.
        now_ms: the record's time.

    Raises:
        InfraError: the job has not answered within `patience_s`; the order stands, it will when it runs.
        KafkaError: the broker does not answer.
    """
    key = user_key(user_id)
    partition = partition_of(key, PARTITIONS)
    place = TopicPartition(SNAPSHOTS.name, partition)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none")
    try:
        consumer.assign([place])
        consumer.seek(place, consumer.end_offsets([place])[place])
        order = BehaviourEvent(
            schema_version=SCHEMA_VERSION, user_id=user_id, event_id=event_id, event_time_ms=now_ms, erase=Erase()
        )
        with EventPublisher(bootstrap) as publisher:
            span = publisher.publish([(user_id, order.SerializeToString())], now_ms)[partition]
        deadline = clock() + patience_s
        while clock() < deadline:
            for records in consumer.poll(_POLL_MS).values():
                for record in records:
                    if record.key != key:
                        continue
                    snapshot = SequenceSnapshot.FromString(record.value)
                    if snapshot.erased:
                        return Carried(
                            user_id=user_id,
                            partition=partition,
                            event_offset=span.last,
                            snapshot_offset=record.offset,
                            epoch=snapshot.epoch,
                        )
    finally:
        consumer.close()
    raise InfraError(
        f"the sequence job has not carried out {EVENTS.name}/{partition}/{span.last} within {patience_s:.0f} s; does it"
        f" run? The order stands; `longrank erase --check {user_id}` says when it is done"
    )


def confirm_scorers(
    addresses: Iterable[str], carried: Carried, patience_s: float, clock: Callable[[], float] = time.monotonic
) -> dict[str, str]:
    """address -> `erased`, or `not held` for a scorer without the user's partition.

    Args:
        addresses: of scorers' metrics servers, http://host:port.

    Raises:
        InfraError: one does not answer, or still has the user's history after `patience_s`.
    """
    deadline, confirmed = clock() + patience_s, {}
    for address in addresses:
        while True:
            head = _head(address, carried.user_id)
            if head is None or head["epoch"] >= carried.epoch:
                confirmed[address] = "not held" if head is None else "erased"
                break
            if clock() > deadline:
                raise InfraError(
                    f"{address} still has epoch {head['epoch']} of user {carried.user_id}, not {carried.epoch}"
                )
            time.sleep(_PAUSE_S)
    return confirmed


def _head(address: str, user_id: int) -> dict[str, int] | None:
    url = f"{address.rstrip('/')}/histories/{user_id}"
    try:
        with urllib.request.urlopen(url, timeout=_HTTP_TIMEOUT_S) as answer:
            head: dict[str, int] = json.loads(answer.read())
            return head
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise InfraError(f"{url}: {error}") from error
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise InfraError(f"{url}: {error}; is that a scorer's metrics address?") from error
