"""Shell: worker processes as the zygote reports them, and the zygote itself, which is started again if it dies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from obsray.core.node.black_box import BlackBox
from obsray.core.node.services import wait_all
from obsray.core.node.workers import SIGNAL_KILL, Ended
from obsray.core.protocol.lifecycle import WorkerState

if TYPE_CHECKING:
    from obsray.core.node.shell import Node

#: A dead worker's link is read to its end first; if somebody else keeps it open, only this long.
LAST_WORDS_SECONDS = 0.1
ZYGOTE_BACKOFF_SECONDS_MAX = 30.0


class WorkerProcesses:
    """Those of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.black_box = BlackBox(node.session)
        #: Workers that have ended and whose links may still hold their last words: pid, status, RSS.
        self._dying: dict[bytes, tuple[int, int, int]] = {}
        self._zygote_failures = 0

    def watch(self) -> None:
        """Hear what the zygote says."""
        node = self.node
        if node.forks.socket is not None:
            node.reactor.on_readable(node.forks.socket.fileno(), self._on_zygote)

    def _on_zygote(self) -> None:
        node = self.node
        messages = node.forks.receive()
        if messages is None:
            self.zygote_died()
            return
        for message in messages:
            match message:
                case ("ready", int()):
                    self._zygote_failures = 0
                case ("forked", worker, pid):
                    node.do(node.machine.worker_forked, worker, pid)
                case ("failed", worker, why):
                    node.do(node.machine.worker_not_forked, worker, why)
                case ("ended", worker, pid, status, rss_bytes):
                    self._worker_ended(worker, pid, status, rss_bytes)

    def _worker_ended(self, worker: bytes, pid: int, status: int, rss_bytes: int) -> None:
        node = self.node
        self._dying[worker] = (pid, status, rss_bytes)
        link = node.links.get(worker)
        if link is None:
            self._bury(worker)
        else:
            # What it sent before it died is still in the socket; the end of file behind it buries the worker.
            node.reactor.call_at(time.monotonic() + LAST_WORDS_SECONDS, lambda: node.reactor.close(link))

    def link_closed(self, worker: bytes) -> None:
        """Nothing more will come from a client; if it is a dead worker, all has been heard."""
        if worker in self._dying:
            self._bury(worker)

    def _bury(self, worker: bytes) -> None:
        node = self.node
        pid, status, rss_bytes = self._dying.pop(worker)
        self._remove_socket(worker)
        known = node.machine.pool.workers.get(worker)
        end = self.black_box.read(worker, pid, status, rss_bytes, known is not None and known.killed_here)
        if known is not None and known.state is WorkerState.STARTING:
            how = f"signal {end.signal}" if end.signal else f"exit code {end.exit_code}"
            node.log(f"worker {worker.hex()} (pid {pid}) ended before it said hello: {how}\n{end.tail}".rstrip())
        node.do(node.machine.worker_ended, end)

    def _remove_socket(self, worker: bytes) -> None:
        node = self.node
        (node.session / "sockets" / f"{worker.hex()}.sock").unlink(missing_ok=True)

    def zygote_died(self) -> None:
        """It is gone, or as good as gone, and its workers with it: tell the machine, and start another one."""
        node = self.node
        assert node.forks.socket is not None
        node.reactor.forget(node.forks.socket.fileno())
        gone = node.forks.lost()
        node.log(f"the zygote (pid {node.forks.pid}) died with {len(gone)} workers")
        wait_all([node.forks.pid], 1.0, node.log)
        for worker, pid in gone.items():
            link = node.links.get(worker)
            if link is not None:
                node.reactor.close(link)
            self._remove_socket(worker)
            node.do(node.machine.worker_ended, Ended(worker, pid, 0, SIGNAL_KILL, parent_died=True))
        if not node.ending:
            delay = min(ZYGOTE_BACKOFF_SECONDS_MAX, 0.1 * 2**self._zygote_failures)
            self._zygote_failures += 1
            node.reactor.call_at(time.monotonic() + delay, self._start_zygote)

    def _start_zygote(self) -> None:
        node = self.node
        if node.ending:
            return
        try:
            node.forks.start()
        except OSError as error:
            node.log(f"the zygote cannot be started: {error}")
            node.reactor.call_at(time.monotonic() + ZYGOTE_BACKOFF_SECONDS_MAX, self._start_zygote)
            return
        self.watch()
        node.do(node.machine.tick)
