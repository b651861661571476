"""Every output record against the independent histories. Pure: records in, mismatches with coordinates out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from infra.verify.findings import Findings
from infra.verify.histories import Epoch, Histories, encode_row, origin_of
from schemas.packing import unpack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Impression,
    RankingRequest,
    RankingResponse,
    Stamp,
)
from schemas.v1.sequence_pb2 import SequenceSnapshot, SequenceUpdate
from schemas.v1.training_pb2 import TrainingExample
from scorer.landing.bounded import Landed

_HEARTBEAT: Final = b"heartbeat"

#: Resolves a user's stamp as the trainer does: the rows' canonical bytes, or why not.
Resolver = Callable[[int, Stamp], bytes | str]


def check_updates(histories: Histories, updates: Iterable[Landed], findings: Findings) -> None:
    """Every delta is its event, in order, and every accepted event has one."""
    seen: dict[tuple[int, int], int] = {}
    for record in updates:
        findings.checked["updates"] += 1
        update = findings.decode(SequenceUpdate, record)
        if update is None:
            continue
        user, n = update.user_id, update.seq_no
        epoch = histories.find(user, update.epoch)
        if not findings.expect(
            epoch is not None and epoch.seeded < n <= len(epoch.digests),
            "update_of_no_event",
            record,
            user,
            f"epoch {update.epoch} seq_no {n} does not follow from the events",
        ):
            continue
        assert epoch is not None
        row = encode_row(BehaviourEvent(event_time_ms=update.event_time_ms, interaction=update.interaction))
        for name, found, wanted in (
            ("digest", update.digest, epoch.digest(n)),
            ("prev_digest", update.prev_digest, epoch.digest(n - 1)),
            ("event_id", update.event_id, epoch.event_ids[n - 1]),
            ("event", row, epoch.row_bytes(n, n)),
            ("source", (update.source_partition, update.source_offset), epoch.sources[n - 1]),
        ):
            findings.expect(found == wanted, f"update_{name}", record, user, f"seq_no {n}: {found!r} is not {wanted!r}")
        head = seen.get((user, update.epoch), epoch.seeded)
        if n <= head:
            findings.repeated["updates"] += 1
        else:
            findings.expect(n == head + 1, "update_order", record, user, f"seq_no {n} follows {head}")
        seen[user, update.epoch] = max(head, n)
    for (user, number), epoch in histories.epochs.items():
        head = seen.get((user, number), epoch.seeded)
        if head < len(epoch.digests):
            partition, offset = epoch.sources[head]
            findings.expect(
                False,
                "update_missing",
                f"events/{partition}/{offset}",
                user,
                f"{len(epoch.digests) - head} updates are missing from seq_no {head + 1} on",
            )


def check_snapshots(histories: Histories, snapshots: Iterable[Landed], findings: Findings) -> None:
    """Every snapshot holds the very events that its numbers and digests name."""
    for record in snapshots:
        findings.checked["snapshots"] += 1
        snapshot = findings.decode(SequenceSnapshot, record)
        if snapshot is None:
            continue
        user, first, last = snapshot.user_id, snapshot.first_seq_no, snapshot.seq_no
        epoch = histories.find(user, snapshot.epoch)
        if not findings.expect(
            epoch is not None and 0 < first <= last + 1 and last <= len(epoch.digests),
            "snapshot_of_no_history",
            record,
            user,
            f"epoch {snapshot.epoch} seq_no {first}..{last} does not follow from the events",
        ):
            continue
        assert epoch is not None
        try:
            rows = unpack_history(snapshot.packed).tobytes() if snapshot.packed else b""
        except ValueError as error:
            findings.expect(False, "snapshot_packed", record, user, str(error))
            continue
        for name, found, wanted in (
            ("base_digest", snapshot.base_digest, epoch.digest(first - 1)),
            ("digest", snapshot.digest, epoch.digest(last)),
            ("events", rows, epoch.row_bytes(first, last)),
            ("erased_below", snapshot.erased_below, histories.erased_below(user, snapshot.epoch)),
        ):
            findings.expect(found == wanted, f"snapshot_{name}", record, user, f"seq_no {first}..{last} differs")


def _check_stamp(
    histories: Histories, stamp: Stamp, user: int, record: Landed, findings: Findings, resolve: Resolver
) -> None:
    last, length = stamp.seq_no, stamp.length
    epoch: Epoch | None = histories.find(user, stamp.epoch)
    if last == 0:
        # Epoch 0 is that of a user nobody has heard of yet.
        origin = epoch.origin if epoch is not None else origin_of(user, 0)
        empty = length == 0 and stamp.first_seq_no == 1 and (epoch is not None or stamp.epoch == 0)
        findings.expect(empty and stamp.digest == origin, "stamp_digest", record, user, "no stamp of an empty history")
        return
    if not findings.expect(
        epoch is not None and last <= len(epoch.digests) and length == last - stamp.first_seq_no + 1,
        "stamp_of_no_history",
        record,
        user,
        f"epoch {stamp.epoch} seq_no {stamp.first_seq_no}..{last} length {length} does not follow from the events",
    ):
        return
    assert epoch is not None
    wanted = epoch.digest(last)
    if findings.expect(
        stamp.digest == wanted, "stamp_digest", record, user, f"seq_no {last}: {stamp.digest:016x} is not {wanted:016x}"
    ):
        resolved = resolve(user, stamp)
        if resolved == "erased" and histories.current.get(user, 0) > stamp.epoch:
            # The events themselves say that the user asked to be forgotten after this was served.
            findings.repeated["stamps_of_erased_users"] += 1
        elif isinstance(resolved, str):
            findings.expect(False, "stamp_unresolved", record, user, f"seq_no {last}: {resolved}")
        else:
            wanted_rows = epoch.row_bytes(stamp.first_seq_no, last)
            findings.expect(resolved == wanted_rows, "stamp_bytes", record, user, f"seq_no {last}: other events")


@dataclass
class Served:
    """Requests and responses by their ids, as the checks of examples need them."""

    requests: dict[str, RankingRequest] = field(default_factory=dict)
    responses: dict[str, RankingResponse] = field(default_factory=dict)


def check_responses(
    histories: Histories,
    requests: Iterable[Landed],
    responses: Iterable[Landed],
    findings: Findings,
    resolve: Resolver,
    *,
    serving_length: int,
) -> Served:
    """Every response answers a request that was made, echoes its candidates, and its stamp resolves.

    Args:
        requests: those that no dead letter refuses.
        serving_length: newest events of a history that the scorer uses.
    """
    served = Served()
    for record in requests:
        if record.key != _HEARTBEAT:
            request = findings.decode(RankingRequest, record)
            if request is not None:
                served.requests[request.request_id] = request
    answered: set[str] = set()
    for record in responses:
        if record.key == _HEARTBEAT:
            continue
        findings.checked["responses"] += 1
        response = findings.decode(RankingResponse, record)
        if response is None:
            continue
        user = response.user_id
        asked = served.requests.get(response.request_id)
        if not findings.expect(
            asked is not None and asked.user_id == user, "response_to_no_request", record, user, response.request_id
        ):
            continue
        assert asked is not None
        answered.add(response.request_id)
        if response.status == RESPONSE_STATUS_INVALID:
            findings.checked["refused_requests"] += 1
            continue
        findings.expect(
            response.candidates == asked.candidates, "response_candidates", record, user, "not the request's candidates"
        )
        findings.expect(
            response.status != RESPONSE_STATUS_OK or response.stamp.seq_no >= asked.min_seq_no,
            "response_behind",
            record,
            user,
            f"seq_no {response.stamp.seq_no}, asked for was {asked.min_seq_no} or later",
        )
        findings.expect(
            response.stamp.length == min(response.stamp.seq_no, serving_length),
            "response_length",
            record,
            user,
            f"{response.stamp.length} events of {response.stamp.seq_no}, {serving_length} serve",
        )
        findings.repeated["responses"] += response.response_id in served.responses
        served.responses[response.response_id] = response
        _check_stamp(histories, response.stamp, user, record, findings, resolve)
    for request_id, request in served.requests.items():
        findings.expect(
            request_id in answered, "response_missing", f"request {request_id}", request.user_id, "never answered"
        )
    return served


def check_examples(
    histories: Histories,
    served: Served,
    events: Iterable[Landed],
    impressions: Iterable[Landed],
    examples: Iterable[Landed],
    findings: Findings,
    resolve: Resolver,
    *,
    label_window_ms: int,
    task_actions: dict[str, frozenset[int]],
    watermark_ms: int,
) -> None:
    """Every shown request whose window has closed has one example, of what was shown, labelled by the rule.

    Args:
        events: those that no dead letter refuses, and likewise the impressions.
        task_actions: task -> the actions that make it positive; an empty set means any.
        watermark_ms: requests before watermark_ms - label_window_ms must have their example.
    """
    touches: dict[str, set[tuple[int, int]]] = {}
    for record in events:
        if record.key != _HEARTBEAT:
            event = BehaviourEvent.FromString(record.value)
            if event.HasField("request") and event.HasField("interaction"):
                within = 0 <= record.timestamp_ms - event.request.request_time_ms <= label_window_ms
                if within:
                    touch = (event.interaction.item_id, event.interaction.action)
                    touches.setdefault(event.request.request_id, set()).add(touch)
    shown: dict[str, list[Impression]] = {}
    for record in impressions:
        if record.key != _HEARTBEAT:
            impression = findings.decode(Impression, record)
            if impression is not None and impression not in shown.setdefault(impression.request_id, []):
                shown[impression.request_id].append(impression)

    seen: set[tuple[str, int]] = set()
    for record in examples:
        findings.checked["examples"] += 1
        example = findings.decode(TrainingExample, record)
        if example is None:
            continue
        user, name = example.user_id, (example.request_id, example.label_version)
        findings.expect(name not in seen, "example_doubled", record, user, f"{name[0]} label_version {name[1]}")
        seen.add(name)
        response = served.responses.get(example.response_id)
        pages = sorted(shown.get(example.request_id, []), key=lambda page: page.first_position)
        if not findings.expect(
            response is not None and response.request_id == example.request_id and bool(pages),
            "example_of_no_request",
            record,
            user,
            f"{example.request_id}: no such request was answered and shown",
        ):
            continue
        assert response is not None
        findings.expect(example.stamp == response.stamp, "example_stamp", record, user, "not the response's stamp")
        # An item on two pages counts where it was shown first.
        items = tuple(dict.fromkeys(item for page in pages for (item,) in struct.iter_unpack("<Q", page.item_id)))
        targets = struct.pack(f"<{len(items)}Q", *items)
        findings.expect(example.targets.item_id == targets, "example_targets", record, user, "not what was shown")
        touched = touches.get(example.request_id, set())
        for labels in example.labels:
            actions = task_actions.get(labels.task)
            if findings.expect(actions is not None, "example_task", record, user, f"no rule for task {labels.task}"):
                assert actions is not None
                positive = {item for item, action in touched if not actions or action in actions}
                wanted = bytes(item in positive for item in items)
                findings.expect(
                    labels.labels == wanted, "example_labels", record, user, f"{labels.task} of {example.request_id}"
                )
        _check_stamp(histories, example.stamp, user, record, findings, resolve)
    for request_id, pages in shown.items():
        if pages[0].request_time_ms + label_window_ms < watermark_ms:
            findings.expect(
                (request_id, 1) in seen,
                "example_missing",
                f"impression of {request_id}",
                pages[0].user_id,
                "shown, its label window has closed, and there is no example",
            )
