"""The jobs on the real cluster, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_runner import JobRunner

from infra.cluster.local import LocalCluster
from infra.flink_rest import FlinkRest


@pytest.fixture
def jobs(clean_cluster: LocalCluster, flink: FlinkRest, bootstrap: str) -> Iterator[JobRunner]:
    runner = JobRunner(clean_cluster, flink, bootstrap)
    yield runner
    # A job left running would be found by the next test's clean cluster; ended here, failures stay readable.
    for job in flink.jobs():
        if job.state == "RUNNING":
            flink.cancel(job.job_id)
