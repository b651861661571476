"""The savepoint of a release is restored by the code of today: what goes on is what would have gone on then.

`record_savepoint.py` beside this file wrote it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from job_runner import JobRunner, Received
from test_sequence_job import RULES, SETTINGS, START_MS, distinct_updates, mixed_events, oracles, send_form

from schemas.packing import unpack_history
from schemas.topics import SNAPSHOTS, UPDATES
from schemas.v1.sequence_pb2 import SequenceSnapshot

pytestmark = pytest.mark.cluster

SAVEPOINT = Path(__file__).parents[1] / "data" / "savepoint_v1"
EVENTS = mixed_events(seed=20, count=700, users=12)
#: So many records had been taken when the savepoint was made.
TAKEN = 500
RECORDS = [send_form(message, START_MS + number) for number, message in enumerate(EVENTS)]


def test_the_first_releases_savepoint_goes_on(jobs: JobRunner) -> None:
    # The savepoint knows offsets: the same records take the same ones again, and are not read again.
    jobs.produce(RECORDS[:TAKEN])
    job = jobs.submit("sequence_job", SETTINGS, parallelism=2, savepoint=SAVEPOINT.as_uri())
    jobs.produce(RECORDS[TAKEN:])
    users, numbered = oracles(EVENTS)
    new = {number: event_id for number, event_id in numbered.items() if number not in oracles(EVENTS[:TAKEN])[1]}
    received = jobs.read(UPDATES, until=lambda received: distinct_updates(received).keys() >= new.keys())
    assert {number: update.event_id for number, update in distinct_updates(received).items()} == new

    def heads(records: list[Received]) -> dict[int, SequenceSnapshot]:
        newest: dict[int, SequenceSnapshot] = defaultdict(SequenceSnapshot)
        for record in records:
            snapshot = SequenceSnapshot.FromString(record.value)
            known = newest[snapshot.user_id]
            if (snapshot.epoch, snapshot.seq_no) >= (known.epoch, known.seq_no):
                newest[snapshot.user_id] = snapshot
        return newest

    def covered(records: list[Received]) -> bool:
        newest = heads(records)
        return all(
            (newest[user].epoch, newest[user].seq_no) == (oracle.epoch, len(oracle.events))
            for user, oracle in users.items()
        )

    newest = heads(jobs.read(SNAPSHOTS, until=covered))
    jobs.flink.stop_with_savepoint(job)
    for user, oracle in users.items():
        first = oracle.first_seq_no()
        assert newest[user].first_seq_no == first
        assert newest[user].digest == oracle.digest(len(oracle.events))
        assert unpack_history(newest[user].packed).tobytes() == b"".join(oracle.events[first - 1 :])
    assert RULES.kept_events < max(len(oracle.events) for oracle in users.values())
