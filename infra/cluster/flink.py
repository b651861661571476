"""The session cluster from PyFlink's own distribution: configuration, environment, command lines."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import yaml

from infra.cluster.ports import LOOPBACK
from infra.errors import InfraError
from infra.jars import classpath

#: Whole processes, MiB. A TaskManager holds one slot: JVM heap, RocksDB's cache (managed memory) and, in thread
#: mode, the job's Python, which Flink counts as JVM overhead.
JOBMANAGER_MB: Final = 1024
TASKMANAGER_MB: Final = 1664


def distribution() -> Path:
    """The directory of the Flink distribution inside the `pyflink` package.

    Raises:
        InfraError: PyFlink is not installed in this Python.
    """
    spec = find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise InfraError(f"{sys.executable} has no pyflink; run `make setup` and use .venv/bin/longrank")
    return Path(spec.origin).parent


def flink_config(directory: Path, ports: Mapping[str, int], python: str, prometheus: bool) -> dict[str, Any]:
    """Flink's settings for the cluster in `directory`, to be laid over the shipped ones."""
    settings: dict[str, Any] = {
        "jobmanager.rpc.address": LOOPBACK,
        "jobmanager.bind-host": LOOPBACK,
        "jobmanager.rpc.port": ports["jobmanager-rpc"],
        "rest.address": LOOPBACK,
        "rest.bind-address": LOOPBACK,
        "rest.port": ports["rest"],
        "rest.bind-port": str(ports["rest"]),
        "taskmanager.host": LOOPBACK,
        "taskmanager.bind-host": LOOPBACK,
        "jobmanager.memory.process.size": f"{JOBMANAGER_MB}m",
        "jobmanager.memory.jvm-metaspace.size": "192m",
        "taskmanager.memory.process.size": f"{TASKMANAGER_MB}m",
        "taskmanager.memory.jvm-metaspace.size": "192m",
        "taskmanager.memory.network.max": "96m",
        "taskmanager.memory.managed.size": "320m",
        "taskmanager.memory.jvm-overhead.min": "384m",
        "taskmanager.memory.jvm-overhead.max": "384m",
        # One interpreter lock per TaskManager: more slots would share it, more TaskManagers do not.
        "taskmanager.numberOfTaskSlots": 1,
        "parallelism.default": 1,
        "python.executable": python,
        "python.client.executable": python,
        "state.backend.type": "rocksdb",
        "execution.checkpointing.incremental": True,
        "execution.checkpointing.dir": (directory / "checkpoints").as_uri(),
        "execution.checkpointing.savepoint-dir": (directory / "savepoints").as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "io.tmp.dirs": str(directory / "tmp"),
        # Bounded: a job that cannot go on (its offsets are gone, say) must end as FAILED, where it is seen.
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 10,
        "restart-strategy.fixed-delay.delay": "1 s",
        # A killed TaskManager is noticed in seconds, a slow one on a busy machine is not taken for dead.
        "heartbeat.interval": 2000,
        "heartbeat.rpc-failure-threshold": 2,
        "heartbeat.timeout": 40000,
        "web.submit.enable": False,
        "web.cancel.enable": True,
    }
    if prometheus:
        settings["metrics.reporter.prom.factory.class"] = (
            "org.apache.flink.metrics.prometheus.PrometheusReporterFactory"
        )
    return settings


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def client_environment(java_home: Path, logs: Path) -> dict[str, str]:
    """The environment of a client of somebody else's cluster: the user's own FLINK_* variables stay."""
    logs.mkdir(parents=True, exist_ok=True)
    return {"FLINK_LOG_DIR": str(logs)} | _with_tools(os.environ, java_home)


def _with_tools(environment: Mapping[str, str], java_home: Path) -> dict[str, str]:
    # The TaskManagers look for libpython and pemja through the `python` that is first on PATH.
    python_bin = str(Path(sys.executable).parent)
    path = f"{python_bin}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return {**environment, "JAVA_HOME": str(java_home), "PATH": path}


class Flink:
    """The Flink directory of a home: conf/, lib/ (links), checkpoints/, savepoints/, tmp/."""

    def __init__(self, directory: Path, logs: Path, java_home: Path) -> None:
        self.directory = directory
        self.logs = logs
        self.java_home = java_home

    def prepare(self, ports: Mapping[str, int], *, prometheus: bool) -> None:
        """Write conf/ and lib/ afresh; checkpoints and savepoints stay."""
        shipped = distribution()
        for name in ("conf", "lib", "tmp", "pids"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for name in ("lib", "tmp", "pids", "checkpoints", "savepoints"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree(shipped / "conf", self.directory / "conf")
        # The shipped settings hold the --add-exports and --add-opens lines that Flink on Java 17 needs.
        settings = _flat(yaml.safe_load((shipped / "conf" / "config.yaml").read_text()))
        settings |= flink_config(self.directory, ports, sys.executable, prometheus)
        (self.directory / "conf" / "config.yaml").write_text(yaml.safe_dump(_nested(settings), width=10_000))
        # The console's output goes to one file per process already; no second copy of it.
        log4j = self.directory / "conf" / "log4j-console.properties"
        kept = [line for line in log4j.read_text().splitlines() if not re.match(r"[\w.]*\.rolling\.", line)]
        log4j.write_text("\n".join(kept) + "\n")
        # flink-python belongs to lib/, else a second job in the same TaskManager fails with NoSuchFieldException.
        jars = [*(shipped / "lib").glob("*.jar"), *(shipped / "opt").glob("flink-python*.jar"), *classpath("flink-lib")]
        for jar in jars:
            (self.directory / "lib" / jar.name).symlink_to(jar)

    def environment(self) -> dict[str, str]:
        """The environment of Flink's shell scripts, for servers and clients of this cluster."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLINK_", "_FLINK"))}
        return _with_tools(kept, self.java_home) | {
            "FLINK_CONF_DIR": str(self.directory / "conf"),
            "FLINK_LIB_DIR": str(self.directory / "lib"),
            "FLINK_LOG_DIR": str(self.logs),
            "FLINK_PID_DIR": str(self.directory / "pids"),
        }

    def jobmanager_argv(self, prometheus_port: int | None) -> list[str]:
        """The JobManager in the foreground; the scripts `exec` java, so the pid stays."""
        return self._argv("jobmanager.sh", prometheus_port)

    def taskmanager_argv(self, prometheus_port: int | None, resource_id: str) -> list[str]:
        """One TaskManager in the foreground, under the id by which the REST interface will list it."""
        return [*self._argv("taskmanager.sh", prometheus_port), "-D", f"taskmanager.resource-id={resource_id}"]

    def _argv(self, script: str, prometheus_port: int | None) -> list[str]:
        argv = ["bash", str(distribution() / "bin" / script), "start-foreground"]
        if prometheus_port is not None:
            argv += ["-D", f"metrics.reporter.prom.port={prometheus_port}"]
        return argv
