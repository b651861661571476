"""The graphs themselves: uids that never change by themselves, one hash exchange, sinks on forward edges.

Needs a JVM and the Kafka connector's jar, but no cluster. It fails when PyFlink's internals are other than
`streaming/flink/internals.py` knows them, or when a change to a graph would orphan the state of a running job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.jars import classpath
from infra.java import find_java_home

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).parents[2]
# In a process of its own: PyFlink keeps one JVM per Python, with the settings of whoever came first.
DESCRIBE = """
import importlib, json, sys
from pyflink.java_gateway import get_gateway
from streaming.flink.environment import job_environment, parse_arguments
from streaming.config import ExampleJobConfig, SequenceJobConfig
name, jars = sys.argv[1], sys.argv[2:]
config_type = {"sequence_job": SequenceJobConfig, "example_job": ExampleJobConfig}[name]
config = parse_arguments(config_type, ["--set", "job.parallelism=2"], "")
environment = job_environment(config.job)
environment.add_jars(*jars)
importlib.import_module(f"streaming.{name}").build(environment, config)
graph = environment._j_stream_execution_environment.getStreamGraph(False)
nodes = [
    {
        "uid": node.getTransformationUID(),
        "parallelism": node.getParallelism(),
        "max_parallelism": node.getMaxParallelism(),
        "inputs": [
            (edge.getPartitioner().toString(), graph.getStreamNode(edge.getSourceId()).getTransformationUID())
            for edge in node.getInEdges().toArray()
        ],
    }
    for node in graph.getStreamNodes().toArray()
]
vertices = graph.getJobGraph().getVerticesSortedTopologicallyFromSources()  # Refuses operators without a uid.
chains = [vertex.getName() for vertex in vertices.toArray()]
# As Flink reads it: a key that it does not know would be its default, an hour.
options = get_gateway().jvm.org.apache.flink.configuration.RestartStrategyOptions
threshold = options.RESTART_STRATEGY_EXPONENTIAL_DELAY_RESET_BACKOFF_THRESHOLD
calm = environment._j_stream_execution_environment.getConfiguration().get(threshold)
assert calm.toMillis() == config.job.restart_calm_ms < 3_600_000, calm
print(json.dumps([nodes, chains]))
"""


def describe(job: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Its operators by uid, and the names of its chains from the source on."""
    jars = [path.as_uri() for path in classpath("flink-lib")]
    environment = os.environ | {"JAVA_HOME": str(find_java_home())}
    words = [sys.executable, "-c", DESCRIBE, job, *jars]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    nodes, chains = json.loads(done.stdout.splitlines()[-1])
    assert len({node["uid"] for node in nodes}) == len(nodes)
    return {node["uid"]: node for node in nodes}, chains


#: uids of what holds state, sources' offsets and sinks' transactions included. Changing one orphans the running jobs'.
STATEFUL = {
    "sequence_job": {
        "from-behaviour.events.v1",
        "sequences",
        "to-updates",
        "to-snapshots",
        "to-dead-letters",
    },
    "example_job": {
        "from-behaviour.events.v1",
        "from-ranking.responses.v1",
        "from-ranking.impressions.v1",
        "examples",
        "to-examples",
        "to-late-feedback",
        "to-dead-letters-of-ranking.responses.v1",
        "to-dead-letters-of-ranking.impressions.v1",
    },
}


#: What joins records into batches, and what takes the outputs apart.
BATCHES, ROWS = "batches", "updates"


@pytest.mark.parametrize(("job", "keyed"), [("sequence_job", "sequences"), ("example_job", "examples")])
def test_graph(job: str, keyed: str) -> None:
    nodes, chains = describe(job)
    stateless = {uid for uid in nodes if uid.startswith(("records-", "Sink Committer: to-")) or uid in (BATCHES, ROWS)}
    assert nodes.keys() - stateless == STATEFUL[job]
    assert {(node["parallelism"], node["max_parallelism"]) for node in nodes.values()} == {(2, 128)}
    for uid, node in nodes.items():
        if uid == BATCHES:
            assert [partitioner for partitioner, _ in node["inputs"]] == ["HASH"]
        elif uid.startswith("to-"):
            assert node["inputs"] in ([["FORWARD", keyed]], [["FORWARD", ROWS]])
        else:
            assert {partitioner for partitioner, _ in node["inputs"]} <= {"FORWARD"}
    # One chain behind the exchange: what batches hold back reaches the function before its state is saved.
    assert nodes[keyed]["inputs"] == [["FORWARD", BATCHES]]
    assert any(chain.startswith(f"Batch -> {keyed} -> ") for chain in chains), chains
