"""The local cluster: one broker, one JobManager, N TaskManagers of one slot each, below one home."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from infra.cluster.broker import Broker
from infra.cluster.flink import Flink
from infra.cluster.health import broker_problem, flink_problem, wait_healthy
from infra.cluster.plan import UpOptions, plan_up
from infra.cluster.ports import choose_ports
from infra.cluster.processes import ProcessRef, end, marked, reap, spawn
from infra.cluster.state import BROKER, JOBMANAGER, ClusterInfo, StateFile
from infra.errors import InfraError
from infra.home import home_dir
from infra.java import find_java_home

#: A broker flushes and hands over its leadership, a JobManager ends its jobs; longer than this they are stuck.
_TERM_WAIT_S = 20.0


class LocalCluster:
    """Starts, watches, breaks and ends the cluster of one home. Every method may be called from another process.

    Below `home`: cluster.json (pids, ports), logs/, broker/ (settings, data), flink/ (conf, lib, checkpoints,
    savepoints).
    """

    def __init__(self, home: str | Path | None = None) -> None:
        self.home = home_dir(home)
        self._state = StateFile(self.home)

    # ---- looking

    def peek(self) -> ClusterInfo | None:
        """What is recorded, dead or alive; None if nothing ever ran here."""
        return self._state.read()

    def info(self) -> ClusterInfo:
        """The cluster that runs here.

        Raises:
            InfraError: broker or JobManager is not running.
        """
        info = self._state.read()
        dead = [name for name in (BROKER, JOBMANAGER) if info is None or not self._alive(info, name)]
        if info is None or len(dead) == 2:
            raise InfraError(f"no cluster runs in {self.home}; start one with `longrank up --home {self.home}`")
        if dead:
            raise InfraError(f"the {dead[0]} of {self.home} is not running; `longrank up` starts it again")
        return info

    def health(self) -> dict[str, str | None]:
        """Process or service name -> None if well, else what is wrong."""
        info = self._state.read()
        if info is None:
            return {}
        problems: dict[str, str | None] = {
            name: None if process.alive() else "not running" for name, process in info.processes.items()
        }
        if problems.get(BROKER, "") is None:
            problems[BROKER] = broker_problem(info.bootstrap)
        if problems.get(JOBMANAGER, "") is None:
            living = {n: info.processes[n].resource_id for n in info.taskmanagers if problems[n] is None}
            problems[JOBMANAGER] = flink_problem(info.rest_url, set(living.values()))
        return problems

    # ---- starting

    def up(self, options: UpOptions | None = None, *, fresh: bool = False) -> ClusterInfo:
        """Start what does not run, wait until all is well, say what is where.

        What an earlier run left (dead processes in cluster.json, living ones that lost their JobManager, a broker
        directory formatted half) is cleared away first. Checkpoints, savepoints and topics stay.

        Args:
            options: what to start; what runs already must agree with the ports asked for.
            fresh: end and wipe everything of this home first.

        Raises:
            InfraError: a port is taken, a process died or was not well in time, or a running cluster has another
                port than the one asked for. What this call started has then been ended.
        """
        options = options or UpOptions()
        with self._state.lock():
            if fresh:
                self._down()
                self._wipe()
            old = self._state.read()
            alive = frozenset(name for name, ref in old.processes.items() if ref.alive()) if old else frozenset()
            plan = plan_up(old, alive, options)
            kept = {name: ref for name, ref in old.processes.items() if name in plan.keep} if old else {}
            self._end_all_but({ref.pid for ref in kept.values()})
            info = ClusterInfo(
                home=self.home,
                ports=plan.kept_ports | choose_ports(plan.ask, old.ports if old else {}),
                prometheus=options.prometheus,
                short_lived=options.short_lived,
                processes=kept,
                started=old.started if old else 0,
            )
            self._state.write(info)
            with self._ended_on_failure(kept):
                missing = plan.missing(options)
                if JOBMANAGER in missing:
                    # No TaskManager runs now, so nobody uses the temporary files that this wipes.
                    self._flink(info).prepare(info.ports, prometheus=info.prometheus)
                info = self._start(info, missing)
                self._wait(info, options.timeout_s)
            return info

    def _start(self, info: ClusterInfo, names: list[str]) -> ClusterInfo:
        """Start the named processes, recording each as soon as it runs."""
        if not names:
            return info
        flink = self._flink(info)
        broker = Broker(self.home / "broker", flink.java_home)
        for name in names:
            resource_id = f"{name}-{info.started + 1}"
            prometheus_port = info.ports.get(f"prometheus-{name}")
            ports: dict[str, int] = {} if prometheus_port is None else {"prometheus": prometheus_port}
            if name == BROKER:
                broker.prepare(info.ports)
                argv, env = broker.argv(), flink.environment()
                ports |= {purpose: info.ports[purpose] for purpose in ("broker", "controller")}
            elif name == JOBMANAGER:
                argv, env = flink.jobmanager_argv(prometheus_port), flink.environment()
                ports |= {purpose: info.ports[purpose] for purpose in ("rest", "jobmanager-rpc")}
            else:
                argv = flink.taskmanager_argv(prometheus_port, resource_id, short_lived=info.short_lived)
                env = flink.environment()
            process = spawn(
                name, argv, home=self.home, env=env, log=info.logs / f"{name}.log", ports=ports, resource_id=resource_id
            )
            info = info.with_process(process)
            self._state.write(info)
        return info

    def _flink(self, info: ClusterInfo) -> Flink:
        return Flink(self.home / "flink", info.logs, find_java_home())

    def _wait(self, info: ClusterInfo, timeout_s: float) -> None:
        ids = {info.processes[name].resource_id for name in info.taskmanagers}
        wait_healthy(
            {
                BROKER: lambda: broker_problem(info.bootstrap),
                "flink": lambda: flink_problem(info.rest_url, ids),
            },
            info.processes,
            timeout_s=timeout_s,
        )

    @contextmanager
    def _ended_on_failure(self, keep: Mapping[str, ProcessRef]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            info = self._state.read()
            assert info is not None
            self._end_all_but({ref.pid for ref in keep.values()})
            self._state.write(replace(info, processes=keep))
            raise

    # ---- ending

    def down(self) -> list[str]:
        """End exactly what `up` started, children included; returns the names of what was running.

        Raises:
            InfraError: a process survived SIGKILL (it hangs in the kernel).
        """
        if not self.home.exists():
            return []
        with self._state.lock():
            return self._down()

    def _down(self) -> list[str]:
        info = self._state.read()
        running = [name for name in (info.processes if info else {}) if info and self._alive(info, name)]
        self._end_all_but(set())
        if info is not None:
            self._state.write(replace(info, processes={}))
        return running

    def _end_all_but(self, keep: set[int]) -> None:
        """End what is recorded and what carries this home's marker, except the sessions led by `keep`."""
        info = self._state.read()
        found = {process.pid: process for process in marked(self.home)}
        for ref in info.processes.values() if info else ():
            if process := ref.find():
                found[process.pid] = process
        doomed = [process for process in found.values() if process.pid not in keep and not _led_by(process, keep)]
        # TaskManagers before the JobManager before the broker would be the graceful order; all at once is as safe,
        # for what must survive is in checkpoints and in the broker's log, and it is three times as fast.
        stuck = end(doomed, term_wait_s=_TERM_WAIT_S)
        reap()
        if stuck:
            raise InfraError(f"processes {[process.pid for process in stuck]} of {self.home} survive SIGKILL")

    def _wipe(self) -> None:
        for name in ("broker", "flink", "logs"):
            shutil.rmtree(self.home / name, ignore_errors=True)
        self._state.path.unlink(missing_ok=True)

    # ---- breaking and mending, for the tests of faults

    def kill(self, name: str) -> None:
        """SIGKILL one process and wait until it is gone.

        Raises:
            InfraError: there is none of that name.
        """
        info = self._state.read()
        if info is None or name not in info.processes:
            raise InfraError(f"{self.home} has no process {name!r} to kill")
        if process := info.processes[name].find():
            process.send_signal(signal.SIGKILL)
            psutil.wait_procs([process], timeout=30)
        reap()

    def restart(self, *names: str, timeout_s: float = 120.0) -> ClusterInfo:
        """Start processes again under their old ports (ending them first if they run), and wait until they are well.

        Others may be dead meanwhile: only these are waited for. A JobManager comes back without its jobs.

        Raises:
            InfraError: there is none of that name, it died again, or was not well in time.
        """
        with self._state.lock():
            info = self._state.read()
            unknown = [name for name in names if info is None or name not in info.processes]
            if info is None or unknown:
                raise InfraError(f"{self.home} has no process {', '.join(unknown)} to restart")
            end([p for name in names if (p := info.processes[name].find())], term_wait_s=_TERM_WAIT_S)
            reap()
            info = self._start(info, list(names))
            ids = {info.processes[name].resource_id for name in names if name in info.taskmanagers}
            checks: dict[str, Callable[[], str | None]] = {}
            if BROKER in names:
                checks[BROKER] = lambda: broker_problem(info.bootstrap)
            if JOBMANAGER in names or ids:
                checks["flink"] = lambda: flink_problem(info.rest_url, ids)
            wait_healthy(checks, {name: info.processes[name] for name in names}, timeout_s=timeout_s)
            return info

    @staticmethod
    def _alive(info: ClusterInfo, name: str) -> bool:
        return name in info.processes and info.processes[name].alive()


def _led_by(process: psutil.Process, leaders: set[int]) -> bool:
    """Whether the process belongs to a session that one of `leaders` opened (`spawn` makes each a leader)."""
    try:
        return os.getsid(process.pid) in leaders
    except ProcessLookupError:
        return False
