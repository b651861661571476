"""Topics: created, checked, refused by name; first offsets written once and never guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from infra.commands.topics import command
from infra.errors import InfraError
from infra.topics import (
    Difference,
    ExistingTopic,
    apply_topics,
    check_topics,
    differences,
    first_offset,
    recreate_topics,
)
from schemas.topics import ALL_TOPICS, EVENTS, GROUP_TOPICS, REQUESTS, SCORER_GROUP, SEQUENCE_JOB_GROUP

AS_DECLARED = {
    topic.name: ExistingTopic(
        partitions=topic.partitions, settings={**topic.settings(), "compression.type": "producer"}
    )
    for topic in ALL_TOPICS
}

# ---- pure


def test_what_is_as_declared_has_no_difference_and_the_missing_do_not_count() -> None:
    assert differences(AS_DECLARED) == []
    assert differences({}) == []
    assert differences({"somebody.elses": AS_DECLARED[EVENTS.name]}) == []


@given(st.sampled_from(ALL_TOPICS), st.data())
def test_every_difference_is_named(topic, data) -> None:
    setting = data.draw(st.sampled_from([*topic.settings(), "partitions"]))
    there = AS_DECLARED[topic.name]
    if setting == "partitions":
        changed, found = replace(there, partitions=99), "99"
    else:
        changed, found = replace(there, settings={**there.settings, setting: "strange"}), "strange"
    (difference,) = differences({**AS_DECLARED, topic.name: changed})
    assert (difference.topic, difference.setting, difference.found) == (topic.name, setting, found)


def test_topics_for_live_traffic_are_not_topics_for_a_replay() -> None:
    found = {(difference.topic, difference.setting) for difference in differences(AS_DECLARED, replay=True)}
    assert (EVENTS.name, "retention.ms") in found


def test_a_difference_reads_as_a_sentence() -> None:
    line = str(Difference(topic="t", setting="retention.ms", wanted="1", found="2"))
    assert line == "t: retention.ms is 2, must be 1"


@given(st.integers(0, 9), st.integers(0, 9), st.sampled_from([None, "earliest", "latest"]))
def test_first_offsets(begin: int, held: int, start_at) -> None:
    end = begin + held
    assert first_offset(begin, end, just_created=True, start_at=start_at) == 0
    offset = first_offset(begin, end, just_created=False, start_at=start_at)
    if end == 0:
        assert offset == 0
    else:
        assert offset == {None: None, "earliest": begin, "latest": end}[start_at]


# ---- on the broker


def committed(bootstrap: str, group: str) -> dict[TopicPartition, int]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    offsets = admin.list_group_offsets([group])[group]
    admin.close()
    return {partition: offset.offset for partition, offset in offsets.items()}


def produce(bootstrap: str, topic: str, count: int) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for _ in range(count):
        producer.send(topic, value=b"x", partition=0)
    producer.close()


def test_a_second_apply_changes_nothing(bootstrap: str) -> None:
    applied = apply_topics(bootstrap, replay=True)
    assert not applied.created
    assert not applied.offsets
    assert set(applied.unchanged) == {topic.name for topic in ALL_TOPICS}
    assert check_topics(bootstrap, replay=True) == []


def test_every_group_starts_at_the_beginning_of_new_topics(bootstrap: str) -> None:
    for group, topics in GROUP_TOPICS.items():
        assert committed(bootstrap, group) == {
            TopicPartition(topic.name, number): 0 for topic in topics for number in range(topic.partitions)
        }


def test_recreated_topics_do_not_inherit_offsets(bootstrap: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    produce(bootstrap, REQUESTS.name, 5)
    from kafka.structs import OffsetAndMetadata

    admin.alter_group_offsets(SCORER_GROUP, {TopicPartition(REQUESTS.name, 0): OffsetAndMetadata(5, "", -1)})
    admin.close()
    assert committed(bootstrap, SCORER_GROUP)[TopicPartition(REQUESTS.name, 0)] == 5
    recreate_topics(bootstrap, replay=True)
    assert set(committed(bootstrap, SCORER_GROUP).values()) == {0}


def test_a_topic_that_differs_is_refused_and_nothing_is_created(bootstrap: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, EVENTS.name, {"retention.ms": "1234"})])
    admin.delete_topics([REQUESTS.name])
    try:
        with pytest.raises(InfraError, match=r"behaviour\.events\.v1: retention\.ms is 1234, must be -1"):
            apply_topics(bootstrap, replay=True)
        assert REQUESTS.name not in admin.list_topics()
        problems = check_topics(bootstrap, replay=True)
        assert "ranking.requests.v1: missing" in problems
        assert "behaviour.events.v1: retention.ms is 1234, must be -1" in problems
        result = CliRunner().invoke(command, ["apply", "--replay", "--bootstrap", bootstrap])
        assert result.exit_code == 1
        assert "retention.ms is 1234" in result.output
    finally:
        admin.close()


@pytest.mark.parametrize(("start_at", "offset"), [("earliest", 0), ("latest", 5)])
def test_a_group_without_offsets_on_a_topic_with_records_needs_a_decision(
    bootstrap: str, start_at, offset: int
) -> None:
    produce(bootstrap, EVENTS.name, 5)
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.delete_groups([SEQUENCE_JOB_GROUP])
    admin.close()
    with pytest.raises(InfraError, match=rf"group {SEQUENCE_JOB_GROUP} .* say --start-at"):
        apply_topics(bootstrap, replay=True)
    assert committed(bootstrap, SEQUENCE_JOB_GROUP) == {}
    applied = apply_topics(bootstrap, replay=True, start_at=start_at)
    assert applied.offsets == {SEQUENCE_JOB_GROUP: EVENTS.partitions}
    assert committed(bootstrap, SEQUENCE_JOB_GROUP)[TopicPartition(EVENTS.name, 0)] == offset


def test_no_broker_is_said_in_one_line() -> None:
    with pytest.raises(InfraError, match=r"no Kafka broker answers at 127\.0\.0\.1:1") as refused:
        apply_topics("127.0.0.1:1")
    assert "\n" not in str(refused.value)
