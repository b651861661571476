"""What every test may ask for: the real broker and Flink, started once per run.

Tests that use one of these fixtures are marked `cluster` by themselves; `pytest -m "not cluster"` leaves them out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from infra.cluster.local import LocalCluster
from infra.cluster.plan import UpOptions
from infra.flink_rest import TERMINAL_STATES, FlinkRest
from infra.topics import recreate_topics

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("longrank", deadline=None)
settings.load_profile("longrank")

#: A home whose cluster is used, brought up if need be, and left running: for working on one test again and again.
KEEP_VARIABLE = "LONGRANK_TEST_HOME"
TASKMANAGERS = 2
CLUSTER_TIMEOUT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            # The first one waits for the cluster, and every JVM for the two cores that all of them share.
            item.add_marker(pytest.mark.timeout(CLUSTER_TIMEOUT_S))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A running local cluster of one broker, one JobManager and two TaskManagers of one slot each."""
    kept = os.environ.get(KEEP_VARIABLE)
    local = LocalCluster(kept or tmp_path_factory.mktemp("cluster"))
    local.up(UpOptions(taskmanagers=TASKMANAGERS, short_lived=True))
    yield local
    if not kept:
        local.down()


@pytest.fixture
def clean_cluster(cluster: LocalCluster) -> LocalCluster:
    """The cluster with every process alive, no job running, and all topics empty with first offsets at 0.

    Topics are those for replaying an old log. What the last test broke is mended here, not by that test.
    """
    info = cluster.up(UpOptions(taskmanagers=TASKMANAGERS, short_lived=True))
    flink = FlinkRest(info.rest_url)
    for job in flink.jobs():
        if job.state not in TERMINAL_STATES:
            flink.cancel(job.job_id)
    recreate_topics(info.bootstrap, replay=True)
    return cluster


@pytest.fixture
def bootstrap(clean_cluster: LocalCluster) -> str:
    """`host:port` of the broker, with all topics empty."""
    return clean_cluster.info().bootstrap


@pytest.fixture
def flink(clean_cluster: LocalCluster) -> FlinkRest:
    """The JobManager of the clean cluster."""
    return FlinkRest(clean_cluster.info().rest_url)
