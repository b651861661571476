"""Recorded bytes decode, schemas only grow, and the vectors hold."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from schemas import topics
from schemas.compat import MODULES, breaking_changes, current_descriptors
from schemas.digest import extend_digest, extend_digest_over, make_epoch, origin_digest
from schemas.history import EVENT_BYTES, decode_events, encode_event
from schemas.partitioner import murmur2, partition_of
from schemas.v1.behaviour_pb2 import Interaction

GOLDEN = Path(str(resources.files("schemas"))) / "golden" / "v1"
VECTORS = json.loads((GOLDEN / "vectors.json").read_text())
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("golden", json.loads((GOLDEN / "messages.json").read_text()), ids=lambda g: g["message"])
def test_version_1_bytes_still_decode(golden: dict[str, object]) -> None:
    current_descriptors()  # imports every module into the pool
    descriptor = descriptor_pool.Default().FindMessageTypeByName(str(golden["message"]))
    message = message_factory.GetMessageClass(descriptor)()
    message.ParseFromString(bytes.fromhex(str(golden["bytes"])))
    assert json_format.MessageToDict(message, preserving_proto_field_name=True) == golden["fields"]


def _recorded() -> FileDescriptorSet:
    return FileDescriptorSet.FromString((GOLDEN / "schema.binpb").read_bytes())


def test_schemas_only_grew_since_version_1() -> None:
    assert breaking_changes(_recorded(), current_descriptors()) == []


def test_every_kind_of_breaking_change_is_named() -> None:
    changed = _recorded()
    behaviour = changed.file[0]
    by_name = {message.name: message for message in behaviour.message_type}
    del by_name["RequestRef"].field[2]
    by_name["Interaction"].field[1].type = by_name["Interaction"].field[0].type
    by_name["BehaviourEvent"].field[1].name = "account_id"
    by_name["BehaviourEvent"].field.add(name="new_field", number=99)
    behaviour.message_type.remove(by_name["Erase"])
    changed.file[2].enum_type[0].value[1].number = 9
    assert [problem.split(":")[0] for problem in breaking_changes(_recorded(), changed)] == [
        "longrank.v1.BehaviourEvent.user_id",
        "longrank.v1.Interaction.action",
        "message longrank.v1.Erase is gone",
        "longrank.v1.RequestRef.request_time_ms",
        "longrank.v1.ResponseStatus",
    ]


def test_generated_code_is_current(tmp_path: Path) -> None:
    protos = [f"schemas/v1/{module}.proto" for module in MODULES]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*protoc, *protos], cwd=REPOSITORY, check=True)
    for generated in sorted((tmp_path / "schemas/v1").iterdir()):
        assert generated.read_text() == (REPOSITORY / "schemas/v1" / generated.name).read_text(), generated.name


def test_digest_vectors() -> None:
    for vector in VECTORS["origin_digest"]:
        assert origin_digest(vector["user_id"], vector["epoch"]) == vector["digest"]
    digest = VECTORS["origin_digest"][0]["digest"]
    for link in VECTORS["chain"]:
        digest = extend_digest(digest, bytes.fromhex(link["event"]))
        assert digest == link["digest"]


def test_partitioner_vectors() -> None:
    for vector in VECTORS["murmur2"]:
        key = vector["key"].encode()
        assert (murmur2(key), partition_of(key, 8)) == (vector["unsigned"], vector["partition_of_8"])


@given(st.binary(max_size=40))
def test_partitioner_is_kafkas(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(bytearray(key)) & 0xFFFFFFFF


def test_absent_and_zero_are_different_events() -> None:
    absent = encode_event(1, Interaction(item_id=1, action=1))
    zero = encode_event(1, Interaction(item_id=1, action=1, watch_ms=0))
    assert absent != zero
    assert decode_events(absent)["watch_ms"] == decode_events(zero)["watch_ms"] == 0


@given(st.lists(st.binary(min_size=EVENT_BYTES, max_size=EVENT_BYTES), max_size=5))
def test_digest_over_many_is_the_chain(events: list[bytes]) -> None:
    digest = expected = origin_digest(7, make_epoch(1, 0))
    for event in events:
        expected = extend_digest(expected, event)
    assert extend_digest_over(digest, b"".join(events)) == expected


@pytest.mark.parametrize(("generation", "resets"), [(0, 0), (-1, 0), (1, -1), (1, 1 << 32), (1 << 31, 0)])
def test_epoch_parts_out_of_range_are_refused(generation: int, resets: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        make_epoch(generation, resets)


def test_topics_that_name_a_user_age_out() -> None:
    limit = topics.ERASURE_MAX_DAYS * 86_400_000
    for topic in topics.ALL_TOPICS:
        assert topic is topics.SNAPSHOTS or 0 < topic.retention_ms <= limit, topic.name
