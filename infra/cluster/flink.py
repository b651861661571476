"""The session cluster from PyFlink's own distribution: configuration, environment, command lines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Role:
    """A kind of Flink process: which class runs it, and how BashJavaUtils is asked for its memory."""

    name: str
    main_class: str
    command: str


_JOBMANAGER: Final = _Role(
    "jobmanager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", "GET_JM_RESOURCE_PARAMS"
)
_TASKMANAGER: Final = _Role(
    "taskmanager", "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", "GET_TM_RESOURCE_PARAMS"
)
_ANSWER: Final = "BASH_JAVA_UTILS_EXEC_RESULT:"


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
        # All start at once: a TaskManager that is up before the JobManager asks again soon, not in ten seconds.
        "cluster.registration.error-delay": 500,
        "cluster.registration.refused-registration-delay": 500,
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
    """The Flink directory of a home: conf/, lib/ (links), run/, tmp/, checkpoints/, savepoints/."""

    def __init__(self, directory: Path, logs: Path, java_home: Path) -> None:
        self.directory = directory
        self.logs = logs
        self.java_home = java_home

    def prepare(self, ports: Mapping[str, int], *, prometheus: bool) -> None:
        """Write conf/ and lib/ afresh; checkpoints and savepoints stay."""
        shipped = distribution()
        for name in ("conf", "lib", "tmp", "run"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for name in ("lib", "tmp", "run", "checkpoints", "savepoints"):
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
        self._work_out_memory()

    def environment(self) -> dict[str, str]:
        """The environment of Flink's shell scripts, for servers and clients of this cluster."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLINK_", "_FLINK"))}
        return _with_tools(kept, self.java_home) | {
            "FLINK_CONF_DIR": str(self.directory / "conf"),
            "FLINK_LIB_DIR": str(self.directory / "lib"),
            "FLINK_LOG_DIR": str(self.logs),
            "FLINK_PLUGINS_DIR": str(distribution() / "plugins"),
            "FLINK_OPT_DIR": str(distribution() / "opt"),
            "FLINK_PID_DIR": str(self.directory / "run"),
        }

    def jobmanager_argv(self, prometheus_port: int | None) -> list[str]:
        """The JobManager's command line."""
        # A JobManager has no hot loop: the second compiler would only take cores from the others.
        return self._argv(_JOBMANAGER, prometheus_port, one_compiler=True)

    def taskmanager_argv(
        self, prometheus_port: int | None, resource_id: str, *, short_lived: bool = False
    ) -> list[str]:
        """One TaskManager's, under the id by which the REST interface will list it."""
        return [
            *self._argv(_TASKMANAGER, prometheus_port, one_compiler=short_lived),
            "-D",
            f"taskmanager.resource-id={resource_id}",
        ]

    def _argv(self, role: _Role, prometheus_port: int | None, *, one_compiler: bool) -> list[str]:
        """What flink-console.sh would `exec`, from the memory that `prepare` had Flink work out."""
        conf = self.directory / "conf"
        jvm, dynamic = json.loads((self.directory / "run" / f"{role.name}.json").read_text())
        settings = yaml.safe_load((conf / "config.yaml").read_text())
        argv = [
            str(self.java_home / "bin" / "java"),
            *jvm,
            "-XX:+IgnoreUnrecognizedVMOptions",
            *(("-XX:TieredStopAtLevel=1",) if one_compiler else ()),
            # Flink sets a security manager; from Java 18 on that must be allowed, before it is the default.
            "-Djava.security.manager=allow",
            *settings["env"]["java"]["opts"]["all"].split(),
            f"-Dlog4j.configurationFile={(conf / 'log4j-console.properties').as_uri()}",
            "-classpath",
            self._classpath(),
            role.main_class,
            "--configDir",
            str(conf),
            *dynamic,
        ]
        if prometheus_port is not None:
            argv += ["-D", f"metrics.reporter.prom.port={prometheus_port}"]
        return argv

    def _classpath(self) -> str:
        jars = sorted((self.directory / "lib").glob("*.jar"), key=lambda jar: (jar.name.startswith("flink-dist"), jar))
        return ":".join(str(jar) for jar in jars)

    def _work_out_memory(self) -> None:
        """Have Flink turn the memory settings into JVM options, once for all processes of a role.

        Flink's start scripts do this with five short-lived JVMs per process, which on two cores takes longer than
        the cluster's own start.
        """
        asking = [(role, self._ask_for_memory(role)) for role in (_JOBMANAGER, _TASKMANAGER)]
        for role, child in asking:
            output, _ = child.communicate()
            lines = [line.partition(_ANSWER)[2] for line in output.splitlines() if _ANSWER in line]
            if child.returncode != 0 or len(lines) != 2:
                raise InfraError(f"Flink refused its settings in {self.directory}/conf:\n{output.strip()[-2000:]}")
            answer = [line.split() for line in lines]
            (self.directory / "run" / f"{role.name}.json").write_text(json.dumps(answer))

    def _ask_for_memory(self, role: _Role) -> subprocess.Popen[str]:
        shipped = distribution()
        tool = f"{shipped}/bin/bash-java-utils.jar:{next((self.directory / 'lib').glob('flink-dist*.jar'))}"
        argv = [f"{self.java_home}/bin/java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-classpath", tool]
        argv += ["org.apache.flink.runtime.util.bash.BashJavaUtils", role.command]
        argv += ["--configDir", str(self.directory / "conf")]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
