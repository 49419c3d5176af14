"""Shell: what a dead process leaves behind: what it ran, its last words, whether the kernel killed it for memory."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from obsray.core.node.entries import show_bytes
from obsray.core.node.workers import SIGNAL_KILL, Ended
from obsray.core.system.cgroup import Cgroup
from obsray.core.system.processes import wait_status
from obsray.ids import NIL_TASK
from obsray.telemetry.spine import read_ran

TAIL_LINES = 20
TAIL_BYTES_MAX = 16_384
#: How what the interpreter writes begins when its process crashes (``faulthandler``).
CRASH = "Fatal Python error: "
#: What a thread of its stack runs that is the user's was called by this.
CALLS_USER_CODE = " in call_user_code"
LINES_BEFORE_CRASH = 5
#: So long after the kernel has killed for memory, a death by SIGKILL is taken for that. What explains no worker's
#: death by then was another process of the control group.
EXPLAINS_SECONDS = 10.0


class MemoryKills:
    """The kernel's kills for memory in this control group. It says how many, not whom, so each explains one death."""

    def __init__(self, group: Cgroup, clock: Callable[[], float] = time.monotonic) -> None:
        self._group, self._clock = group, clock
        self._counted = group.oom_kills() or 0
        #: When those were noticed that explain no death yet.
        self._open: deque[float] = deque(maxlen=1000)

    def look(self) -> None:
        """Notice new ones, and forget those that explain nothing any more."""
        now, counted = self._clock(), self._group.oom_kills() or 0
        if counted > self._counted:
            self._open.extend([now] * min(counted - self._counted, 1000))
            self._counted = counted
        while self._open and now - self._open[0] > EXPLAINS_SECONDS:
            self._open.popleft()

    def explains(self) -> bool:
        """Whether a process that ended by SIGKILL, which the node did not send, was killed for memory."""
        self.look()
        if self._open:
            self._open.popleft()
            return True
        return False


class BlackBox:
    """Reads it."""

    def __init__(self, session: Path, group: Cgroup | None = None) -> None:
        self._rings = session / "rings"
        self._logs = session / "logs"
        self._group = group or Cgroup()
        self.memory_kills = MemoryKills(self._group)
        #: Given up for the time of a reading: processes die also when no descriptor is left.
        self._spare = _spare()

    def read(
        self, worker: bytes, pid: int, status: int, rss_bytes: int, own_kill: bool = False, parent_died: str = ""
    ) -> Ended:
        """The facts about the death of ``worker``. ``own_kill``: the node has sent it SIGKILL; ``parent_died``: how
        the process ended with which it died."""
        if self._spare >= 0:
            os.close(self._spare)
        try:
            return self._read(worker, pid, status, rss_bytes, own_kill, parent_died)
        finally:
            self._spare = _spare()

    def _read(self, worker: bytes, pid: int, status: int, rss_bytes: int, own_kill: bool, parent_died: str) -> Ended:
        exit_code, signal = wait_status(status)
        try:
            ran = read_ran(self._rings, worker)
        except OSError:
            ran = None
        # Known to have run nothing is another thing than not known.
        ran = [(NIL_TASK, 0)] if ran == [] else ran or []
        started, attempts = tuple(task for task, _ in ran), tuple(attempt for _, attempt in ran)
        last = started[0] if started else NIL_TASK
        # A kill of the node's own must not use up one of the kernel's, which another death may be due to.
        oom = self._oom(rss_bytes) if signal == SIGNAL_KILL and not own_kill and not parent_died else ""
        tail = self.tail(worker) if status else ""
        return Ended(worker, pid, exit_code, signal, rss_bytes, oom, parent_died, started, last, tail, attempts)

    def _oom(self, rss_bytes: int) -> str:
        if not self.memory_kills.explains():
            return ""
        limit = self._group.memory_limit_bytes()
        text = f"killed by the kernel for memory: it held {show_bytes(rss_bytes)} at its peak"
        return text if limit is None else f"{text}, the limit of the container is {show_bytes(limit)}"

    def tail(self, worker: bytes) -> str:
        """The last lines that the process wrote to its error output: of a crash, the lines that say where."""
        try:
            fd = os.open(self._logs / f"worker-{worker.hex()}.err", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            size = os.fstat(fd).st_size
            data = os.pread(fd, TAIL_BYTES_MAX, max(0, size - TAIL_BYTES_MAX))
        finally:
            os.close(fd)
        return "\n".join(_telling(data.decode("utf-8", "replace").splitlines()))


def _telling(lines: list[str]) -> list[str]:
    """Of what the interpreter writes when it crashes (the newest call first), what is above the user's code tells
    nothing, and neither do the extension modules; of other output the last lines tell most."""
    crash = next((at for at in range(len(lines) - 1, -1, -1) if lines[at].startswith(CRASH)), None)
    if crash is None:
        return lines[-TAIL_LINES:]
    before, told = lines[max(0, crash - LINES_BEFORE_CRASH) : crash], []
    for line in lines[crash:]:
        if line.endswith(CALLS_USER_CODE) or line.startswith("Extension modules: "):
            break
        told.append(line)
    while told and not told[-1].strip():
        told.pop()
    return before + told[:TAIL_LINES]


def _spare() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
