"""What the sequence step makes of seeds, erases and duplicates is what the independent rebuild makes of them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.verify.findings import Findings
from infra.verify.histories import Histories
from infra.verify.whole import check_histories
from schemas.history import HISTORY_DTYPE
from schemas.packing import pack_history
from schemas.reasons import Rejected
from schemas.v1.behaviour_pb2 import BehaviourEvent, Erase, Interaction, Seed
from schemas.v1.sequence_pb2 import SequenceUpdate
from scorer.landing.bounded import Landed
from streaming.sequence.memory import MemoryUserState
from streaming.sequence.step import SequenceSettings, SequenceStep

USER = 42
RULES = SequenceSettings(
    generation=1,
    capacity=20,
    as_of_events=10,
    dedupe_window_events=8,
    snapshot_every_events=7,
    snapshot_max_age_ms=1_000,
    snapshot_jitter=0.0,
    chunk_events=4,
)


def program(seed: int, length: int) -> list[BehaviourEvent]:
    """Events, repeated ids, erases, seeds in parts that are interrupted, repeated and out of order."""
    rng, records = random.Random(seed), []
    for _ in range(length):
        base = {"schema_version": 1, "user_id": USER, "event_time_ms": 1_700_000_000_000 + rng.randrange(1_000)}
        kind = rng.random()
        if kind < 0.85:
            number = rng.randrange(1, 30)
            body = {"event_id": number.to_bytes(16, "big"), "interaction": Interaction(item_id=number + 1, watch_ms=0)}
            records.append(BehaviourEvent(**base, **body))
        elif kind < 0.88:
            records.append(BehaviourEvent(**base, event_id=rng.randbytes(16), erase=Erase()))
        else:
            records += seed_records(base, rng)
    return records


def seed_records(base: dict, rng: random.Random) -> list[BehaviourEvent]:
    number, parts, made = rng.randrange(6), rng.randint(1, 3), []
    for part in range(parts):
        rows = np.zeros(rng.randint(1, 12), dtype=HISTORY_DTYPE)
        rows["item_id"], rows["event_time_ms"] = rng.randrange(1, 9), 1_600_000_000_000 + part
        ids = b"".join(rng.randrange(1, 30).to_bytes(16, "big") for _ in range(3)) if part + 1 == parts else b""
        body = Seed(part=part, parts=parts, packed=pack_history(rows), event_ids=ids, rebuild=number == 5)
        made.append(BehaviourEvent(**base, event_id=(1_000 + number).to_bytes(16, "big"), seed=body))
    if rng.random() < 0.3:
        made.pop(rng.randrange(parts))
    return made


@pytest.mark.parametrize("tamper", [False, True])
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_step_and_rebuild_agree(tamper: bool, seed: int) -> None:
    step, state, findings = SequenceStep(RULES), MemoryUserState(), Findings()
    histories = Histories(RULES.generation, RULES.dedupe_window_events, RULES.kept_events)
    updates, snapshots, refused, events = [], [], set(), []
    for offset, event in enumerate(program(seed, 80)):
        record = Landed("behaviour.events.v1", 3, offset, 0, b"42", event.SerializeToString())
        events.append(record)
        try:
            outcome = step.on_event(state, event, 3, offset, 0)
        except Rejected:
            refused.add((record.topic, 3, offset))
            continue
        if outcome.update:
            updates.append(landed("sequence.updates.v1", SequenceUpdate.FromString(outcome.update), len(updates)))
        if outcome.snapshot:
            if tamper:
                outcome.snapshot.base_digest ^= 1
            snapshots.append(landed("sequence.snapshots.v1", outcome.snapshot, len(snapshots)))
    check_histories(histories, events, updates, snapshots, refused, findings)
    assert bool(findings.mismatches) == tamper, findings.mismatches[:3]


def landed(topic: str, message, offset: int) -> Landed:
    return Landed(topic, 3, offset, 0, b"42", message.SerializeToString())
