"""Shell: looks whether processes of this node stand still, and wakes or replaces what serves it (``halts.py``)."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from obsray.core.node.halts import ZYGOTE, Halts, Remedy, Seen
from obsray.core.system.processes import send_signal
from obsray.ids import NIL_WORKER
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.halts import FILE, NAMES, STOPPED
from obsray.telemetry.pids import halted
from obsray.telemetry.small_files import write_whole

if TYPE_CHECKING:
    from obsray.core.node.shell import Node

LOOK_SECONDS = 1.0


class HaltWatch:
    """Looks every second from ``start`` on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        config = node.config
        self.halts = Halts(node.machine.pool, config.zygote_silent_seconds_max, config.service_halted_seconds_max)
        #: What programs were told of: [name, pid] of each.
        self._written: list[tuple[str, int]] = []

    def start(self) -> None:
        """Look now, and again and again."""
        if not self._node.ending:
            self._look()
            self._node.reactor.call_at(time.monotonic() + LOOK_SECONDS, self.start)

    def _look(self) -> None:
        node = self._node
        for seen, remedy in node.do(self.halts.look, self._processes(), node.forks.owes, node.forks.starting):
            who = f"the {NAMES.get(seen.name, seen.name)} (pid {seen.pid})"
            if remedy is Remedy.WAKE:
                node.log(f"{who} is stopped and needed: it is woken")
                send_signal(seen.pid, signal.SIGCONT)
            elif remedy is Remedy.REPLACE:
                node.log(f"{who} does not answer: it is killed with its workers, and replaced")
                send_signal(seen.pid, signal.SIGKILL)
                node.do(self.halts.replaced, seen.pid)
                node.processes.zygote_died()
        self._tell_programs()

    def _tell_programs(self) -> None:
        """Write down what serves this node and stands still; a zygote that is stopped is woken before it is missed."""
        halts = [seen for seen, _ in self.halts.halted.values()]
        found = [
            (seen.name, seen.pid) for seen in halts
            if seen.service or (seen.name == ZYGOTE and seen.how != STOPPED)
        ]  # fmt: skip
        if found == self._written:
            return
        path, self._written = self._node.session / FILE, found
        try:
            if found:
                write_whole(path, json.dumps(found))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self._node.log(f"programs are not told what stands still: {error}")

    def _processes(self) -> Iterator[Seen]:
        """All that belong to this node, but for itself, which cannot look while it stands still."""
        node = self._node
        if node.forks.socket is not None:
            yield _seen(node.forks.pid, ZYGOTE, NIL_WORKER)
        for service in node.services.services:
            if service.pid:
                yield _seen(service.pid, service.name, NIL_WORKER, service=True)
        for worker in list(node.machine.pool.workers.values()):
            if worker.pid:
                yield _seen(worker.pid, "worker", worker.id)
        for client in list(node.machine.clients.values()):
            if client.kind is ProcessKind.DRIVER and client.pid and not client.foreign:
                yield _seen(client.pid, "driver", client.id)


def _seen(pid: int, name: str, worker: bytes, service: bool = False) -> Seen:
    return Seen(pid, name, worker, halted(pid), service)
