"""What is timed: one process on one core, that reads the topics, or reads and verifies them.

`python -m infra.bench.verify.child WHAT BOOTSTRAP CORE` prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from infra.bench.verify.world import LABEL_WINDOW_MS, TASK
from infra.verify.findings import Findings
from infra.verify.histories import Histories
from infra.verify.reader import PartitionReader
from infra.verify.run import verify
from infra.verify.updates import check_missing_updates, check_updates
from schemas.topics import EVENTS, LIVE_TOPICS, PARTITIONS, UPDATES
from streaming.config import ExampleJobConfig, SequenceJobConfig, load_config

EXAMPLE_JOB: Final = f"label_window_ms: {LABEL_WINDOW_MS}\nlabels: [{{task: {TASK}}}]\n"


def _read(bootstrap: str) -> dict[str, Any]:
    """All records, and nothing done with them."""
    records = 0
    with PartitionReader(bootstrap) as reader:
        for topic in LIVE_TOPICS:
            for partition, span in reader.ranges(topic.name).items():
                records += sum(len(batch) for batch in reader.read(topic.name, partition, span))
    return {"records": records}


def _histories(bootstrap: str) -> dict[str, Any]:
    """Events and updates alone."""
    rules, findings, events, records = load_config(SequenceJobConfig, None).settings(), Findings(), 0, 0
    with PartitionReader(bootstrap) as reader:
        spans = {topic: reader.ranges(topic.name) for topic in (EVENTS, UPDATES)}
        for partition in range(PARTITIONS):
            histories = Histories(rules.generation, rules.dedupe_window_events, rules.kept_events, keep_named=True)
            histories.add(partition, reader.read(EVENTS.name, partition, spans[EVENTS][partition]), (), findings)
            check_updates(
                histories, partition, reader.read(UPDATES.name, partition, spans[UPDATES][partition]), findings
            )
            check_missing_updates(histories, findings)
            events += histories.records
    records = events + findings.checked["updates"]
    return {"records": records, "events": events, "mismatches": findings.total}


def _verify(bootstrap: str) -> dict[str, Any]:
    """`longrank verify`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "example_job.yaml"
        path.write_text(EXAMPLE_JOB)
        configs = load_config(SequenceJobConfig, None), load_config(ExampleJobConfig, path)
        verdict = verify(bootstrap, *configs)
    return {"events": verdict.events["records"], "mismatches": verdict.total, "checked": verdict.checked}


def _peak_mb() -> float:
    """Of this process; what `getrusage` says is its parent's, if that was larger."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1_024


WORK: Final[dict[str, Callable[[str], dict[str, Any]]]] = {"read": _read, "histories": _histories, "verify": _verify}


def main() -> None:
    """Does one of `WORK`."""
    what, bootstrap, core = sys.argv[1:]
    # Before any thread starts: the client's are to share the core.
    os.sched_setaffinity(0, {int(core)})
    gc.disable()
    started, cpu = time.perf_counter(), time.process_time()
    found = WORK[what](bootstrap)
    found |= {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_rss_mb": _peak_mb(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
