"""One KRaft broker: its settings, its storage, its command line."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from infra.cluster.ports import LOOPBACK
from infra.errors import InfraError
from infra.jars import classpath
from schemas.topics import ALL_TOPICS

#: Snapshots and their dead letters are the longest records; the broker's own limits leave room above the topics'.
MAX_RECORD_BYTES: Final = 2 * max(topic.max_message_bytes for topic in ALL_TOPICS)
#: Flink's transactions stay open for a checkpoint interval plus a restart; its sinks ask for one hour.
TRANSACTION_MAX_TIMEOUT_MS: Final = 2 * 3_600_000
_FOREVER_MS: Final = (1 << 63) - 1
_FORMATTED: Final = "formatted"

_LOG4J: Final = """\
status = warn
appender.console.type = Console
appender.console.name = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = info
logger.log.name = org.apache.kafka.storage.internals.log
logger.log.level = warn
rootLogger.appenderRef.console.ref = CONSOLE
"""


def server_properties(data: Path, broker_port: int, controller_port: int) -> dict[str, str]:
    """Settings of a single node that is broker and controller, on loopback only."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{broker_port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{broker_port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "delete.topic.enable": "true",
        # One node holds the only copy.
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # 50 partitions each by default: seconds of start-up and hundreds of files for nothing here.
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "8",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "transaction.max.timeout.ms": str(TRANSACTION_MAX_TIMEOUT_MS),
        "message.max.bytes": str(MAX_RECORD_BYTES),
        "replica.fetch.max.bytes": str(MAX_RECORD_BYTES),
        # An old log is replayed under its own times; what is out of bounds is the jobs' to refuse, as dead letters.
        "log.message.timestamp.before.max.ms": str(_FOREVER_MS),
        "log.message.timestamp.after.max.ms": str(_FOREVER_MS),
        # The default of 128 MB would be a quarter of this broker's heap.
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        "num.network.threads": "2",
        "num.io.threads": "4",
    }


def _classpath() -> str:
    return ":".join(str(jar) for jar in classpath("kafka-broker"))


class Broker:
    """The broker's directory: settings, data, and whether its storage was formatted to the end."""

    def __init__(self, directory: Path, java_home: Path, heap_mb: int = 512) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.java = java_home / "bin" / "java"
        self.heap_mb = heap_mb

    def prepare(self, ports: Mapping[str, int]) -> None:
        """Write the settings; format the storage unless that was done to its end.

        Raises:
            InfraError: Kafka's storage tool failed; its words are in the message.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = server_properties(self.data, ports["broker"], ports["controller"])
        (self.directory / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        (self.directory / "log4j2.properties").write_text(_LOG4J)
        done = self.directory / _FORMATTED
        if done.exists():
            return
        # Half a format is no format: nothing of value can be in a storage that no broker ever ran on.
        shutil.rmtree(self.data, ignore_errors=True)
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        tool = self._command("kafka.tools.StorageTool", heap_mb=128)
        result = subprocess.run(
            [*tool, "format", "--standalone", "-t", cluster_id, "-c", str(self.directory / "server.properties")],
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            last = (result.stderr or result.stdout).strip().splitlines()[-1:]
            raise InfraError(f"Kafka could not format {self.data}: {' '.join(last)}; remove {self.directory} and retry")
        done.write_text(cluster_id + "\n")

    def argv(self) -> list[str]:
        """The broker's command line."""
        return [*self._command("kafka.Kafka", heap_mb=self.heap_mb), str(self.directory / "server.properties")]

    def _command(self, main_class: str, heap_mb: int) -> list[str]:
        return [
            str(self.java),
            f"-Xmx{heap_mb}m",
            # A local broker lives for minutes: the second compiler would take more of the cores than it gives back.
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={(self.directory / 'log4j2.properties').as_uri()}",
            "-cp",
            _classpath(),
            main_class,
        ]
