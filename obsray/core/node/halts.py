"""Machine: processes of this node that stand still, which is not to be dead, and what is done about it.

Nobody can know of a process that stands still whether it will ever go on. It keeps what it has, nothing new is given to
it, and everybody can read since when. What runs user code is left alone: whoever stopped it may have stopped it to look
at it. The processes beside the node serve everybody, so one that was stopped is woken after a while, as one that was
killed is started again. The zygote has nothing to do but to answer: one that somebody stopped is woken when it is
needed, one that owes an answer for too long is replaced. What a debugger holds cannot be woken, and is not killed.

Invariant: a halt is told once, and its end once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from obsray.core.node.step import Step
from obsray.core.node.workers import WorkerPool
from obsray.telemetry.halts import STOPPED

ZYGOTE = "zygote"
#: A zygote that is needed and stopped is woken after so long.
WAKE_SECONDS = 2.0
#: One that is not stopped and owes an answer for so long is said to stand still.
SILENT_SECONDS = 20.0
#: One that has only been started may take so long at least, whatever the setting says.
START_SECONDS_MAX = 60.0
#: A longer time between two looks is one in which this node itself did not run: it counts as so long.
LOOK_SECONDS_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it was found. ``worker``: its id, zeros if it has none. ``how``: why it stands still, else "".
    ``service``: it serves the node and those who look at it."""

    pid: int
    name: str
    worker: bytes
    how: str = ""
    service: bool = False


class Remedy(Enum):
    """What to do about a process."""

    NONE = 0
    WAKE = 1
    REPLACE = 2


class Halts:
    """``silent_seconds_max``: so long the zygote may owe an answer before it is replaced; ``service_seconds_max``: so
    long a service may be stopped before it is woken (0: for ever)."""

    def __init__(self, pool: WorkerPool, silent_seconds_max: float, service_seconds_max: float = 0.0) -> None:
        self._pool = pool
        self._silent_seconds_max = silent_seconds_max
        self._service_seconds_max = service_seconds_max
        #: Those that stand still, by pid, and since when (monotonic).
        self.halted: dict[int, tuple[Seen, float]] = {}
        #: Of these, those that were woken, and when they last were.
        self._woken: dict[int, float] = {}
        self._owes_seconds = 0.0
        self._looked_at: float | None = None

    def look(
        self, step: Step, processes: Iterable[Seen], owes: bool, starting: bool = False
    ) -> list[tuple[Seen, Remedy]]:
        """Tell what has changed; what is to be done. ``processes``: all that there are; ``owes``: the zygote has not
        answered yet, and ``starting``: it never has."""
        zygote = self._zygote_owes(step, owes, starting)
        here: set[int] = set()
        found: list[tuple[Seen, Remedy]] = []
        for seen in processes:
            here.add(seen.pid)
            remedy = Remedy.NONE
            if seen.name == ZYGOTE:
                seen, remedy = self._judged(seen, zygote)
            known = seen.pid in self.halted
            if seen.how and not known:
                self._halt(step, seen)
            elif known and not seen.how:
                self.resume(step, seen.pid, "its node woke it" if seen.pid in self._woken else "it goes on")
            if seen.service and seen.how == STOPPED:
                remedy = self._service(step, seen.pid)
            if remedy is Remedy.WAKE:
                self._woken[seen.pid] = step.now
            if remedy is not Remedy.NONE:
                found.append((seen, remedy))
        for pid in [pid for pid in self.halted if pid not in here]:
            self.resume(step, pid, "it has ended")
        return found

    def _service(self, step: Step, pid: int) -> Remedy:
        since = self._woken.get(pid, self.halted[pid][1])
        over = 0.0 < self._service_seconds_max <= step.now - since
        return Remedy.WAKE if over else Remedy.NONE

    def _zygote_owes(self, step: Step, owes: bool, starting: bool) -> Remedy:
        looked_at, self._looked_at = self._looked_at, step.now
        passed = 0.0 if looked_at is None else min(step.now - looked_at, LOOK_SECONDS_MAX)
        self._owes_seconds = self._owes_seconds + passed if owes else 0.0
        if self._owes_seconds >= max(self._silent_seconds_max, START_SECONDS_MAX if starting else 0.0):
            return Remedy.REPLACE
        return Remedy.WAKE if self._owes_seconds >= WAKE_SECONDS else Remedy.NONE

    def _judged(self, zygote: Seen, remedy: Remedy) -> tuple[Seen, Remedy]:
        """What is known of the zygote besides what was seen of it, and whether it is worth waking."""
        if zygote.how:
            wakes = remedy is not Remedy.WAKE or zygote.how == STOPPED
            return zygote, remedy if wakes else Remedy.NONE
        silent = self._owes_seconds >= min(SILENT_SECONDS, self._silent_seconds_max)
        how = f"it has not answered for {self._owes_seconds:.0f} s" if silent else ""
        return Seen(zygote.pid, zygote.name, zygote.worker, how), Remedy.NONE if remedy is Remedy.WAKE else remedy

    def _halt(self, step: Step, seen: Seen) -> None:
        self.halted[seen.pid] = seen, step.now
        self._mark(seen.worker, True)
        intern = step.emit.intern
        step.emit.process_halted(step.time_ns, seen.worker, seen.pid, intern(seen.name), intern(seen.how))

    def resume(self, step: Step, pid: int, why: str) -> None:
        """A process does not stand still any more; nothing happens if it did not."""
        if pid not in self.halted:
            return
        seen, since = self.halted.pop(pid)
        self._woken.pop(pid, None)
        self._mark(seen.worker, False)
        intern = step.emit.intern
        step.emit.process_resumed(
            step.time_ns, seen.worker, pid, intern(seen.name), step.now - since, intern(why)
        )  # fmt: skip

    def _mark(self, worker: bytes, halted: bool) -> None:
        known = self._pool.workers.get(worker)
        if known is not None:
            known.halted = halted

    def replaced(self, step: Step, pid: int) -> None:
        """The zygote is killed; another one comes."""
        self._owes_seconds = 0.0
        self.resume(step, pid, "it was killed, and another one is started")
