"""One version of an example, field by field. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from infra.verify.findings import Findings
from infra.verify.records import Place
from infra.verify.revisions import Version
from infra.verify.rules import ExampleRules
from infra.verify.shown import items_of
from schemas.v1.ranking_pb2 import FeatureColumn
from schemas.v1.training_pb2 import TaskLabels, TrainingExample


def compare(
    example: TrainingExample,
    frame: TrainingExample,
    number: int,
    version: Version,
    rules: ExampleRules,
    place: Place,
    findings: Findings,
) -> None:
    """Note every kind of difference.

    Args:
        frame: what all versions have in common.
        number: its label_version.
    """
    wanted = _whole(frame, number, version, rules)
    if example == wanted:
        return
    user_id = frame.user_id
    for kind, field in (
        ("response", "response_id"),
        ("user", "user_id"),
        ("time", "request_time_ms"),
        ("schema", "schema_version"),
        ("superseded", "superseded_responses"),
        ("produced_at", "produced_at_ms"),
    ):
        found, should = getattr(example, field), getattr(wanted, field)
        findings.expect(found == should, f"example_{kind}", place, user_id, field=field, found=found, wanted=should)
    _compare_targets(example, wanted, place, findings)
    stamp = next(
        (
            name
            for name in example.stamp.DESCRIPTOR.fields_by_name
            if getattr(example.stamp, name) != getattr(wanted.stamp, name)
        ),
        "",
    )
    if stamp:
        found, should = getattr(example.stamp, stamp), getattr(wanted.stamp, stamp)
        findings.expect(False, "example_stamp", place, user_id, field=f"stamp.{stamp}", found=found, wanted=should)
    _compare_columns("context", "context", example.context, wanted.context, place, user_id, findings)
    findings.expect(
        list(example.caused_by) == list(wanted.caused_by),
        "example_caused_by",
        place,
        user_id,
        field="caused_by",
        found=" ".join(each.hex() for each in example.caused_by),
        wanted=" ".join(each.hex() for each in wanted.caused_by),
    )
    _compare_labels(example, wanted, place, findings)


def _whole(frame: TrainingExample, number: int, version: Version, rules: ExampleRules) -> TrainingExample:
    wanted = TrainingExample()
    wanted.CopyFrom(frame)
    wanted.label_version = number
    wanted.caused_by.extend(version.caused_by)
    for task in rules.tasks:
        wanted.labels.append(
            TaskLabels(
                task=task.name,
                labels=version.labels[task.name],
                weight=task.weight,
                changed_targets=version.changed.get(task.name, ()),
            )
        )
    return wanted


def _compare_targets(example: TrainingExample, wanted: TrainingExample, place: Place, findings: Findings) -> None:
    user_id = wanted.user_id
    for kind, found, should, code in (
        ("targets", example.targets.item_id, wanted.targets.item_id, "Q"),
        ("groups", example.targets.group_id, wanted.targets.group_id, "Q"),
        ("positions", example.position, wanted.position, "H"),
    ):
        if found != should:
            field, is_there, should_be = _first(kind, found, should, code)
            findings.expect(False, f"example_{kind}", place, user_id, field=field, found=is_there, wanted=should_be)
    _compare_columns(
        "features", "targets.features", example.targets.features, wanted.targets.features, place, user_id, findings
    )


def _first(name: str, found: bytes, wanted: bytes, code: str) -> tuple[str, object, object]:
    """The first of two columns' values that differ: its name, what is there and what should be."""
    size = struct.calcsize(f"<{code}")
    if len(found) != len(wanted) or len(found) % size:
        return f"{name}, bytes", len(found), len(wanted)
    pairs = zip(struct.iter_unpack(f"<{code}", found), struct.iter_unpack(f"<{code}", wanted), strict=True)
    at, (is_there, should_be) = next((at, pair) for at, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"{name}[{at}]", is_there[0], should_be[0]


def _compare_columns(
    kind: str,
    name: str,
    found: Sequence[FeatureColumn],
    wanted: Sequence[FeatureColumn],
    place: Place,
    user_id: int,
    findings: Findings,
) -> None:
    if list(found) == list(wanted):
        return
    names, should = [each.name for each in found], [each.name for each in wanted]
    if names != should:
        field, is_there, should_be = name, ", ".join(names), ", ".join(should)
    else:
        at = next(at for at in range(len(names)) if found[at] != wanted[at])
        field = f"{name} {names[at]}"
        is_there, should_be = ((each.int64 or each.float32).hex() for each in (found[at], wanted[at]))
    findings.expect(False, f"example_{kind}", place, user_id, field=field, found=is_there, wanted=should_be)


def _compare_labels(example: TrainingExample, wanted: TrainingExample, place: Place, findings: Findings) -> None:
    user_id, should = wanted.user_id, {labels.task: labels for labels in wanted.labels}
    names = [labels.task for labels in example.labels]
    findings.expect(
        sorted(names) == sorted(should),
        "example_task",
        place,
        user_id,
        field="labels",
        found=", ".join(names),
        wanted=", ".join(should),
    )
    items = items_of(wanted.targets.item_id)
    for labels in example.labels:
        of_task = should.get(labels.task)
        if of_task is None:
            continue
        if labels.labels != of_task.labels:
            field, found, right = _first(f"labels of {labels.task}", labels.labels, of_task.labels, "B")
            at = field.rpartition("[")[2].rstrip("]")
            item = f" (item {items[int(at)]})" if at.isdigit() and int(at) < len(items) else ""
            findings.expect(False, "example_labels", place, user_id, field=f"{field}{item}", found=found, wanted=right)
        for kind, is_there, should_be in (
            ("weight", labels.weight, of_task.weight),
            ("changed_targets", list(labels.changed_targets), list(of_task.changed_targets)),
        ):
            findings.expect(
                is_there == should_be,
                f"example_{kind}",
                place,
                user_id,
                field=f"{kind} of {labels.task}",
                found=is_there,
                wanted=should_be,
            )
