"""What an `up` keeps of what it finds, and which ports it needs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from infra.cluster.state import BROKER, JOBMANAGER, ClusterInfo, taskmanager
from infra.errors import InfraError

_OWNER = {"broker": BROKER, "controller": BROKER, "rest": JOBMANAGER, "jobmanager-rpc": JOBMANAGER}


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What to start. A port of 0 means any free one; the last run's if that is free."""

    taskmanagers: int = 2
    broker_port: int = 0
    controller_port: int = 0
    rest_port: int = 0
    jobmanager_rpc_port: int = 0
    #: Flink's Prometheus reporter. It listens on every interface of the machine: it has no setting for that.
    prometheus: bool = False
    #: For a cluster of minutes: TaskManagers without the JVM's second compiler, which costs each of them 12 s of CPU
    #: before it pays.
    short_lived: bool = False
    timeout_s: float = 180.0

    def names(self) -> list[str]:
        """The processes, in the order they are started."""
        return [BROKER, JOBMANAGER, *(taskmanager(index) for index in range(self.taskmanagers))]

    def ports(self) -> dict[str, int]:
        """Purpose -> port asked for."""
        asked = {
            "broker": self.broker_port,
            "controller": self.controller_port,
            "rest": self.rest_port,
            "jobmanager-rpc": self.jobmanager_rpc_port,
        }
        if self.prometheus:
            asked |= {f"prometheus-{name}": 0 for name in self.names() if name != BROKER}
        return asked


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`keep`: living processes that stay; `kept_ports`: theirs; `ask`: purpose -> port to find (0: any)."""

    keep: frozenset[str]
    kept_ports: dict[str, int]
    ask: dict[str, int]

    def missing(self, options: UpOptions) -> list[str]:
        """The processes to start, in order."""
        return [name for name in options.names() if name not in self.keep]


def plan_up(old: ClusterInfo | None, alive: frozenset[str], options: UpOptions) -> Plan:
    """Decide what stays.

    Args:
        old: what is recorded, or None.
        alive: which of the recorded processes run.
        options: what is wanted.

    Raises:
        InfraError: no TaskManager is wanted, or a port is asked for that a running process has another of.
    """
    if options.taskmanagers < 1:
        raise InfraError(f"{options.taskmanagers} TaskManagers can run no job; ask for 1 or more")
    asked = options.ports()
    if old is None:
        return Plan(keep=frozenset(), kept_ports={}, ask=asked)
    keep = alive & set(options.names())
    if JOBMANAGER not in keep or old.prometheus != options.prometheus:
        # TaskManagers without their JobManager hold dead jobs' memory and interpreters: Flink starts whole.
        keep &= {BROKER}
    kept_ports = {}
    for purpose, port in old.ports.items():
        if _OWNER.get(purpose, purpose.removeprefix("prometheus-")) not in keep:
            continue
        kept_ports[purpose] = port
        if asked.get(purpose, 0) not in (0, port):
            raise InfraError(
                f"the cluster in {old.home} runs with {purpose} on port {port}, not {asked[purpose]}; "
                "`longrank down` first"
            )
    ask = {purpose: port for purpose, port in asked.items() if purpose not in kept_ports}
    return Plan(keep=frozenset(keep), kept_ports=kept_ports, ask=ask)
