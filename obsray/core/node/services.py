"""Shell: the processes beside the node (control store, collector, dashboard), started late and kept running."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from obsray.core.node.options import Options
from obsray.core.system.processes import reap, send_signal, spawn_module

NICENESS = 5
BACKOFF_SECONDS_MIN = 0.5
BACKOFF_SECONDS_MAX = 30.0
#: A process that ran this long did not fail at its start; its next failure is a first one again.
STEADY_SECONDS = 10.0
_SENDS = "OTEL_EXPORTER_OTLP_"
_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Service:
    """One process: ``pid`` 0 while it does not run, ``not_before`` when it may be tried again.

    ``descriptors``: number there -> number here.
    """

    name: str
    module: str
    arguments: list[str] = field(default_factory=list)
    descriptors: dict[int, int] = field(default_factory=dict)
    #: Also one that has only begun to start does what is to be done at the end.
    finishes: bool = False
    pid: int = 0
    started_at: float = 0.0
    failures: int = 0
    not_before: float = 0.0

    @property
    def exists(self) -> bool:
        """Whether this installation has the module."""
        relative = self.module.removeprefix("obsray.").replace(".", "/")
        return (_PACKAGE / f"{relative}.py").is_file()


def services_of(options: Options, watched: bool = False) -> list[Service]:
    """What runs beside a node: everywhere a collector; control store and dashboard where the head is; where there are
    GPUs that NVML knows (``watched``), what watches them.

    The control store is told with ``--listen HOST:PORT`` where it listens for other nodes, with ``--storage WHERE``
    where its state lies, and with ``--standby`` that it waits until another one that uses the same storage is gone.
    """
    found = []
    if options.head or options.standby:
        arguments = []
        if options.control_listen:
            arguments += ["--listen", options.control_listen]
        if options.storage:
            arguments += ["--storage", options.storage]
        if options.standby:
            arguments.append("--standby")
        found.append(Service("control", "obsray.core.control.process", arguments))
    # What was recorded lies in files anyhow; only who sends it elsewhere, or gives it to the head, has to have begun.
    sends = any(name.startswith(_SENDS) and name.endswith("ENDPOINT") and value for name, value in os.environ.items())
    asked = options.clustered and not options.head
    found.append(Service("collector", "obsray.telemetry.process", finishes=sends or asked))
    if watched:
        found.append(Service("gpu-watch", "obsray.gpu_watch.process"))
    if options.head and options.autoscaling is not None:
        found.append(Service("autoscaler", "obsray.autoscaler.process"))
    if options.head and options.include_dashboard:
        port = options.dashboard_port
        found.append(Service("dashboard", "obsray.dashboard.process", [] if port is None else ["--port", str(port)]))
    return found


class Services:
    """Starts, watches and ends them. ``log`` takes a line for the node's log."""

    def __init__(self, session: Path, services: list[Service], log: Callable[[str], None]) -> None:
        self._session = session
        self._log = log
        self.services = [service for service in services if service.exists]
        self.started = False

    def start(self, names: set[str] | None = None) -> None:
        """Start those that do not run yet: all of them, or only some for now."""
        self.started = self.started or names is None
        for service in self.services:
            if not service.pid and (names is None or service.name in names):
                self._start(service)

    def _start(self, service: Service) -> None:
        arguments = ["--session-dir", str(self._session), *service.arguments]
        log = self._session / "logs" / f"{service.name}.log"
        try:
            blocked = (signal.SIGTERM,) if service.finishes else ()
            service.pid = spawn_module(service.module, arguments, os.environ, log, service.descriptors, blocked)
            os.setpriority(os.PRIO_PROCESS, service.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        except OSError as error:
            self._log(f"{service.name}: cannot be started: {error}")
            self._failed(service)
            return
        service.started_at = time.monotonic()

    def _failed(self, service: Service) -> None:
        if time.monotonic() - service.started_at > STEADY_SECONDS:
            service.failures = 0
        # Others wait for it: the first time it is started again at once.
        delay = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2 ** (service.failures - 1)) if service.failures else 0.0
        service.failures += 1
        service.not_before = time.monotonic() + delay

    def check(self) -> None:
        """Notice ends, try again what may be tried again. Call when a child ended, and now and then."""
        for service in self.services:
            if not self.started and not service.pid:
                continue
            if service.pid and (status := reap(service.pid)) is not None:
                self._log(f"{service.name}: process {service.pid} ended with {os.waitstatus_to_exitcode(status)}")
                service.pid = 0
                self._failed(service)
            if self.started and not service.pid and time.monotonic() >= service.not_before:
                self._start(service)

    def failed(self, name: str) -> bool:
        """Whether a service could not be started, or has ended without being told to, since it last ran steadily."""
        return any(service.name == name and service.failures for service in self.services)

    def give(self, name: str, number: int, descriptor: int) -> None:
        """From its next start on, that service has ``descriptor`` open under ``number``."""
        for service in self.services:
            if service.name == name:
                service.descriptors[number] = descriptor

    def end(self, names: set[str], seconds: float) -> None:
        """Ask those to end in order, kill what has not ended after ``seconds``; returns when they are gone."""
        self.started = False
        ending = [service for service in self.services if service.name in names and service.pid]
        for service in ending:
            send_signal(service.pid, signal.SIGTERM)
            # Also one that somebody has stopped ends in order.
            send_signal(service.pid, signal.SIGCONT)
        wait_all([service.pid for service in ending], seconds, self._log)
        for service in ending:
            service.pid = 0


def wait_all(pids: list[int], seconds: float, log: Callable[[str], None]) -> dict[int, int]:
    """Wait until these children are gone; what has not ended after ``seconds`` is killed, and waited for once more.

    Returns their wait statuses; without those that do not end all the same, because they are frozen.
    """
    found = {pid: reap(pid) for pid in pids}
    watched = {pid: os.pidfd_open(pid) for pid, status in found.items() if status is None}
    deadline = time.monotonic() + seconds
    late = [pid for pid, pidfd in watched.items() if not _ended_by(pidfd, deadline)]
    for pid in late:
        log(f"process {pid} did not end within {seconds:g} s and is killed")
        send_signal(pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    for pid in late:
        _ended_by(watched[pid], deadline)
    for pid, pidfd in watched.items():
        os.close(pidfd)
        found[pid] = reap(pid)
    return {pid: status for pid, status in found.items() if status is not None}


def _ended_by(pidfd: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0, int((deadline - time.monotonic()) * 1000))))
