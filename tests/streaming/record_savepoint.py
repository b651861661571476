"""Writes the savepoint that `test_golden_savepoint.py` restores: `pytest tests/streaming/record_savepoint.py`.

For a new state layout's first release alone, under a new name: what a release wrote is never written again.
"""

from __future__ import annotations

import shutil

import pytest
from job_runner import JobRunner
from test_golden_savepoint import EVENTS, RECORDS, SAVEPOINT, TAKEN
from test_sequence_job import SETTINGS, distinct_updates, oracles

from schemas.topics import UPDATES

pytestmark = pytest.mark.cluster


def test_record(jobs: JobRunner) -> None:
    assert not SAVEPOINT.exists(), f"{SAVEPOINT} is a release's; take another name for a new layout"
    job = jobs.submit("sequence_job", SETTINGS)
    jobs.produce(RECORDS[:TAKEN])
    numbered = oracles(EVENTS[:TAKEN])[1]
    jobs.read(UPDATES, until=lambda received: distinct_updates(received).keys() == numbered.keys())
    path = jobs.flink.stop_with_savepoint(job)
    shutil.copytree(path.removeprefix("file:"), SAVEPOINT)
