"""Machine: when memory is about to run out, which worker is killed so that the kernel does not choose.

One at a time, and only those that hold enough for it to help: first tasks that will run again, of those the one that
began last, because it loses least; then tasks that will not; then actors that may start again; at the very last others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import NamedTuple

from obsray.core.node.entries import show_bytes
from obsray.core.node.step import Step
from obsray.core.node.workers import Worker, WorkerPool
from obsray.telemetry.events import DeathCause

#: Whoever holds less is left alone: it would be killed for nothing.
HELD_BYTES_MIN = 32 << 20
#: The memory of a dead process is free a moment later.
PAUSE_SECONDS = 0.5


class Loss(IntEnum):
    """What is lost with a worker, the least first."""

    TASK_THAT_RUNS_AGAIN = 0
    TASK = 1
    ACTOR_THAT_STARTS_AGAIN = 2
    ACTOR = 3


class Candidate(NamedTuple):
    """A worker that could be killed; ``began_at`` only compares."""

    worker: Worker
    loss: Loss
    began_at: float
    held_bytes: int
    task: bytes


class Usage(NamedTuple):
    """Memory in use where it is scarcest. ``whose``: "container" or "machine"."""

    used_bytes: int
    limit_bytes: int
    whose: str


class MemoryGuard:
    """``ratio_max``: the share of the limit beyond which a worker is killed."""

    def __init__(self, pool: WorkerPool, ratio_max: float) -> None:
        self.ratio_max = ratio_max
        self._pool = pool
        self._victim = b""
        self._not_before = 0.0
        #: How many workers have been killed for memory.
        self.kills = 0

    def look(self, step: Step, usage: Usage, candidates: Callable[[], Iterable[Candidate]]) -> None:
        """Memory was measured. ``candidates`` is asked only if somebody must go."""
        if usage.used_bytes <= self.ratio_max * usage.limit_bytes or step.now < self._not_before:
            return
        if self._victim in self._pool.workers:
            # It is being killed; what it holds is not free yet.
            return
        self._not_before = step.now + PAUSE_SECONDS
        found = [one for one in candidates() if one.held_bytes >= HELD_BYTES_MIN and not one.worker.killed]
        if not found:
            step.emit.memory_pressure(
                step.time_ns, b"", b"", usage.used_bytes, usage.limit_bytes, 0,
                step.emit.intern("no worker holds enough to help"),
            )  # fmt: skip
            return
        chosen = max(found, key=lambda one: (-one.loss, one.began_at, one.worker.id))
        why = _why(usage, self.ratio_max, chosen, found)
        self._victim = chosen.worker.id
        self.kills += 1
        step.emit.memory_pressure(
            step.time_ns, chosen.worker.id, chosen.task, usage.used_bytes, usage.limit_bytes, chosen.held_bytes,
            step.emit.intern(why),
        )  # fmt: skip
        self._pool.kill(step, chosen.worker, DeathCause.OOM, why)


def _why(usage: Usage, ratio_max: float, chosen: Candidate, found: list[Candidate]) -> str:
    alike = sum(one.loss is chosen.loss for one in found)
    what = chosen.loss.name.lower().replace("_", " ")
    among = f"it was the newest {what}" + (f" of {alike}" if alike > 1 else "")
    return (
        f"{show_bytes(usage.used_bytes)} of {show_bytes(usage.limit_bytes)} of the {usage.whose} were in use, more "
        f"than memory_usage_ratio_max ({ratio_max:g}); it held {show_bytes(chosen.held_bytes)}, and {among}"
    )
