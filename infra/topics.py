"""Brings a Kafka cluster to what `schemas.topics` declares, or says how it differs; never alters a topic.

Steps of `apply_topics`, in this order:
  1. compare: a topic that exists with another setting ends it before anything is changed;
  2. create what is missing;
  3. write the first committed offsets of the groups in GROUP_TOPICS. Sources start from group offsets only and fail
     when there are none, so a group must have them before its first start, and they must not be guessed later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError, NoError
from kafka.structs import OffsetAndMetadata

from infra.errors import InfraError
from schemas.topics import ALL_TOPICS, GROUP_TOPICS, Topic

StartAt = Literal["earliest", "latest"]
_MAX_REPLICATION: Final = 3
_BOOTSTRAP_TIMEOUT_MS: Final = 10_000
_PATIENCE_S: Final = 30.0
_PAUSE_S: Final = 0.1
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ExistingTopic:
    """A topic as the cluster has it: every setting in effect, as text."""

    partitions: int
    settings: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting of one topic that is not as declared."""

    topic: str
    setting: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.found}, must be {self.wanted}"


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What `apply_topics` did. `offsets`: group -> number of partitions that got their first offset."""

    created: Sequence[str]
    unchanged: Sequence[str]
    offsets: Mapping[str, int] = field(default_factory=dict)


def differences(
    existing: Mapping[str, ExistingTopic], wanted: Iterable[Topic] = ALL_TOPICS, *, replay: bool = False
) -> list[Difference]:
    """How the topics that exist differ from their declaration; missing ones do not count."""
    found = []
    for topic in wanted:
        there = existing.get(topic.name)
        if there is None:
            continue
        pairs = {"partitions": (str(topic.partitions), str(there.partitions))} | {
            setting: (value, there.settings.get(setting, "unset"))
            for setting, value in topic.settings(replay=replay).items()
        }
        found += [
            Difference(topic=topic.name, setting=setting, wanted=want, found=have)
            for setting, (want, have) in pairs.items()
            if want != have
        ]
    return found


def first_offset(begin: int, end: int, *, just_created: bool, start_at: StartAt | None) -> int | None:
    """Where a group without a committed offset starts in one partition; None: a person must decide.

    There is nothing to decide in a partition that never held a record.
    """
    if just_created or end == 0:
        return 0
    if start_at is None:
        return None
    return begin if start_at == "earliest" else end


def apply_topics(bootstrap: str, *, replay: bool = False, start_at: StartAt | None = None) -> Applied:
    """Create and check all topics, write the groups' first offsets; running it again changes nothing.

    Args:
        bootstrap: `host:port[,host:port]`.
        replay: an old log will be replayed: topics in event time then keep everything (see `Topic.settings`).
        start_at: for groups without offsets on topics that hold records already.

    Raises:
        InfraError: no broker answers, a topic differs (each difference named), or a group has no offset in a
            partition with records and `start_at` was not given.
    """
    with _admin(bootstrap) as admin:
        existing = _existing(admin)
        if differing := differences(existing, replay=replay):
            raise InfraError(_refusal(bootstrap, differing, replay))
        missing = [topic for topic in ALL_TOPICS if topic.name not in existing]
        if missing:
            _create(admin, missing, replay)
        created = {topic.name for topic in missing}
        return Applied(
            created=[topic.name for topic in missing],
            unchanged=[topic.name for topic in ALL_TOPICS if topic.name in existing],
            offsets=_write_first_offsets(admin, created, start_at),
        )


def check_topics(bootstrap: str, *, replay: bool = False) -> list[str]:
    """What `apply_topics` would still have to do or would refuse, one line each; empty if all is as declared."""
    with _admin(bootstrap) as admin:
        existing = _existing(admin)
        problems = [f"{topic.name}: missing" for topic in ALL_TOPICS if topic.name not in existing]
        problems += [str(difference) for difference in differences(existing, replay=replay)]
        for group, topics in GROUP_TOPICS.items():
            lacking = _uncommitted(admin, group, [topic for topic in topics if topic.name in existing])
            for name in sorted({partition.topic for partition in lacking}):
                count = sum(partition.topic == name for partition in lacking)
                problems.append(f"{name}: group {group} has no committed offset in {count} partitions")
        return problems


def recreate_topics(bootstrap: str, *, replay: bool = False) -> Applied:
    """Delete every topic of ours with all that is in it, and create them empty, with first offsets at 0.

    For tests and demos only. Nothing may be reading or writing: the groups' members must have left.

    Raises:
        InfraError: as `apply_topics`.
    """
    with _admin(bootstrap) as admin:
        doomed = sorted(set(_existing(admin)) & {topic.name for topic in ALL_TOPICS})
        if doomed:
            admin.delete_topics(doomed)
            _wait_gone(admin, doomed)
    return apply_topics(bootstrap, replay=replay)


# ---- the shell around kafka-python's admin client


@contextmanager
def _admin(bootstrap: str) -> Iterator[Any]:
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","), bootstrap_timeout_ms=_BOOTSTRAP_TIMEOUT_MS)
    except KafkaError as error:
        raise InfraError(f"no Kafka broker answers at {bootstrap} ({error}); is the cluster up?") from error
    try:
        yield admin
    except KafkaError as error:
        raise InfraError(f"Kafka at {bootstrap} refused: {type(error).__name__}: {error}") from error
    finally:
        admin.close()


def _existing(admin: Any) -> dict[str, ExistingTopic]:
    ours = {topic.name for topic in ALL_TOPICS}
    names = sorted(ours & set(admin.list_topics()))
    if not names:
        return {}
    partitions = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(names)}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    described = admin.describe_configs(resources, config_filter="all")["topic"]
    return {
        name: ExistingTopic(
            partitions=partitions[name],
            settings={setting: str(entry["value"]) for setting, entry in described[name].items()},
        )
        for name in names
    }


def _create(admin: Any, topics: Sequence[Topic], replay: bool) -> None:
    brokers = len(admin.describe_cluster()["brokers"])
    wanted = {
        topic.name: {
            "num_partitions": topic.partitions,
            "replication_factor": min(_MAX_REPLICATION, brokers),
            "configs": topic.settings(replay=replay),
        }
        for topic in topics
    }
    admin.create_topics(wanted, wait_for_metadata=True)


def _partitions(topics: Iterable[Topic]) -> list[TopicPartition]:
    return [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]


def _uncommitted(admin: Any, group: str, topics: Sequence[Topic]) -> list[TopicPartition]:
    if not topics:
        return []
    partitions = _partitions(topics)
    committed = _patiently(lambda: admin.list_group_offsets({group: partitions}))[group]
    return [p for p in partitions if p not in committed or committed[p].offset < 0]


def _boundaries(admin: Any, partitions: Sequence[TopicPartition], which: Any) -> dict[TopicPartition, int]:
    answer = _patiently(lambda: admin.list_partition_offsets(dict.fromkeys(partitions, which)))
    return {partition: int(found.offset) for partition, found in answer.items()}


def _write_first_offsets(admin: Any, created: set[str], start_at: StartAt | None) -> dict[str, int]:
    written: dict[str, int] = {}
    undecided: dict[str, list[TopicPartition]] = {}
    plans: dict[str, dict[TopicPartition, int]] = {}
    for group, topics in GROUP_TOPICS.items():
        # An offset committed to a topic that did not exist a moment ago belongs to a predecessor of the same name.
        new = _partitions(topic for topic in topics if topic.name in created)
        lacking = sorted({*new, *_uncommitted(admin, group, topics)})
        if not lacking:
            continue
        begins = _boundaries(admin, lacking, OffsetSpec.EARLIEST)
        ends = _boundaries(admin, lacking, OffsetSpec.LATEST)
        for partition in lacking:
            offset = first_offset(
                begins[partition],
                ends[partition],
                just_created=partition.topic in created,
                start_at=start_at,
            )
            if offset is None:
                undecided.setdefault(group, []).append(partition)
            else:
                plans.setdefault(group, {})[partition] = offset
    if undecided:
        group, partitions = next(iter(undecided.items()))
        where = ", ".join(sorted({partition.topic for partition in partitions}))
        raise InfraError(
            f"group {group} has no committed offset in {len(partitions)} partitions of {where}, and they hold records: "
            "say --start-at earliest to read them or --start-at latest to leave them out"
        )
    for group, plan in plans.items():
        offsets = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in plan.items()}
        answers = _patiently(partial(admin.alter_group_offsets, group, offsets))
        if refused := {p: error for p, error in answers.items() if error is not NoError}:
            partition, error = next(iter(refused.items()))
            raise InfraError(
                f"group {group}: offset of {partition.topic}[{partition.partition}] not written "
                f"({error.__name__}); stop the group's members and run this again"
            )
        written[group] = len(plan)
    return written


def _patiently(
    call: Callable[[], _T], *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> _T:
    """`call` until it raises nothing that Kafka says will pass, for a while at most.

    A young cluster has no group coordinator before its first question, nor leaders for topics just made.
    """
    deadline = clock() + _PATIENCE_S
    while True:
        try:
            return call()
        except KafkaError as error:
            if not error.retriable or clock() > deadline:
                raise
        sleep(_PAUSE_S)


def _wait_gone(
    admin: Any,
    names: Sequence[str],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    deadline = clock() + _PATIENCE_S
    while left := set(names) & set(admin.list_topics()):
        if clock() > deadline:
            raise InfraError(f"{', '.join(sorted(left))} still there {_PATIENCE_S:.0f} s after deletion; is it in use?")
        sleep(_PAUSE_S)


def _refusal(bootstrap: str, differing: Sequence[Difference], replay: bool) -> str:
    lines = "\n".join(f"  {difference}" for difference in differing)
    hint = "without" if replay else "with"
    return (
        f"topics at {bootstrap} differ from their declaration; nothing was changed:\n{lines}\n"
        f"Alter them by hand, or use another cluster (were they made {hint} --replay?)."
    )
