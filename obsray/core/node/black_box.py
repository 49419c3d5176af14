"""Shell: what a dead process leaves behind: what it ran, its last words, whether the kernel killed it for memory."""

from __future__ import annotations

import os
from pathlib import Path

from obsray.core.node.entries import show_bytes
from obsray.core.node.workers import SIGNAL_KILL, Ended
from obsray.core.system.cgroup import Cgroup
from obsray.core.system.processes import wait_status
from obsray.ids import NIL_TASK
from obsray.telemetry.spine import read_ran

TAIL_LINES = 20
TAIL_BYTES_MAX = 16_384


class BlackBox:
    """Reads it. Counts the kernel's memory kills, so that each explains one death."""

    def __init__(self, session: Path) -> None:
        self._rings = session / "rings"
        self._logs = session / "logs"
        self._group = Cgroup()
        self._kills_explained = self._group.oom_kills() or 0
        #: Given up for the time of a reading: processes die also when no descriptor is left.
        self._spare = _spare()

    def read(self, worker: bytes, pid: int, status: int, rss_bytes: int) -> Ended:
        """The facts about the death of ``worker``."""
        if self._spare >= 0:
            os.close(self._spare)
        try:
            return self._read(worker, pid, status, rss_bytes)
        finally:
            self._spare = _spare()

    def _read(self, worker: bytes, pid: int, status: int, rss_bytes: int) -> Ended:
        exit_code, signal = wait_status(status)
        try:
            ran = read_ran(self._rings, worker)
        except OSError:
            ran = None
        # Known to have run nothing is another thing than not known.
        ran = [(NIL_TASK, 0)] if ran == [] else ran or []
        started, attempts = tuple(task for task, _ in ran), tuple(attempt for _, attempt in ran)
        last = started[0] if started else NIL_TASK
        oom = self._oom(rss_bytes) if signal == SIGNAL_KILL else ""
        tail = self.tail(worker) if status else ""
        return Ended(worker, pid, exit_code, signal, rss_bytes, oom, False, started, last, tail, attempts)

    def _oom(self, rss_bytes: int) -> str:
        kills = self._group.oom_kills()
        if kills is None or kills <= self._kills_explained:
            return ""
        self._kills_explained += 1
        limit = self._group.memory_limit_bytes()
        text = f"killed by the kernel for memory: it held {show_bytes(rss_bytes)} at its peak"
        return text if limit is None else f"{text}, the limit of the container is {show_bytes(limit)}"

    def tail(self, worker: bytes) -> str:
        """The last lines that the process wrote to its error output."""
        try:
            fd = os.open(self._logs / f"worker-{worker.hex()}.err", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            size = os.fstat(fd).st_size
            data = os.pread(fd, TAIL_BYTES_MAX, max(0, size - TAIL_BYTES_MAX))
        finally:
            os.close(fd)
        return "\n".join(data.decode("utf-8", "replace").splitlines()[-TAIL_LINES:])


def _spare() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
