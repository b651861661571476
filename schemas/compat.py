"""Schemas only grow: what changed between two descriptor sets that an old reader or an old record would notice."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

MODULES: Final = ("behaviour", "sequence", "ranking", "training", "operations")


def current_descriptors() -> FileDescriptorSet:
    """The schemas of this checkout, in dependency order."""
    descriptors = FileDescriptorSet()
    for module in MODULES:
        file = FileDescriptorProto()
        import_module(f"schemas.v1.{module}_pb2").DESCRIPTOR.CopyToProto(file)
        descriptors.file.append(file)
    return descriptors


def breaking_changes(old: FileDescriptorSet, new: FileDescriptorSet) -> list[str]:
    """Every way in which `new` is not a superset of `old`, one line each; empty when it only grew."""
    new_messages = {name: message for file in new.file for name, message in _messages(file)}
    new_enums = {name: enum for file in new.file for name, enum in _enums(file)}
    problems: list[str] = []
    for file in old.file:
        for name, message in _messages(file):
            if name not in new_messages:
                problems.append(f"message {name} is gone")
            else:
                problems.extend(_message_changes(name, message, new_messages[name]))
        for name, enum in _enums(file):
            if name not in new_enums:
                problems.append(f"enum {name} is gone")
            else:
                kept = {value.number: value.name for value in new_enums[name].value}
                problems.extend(
                    f"{name}: value {value.number} was {value.name}, is {kept.get(value.number, 'gone')}"
                    for value in enum.value
                    if kept.get(value.number) != value.name
                )
    return problems


def _message_changes(name: str, old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    fields = {field.number: field for field in new.field}
    for was in old.field:
        now = fields.get(was.number)
        if now is None:
            yield f"{name}.{was.name}: field {was.number} is gone"
        elif _shape(was, old) != _shape(now, new):
            yield f"{name}.{was.name}: field {was.number} was {_shape(was, old)}, is {_shape(now, new)}"


def _shape(field: FieldDescriptorProto, message: DescriptorProto) -> tuple[str, int, int, str, bool, str]:
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return field.name, field.type, field.label, field.type_name, field.proto3_optional, oneof


def _messages(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    def walk(prefix: str, messages: list[DescriptorProto]) -> Iterator[tuple[str, DescriptorProto]]:
        for message in messages:
            name = f"{prefix}.{message.name}"
            yield name, message
            yield from walk(name, list(message.nested_type))

    yield from walk(file.package, list(file.message_type))


def _enums(file: FileDescriptorProto) -> Iterator[tuple[str, EnumDescriptorProto]]:
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}", enum
    for name, message in _messages(file):
        for enum in message.enum_type:
            yield f"{name}.{enum.name}", enum
