"""Fresh Python interpreters for changed code.

In thread mode a TaskManager embeds one interpreter for its whole life, and Python never loads a module twice: a job
with changed modules, sent to a TaskManager that ran the old ones, would meet the old ones there. The jobs reload
what can be reloaded and refuse the rest (`streaming/flink/fresh_code.py`); here the idle TaskManagers are started
afresh before such a job, so that there is nothing to refuse.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from infra.cluster.local import LocalCluster
from infra.flink_rest import FlinkRest


def refresh_interpreters(cluster: LocalCluster, modules: str) -> list[str]:
    """Restart every idle TaskManager that may have loaded other modules than `modules`.

    Args:
        cluster: a running one.
        modules: names what a job is about to bring, by content.

    Returns:
        The names of the restarted TaskManagers.
    """
    info = cluster.info()
    record = cluster.home / "flink" / "run" / "modules.json"
    loaded: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    idle = set(FlinkRest(info.rest_url).idle_taskmanager_ids())
    stale = [
        name
        for name in info.taskmanagers
        if (identity := info.processes[name].resource_id) in idle and loaded.get(identity, modules) != modules
    ]
    if stale:
        info = cluster.restart(*stale)
    # The job will go to idle ones; which of them cannot be known here, so all count as having loaded its modules.
    identities = [info.processes[name].resource_id for name in info.taskmanagers]
    loaded = {i: modules if i in idle or i not in loaded else loaded[i] for i in identities}
    with tempfile.NamedTemporaryFile("w", dir=record.parent, suffix=".new", delete=False) as draft:
        draft.write(json.dumps(loaded))
    Path(draft.name).replace(record)
    return stale
