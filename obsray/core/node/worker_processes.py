"""Shell: worker processes as the zygote reports them, and the zygote itself, which is started again if it dies."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from obsray.core.node.black_box import BlackBox
from obsray.core.node.services import wait_all
from obsray.core.node.workers import SIGNAL_KILL
from obsray.core.protocol.lifecycle import WorkerState
from obsray.core.system.processes import kill_marked, reap, wait_status
from obsray.telemetry.events import signal_text

if TYPE_CHECKING:
    from obsray.core.node.shell import Node

#: A dead worker's link is read to its end first; if somebody else keeps it open, only this long.
LAST_WORDS_SECONDS = 0.1
ZYGOTE_BACKOFF_SECONDS_MAX = 30.0
#: A zygote that died is gone after this time, unless it is frozen.
END_SECONDS_MAX = 1.0
DESCENDANTS_AGAIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _End:
    """How a worker ended whose last words may still come. ``parent_died`` is as in ``Ended``."""

    pid: int
    status: int
    rss_bytes: int = 0
    parent_died: str = ""


class WorkerProcesses:
    """Those of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.black_box = BlackBox(node.session)
        #: Workers that have ended and whose links may still hold their last words.
        self._dying: dict[bytes, _End] = {}
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
                    self._worker_ended(worker, _End(pid, status, rss_bytes))

    def _worker_ended(self, worker: bytes, end: _End) -> None:
        node = self.node
        self._dying[worker] = end
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
        told = self._dying.pop(worker)
        self._remove_socket(worker)
        known = node.machine.pool.workers.get(worker)
        killed_here = known is not None and known.killed_here
        end = self.black_box.read(worker, told.pid, told.status, told.rss_bytes, killed_here, told.parent_died)
        if known is not None and known.state is WorkerState.STARTING and not told.parent_died:
            how = _how(told.status)
            node.log(f"worker {worker.hex()} (pid {told.pid}) ended before it said hello: {how}\n{end.tail}".rstrip())
        node.do(node.machine.worker_ended, end)

    def _remove_socket(self, worker: bytes) -> None:
        node = self.node
        (node.session / "sockets" / f"{worker.hex()}.sock").unlink(missing_ok=True)

    def zygote_died(self) -> None:
        """It is gone, or as good as gone, and its workers with it: tell the machine, and start another one."""
        node, pid = self.node, self.node.forks.pid
        assert node.forks.socket is not None
        node.reactor.forget(node.forks.socket.fileno())
        gone = node.forks.lost()
        zygote = wait_all([pid], END_SECONDS_MAX, node.log)
        how = f"pid {pid}: {_how(zygote[pid]) if pid in zygote else 'it does not end'}"
        node.log(f"the zygote ({how}) died with {len(gone)} workers")
        # They end with it, but for those that are frozen; what user code has started in them does not.
        self._kill_descendants(pid, node.forks.mark)
        for worker, worker_pid in gone.items():
            self._worker_ended(worker, _End(worker_pid, SIGNAL_KILL, parent_died=how))
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

    def _kill_descendants(self, zygote: int, mark: str, pause: float = DESCENDANTS_AGAIN_SECONDS) -> None:
        """Kill what a dead zygote and its workers have started, again until there is none: the frozen end later."""
        if kill_marked(mark):
            longer = min(2 * pause, ZYGOTE_BACKOFF_SECONDS_MAX)
            again = time.monotonic() + pause
            self.node.reactor.call_at(again, lambda: self._kill_descendants(zygote, mark, longer))
        reap(zygote)


def _how(status: int) -> str:
    exit_code, number = wait_status(status)
    return signal_text(number) if number else f"exit code {exit_code}"
