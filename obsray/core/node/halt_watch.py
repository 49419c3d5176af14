"""Shell: looks whether processes of this node stand still, and wakes or replaces a zygote that does (``halts.py``)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from obsray.core.node.halts import ZYGOTE, Halts, Remedy, Seen
from obsray.core.system.processes import send_signal
from obsray.ids import NIL_WORKER
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.halts import halted

if TYPE_CHECKING:
    from obsray.core.node.shell import Node

LOOK_SECONDS = 1.0


class HaltWatch:
    """Looks every second from ``start`` on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.halts = Halts(node.machine.pool, node.config.zygote_silent_seconds_max)

    def start(self) -> None:
        """Look now, and again and again."""
        if not self._node.ending:
            self._look()
            self._node.reactor.call_at(time.monotonic() + LOOK_SECONDS, self.start)

    def _look(self) -> None:
        node = self._node
        pid = node.forks.pid
        remedy = node.do(self.halts.look, self._processes(), node.forks.owes, node.forks.starting)
        if remedy is Remedy.WAKE:
            node.log(f"the zygote (pid {pid}) is stopped and needed: it is woken")
            node.forks.wake()
        elif remedy is Remedy.REPLACE and node.forks.socket is not None:
            node.log(f"the zygote (pid {pid}) does not answer: it is killed with its workers, and replaced")
            send_signal(pid, signal.SIGKILL)
            node.do(self.halts.replaced, pid)
            node.processes.zygote_died()

    def _processes(self) -> Iterator[Seen]:
        """All that belong to this node, but for itself, which cannot look while it stands still."""
        node = self._node
        if node.forks.socket is not None:
            yield _seen(node.forks.pid, ZYGOTE, NIL_WORKER)
        for service in node.services.services:
            if service.pid:
                yield _seen(service.pid, service.name, NIL_WORKER)
        for worker in list(node.machine.pool.workers.values()):
            if worker.pid:
                yield _seen(worker.pid, "worker", worker.id)
        for client in list(node.machine.clients.values()):
            if client.kind is ProcessKind.DRIVER and client.pid and not client.foreign:
                yield _seen(client.pid, "driver", client.id)


def _seen(pid: int, name: str, worker: bytes) -> Seen:
    return Seen(pid, name, worker, halted(pid))
