"""Shell: looks how much memory is in use, and what each worker holds, for ``pressure.py``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from obsray.core.node.pressure import Candidate, Loss, MemoryGuard, Usage
from obsray.core.protocol.lifecycle import WorkerState
from obsray.core.system.cgroup import Cgroup
from obsray.ids import NIL_TASK
from obsray.telemetry.spine import read_final

if TYPE_CHECKING:
    from obsray.core.node.shell import Node

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Looks every ``memory_check_seconds`` from ``start`` on; 0 is never."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._group = Cgroup()
        self.guard = MemoryGuard(node.machine.pool, node.config.memory_usage_ratio_max)

    def start(self) -> None:
        """Look now, and again and again."""
        seconds = self._node.config.memory_check_seconds
        if seconds > 0 and not self._node.ending:
            self._look()
            self._node.reactor.call_at(time.monotonic() + seconds, self.start)

    def _look(self) -> None:
        self._node.processes.black_box.memory_kills.look()
        usage = self.usage()
        if usage is not None:
            self._node.do(self.guard.look, usage, self.candidates)

    def usage(self) -> Usage | None:
        """Where memory is scarcest: in a container with a limit, or on the machine. None where nobody says so."""
        found = self._group.memory_pressure()
        usages = [Usage(*found, "container")] if found is not None else []
        facts = _meminfo()
        if "MemTotal" in facts and "MemAvailable" in facts:
            usages.append(Usage(facts["MemTotal"] - facts["MemAvailable"], facts["MemTotal"], "machine"))
        return max(usages, key=lambda usage: usage.used_bytes / usage.limit_bytes, default=None)

    def candidates(self) -> Iterator[Candidate]:
        """Workers that run something, and what would be lost with each."""
        machine, rings = self._node.machine, self._node.session / "rings"
        actors = {actor.worker: actor for actor in machine.actors.actors.values()}
        for worker in machine.pool.workers.values():
            if worker.state not in (WorkerState.LEASED, WorkerState.ACTOR) or not worker.pid:
                continue
            running = read_final(rings, worker.id)
            task, began_at = (running[0][0], running[0][1]) if running else (NIL_TASK, 0)
            if worker.state is WorkerState.ACTOR:
                actor = actors.get(worker.id)
                again = actor is not None and actor.restarts_max != 0
                loss = Loss.ACTOR_THAT_STARTS_AGAIN if again else Loss.ACTOR
            else:
                loss = Loss.TASK if any(final for _, _, final in running) else Loss.TASK_THAT_RUNS_AGAIN
            yield Candidate(worker, loss, began_at, held_bytes(worker.pid), task)


def held_bytes(pid: int) -> int:
    """Memory that is this process' own: without what it shares, as objects of the store."""
    try:
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    except (OSError, ValueError):
        return 0
    return max(0, int(resident) - int(shared)) * _PAGE_BYTES


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()[:5]
    except OSError:
        return {}
    words = [line.replace(":", "").split() for line in lines]
    return {each[0]: int(each[1]) * 1024 for each in words if len(each) == 3 and each[1].isdigit()}
