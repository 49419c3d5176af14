"""What virtual actors save and write down, as `core/runtime/checkpoints.py`, on a disk that outlives processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obsray.core.runtime.running import Running
from obsray.testing.agenda import MICROSECOND_NS
from obsray.testing.programs import Sleep, Steps, Value

if TYPE_CHECKING:
    from obsray.testing.virtual_worker import VirtualExecutor


class Saved:
    """The disk of one actor: its newest state and what ended since. ``answers``: repeated calls, part of the state."""

    def __init__(self) -> None:
        self.number = 0
        self.state: dict[str, Any] = {}
        self.answers: dict[bytes, Value] = {}
        self.calls: list[tuple[bytes, int, Value]] = []


class VirtualCheckpoints:
    """The checkpoints of one actor in its virtual worker, which runs ``Counter.add`` only."""

    def __init__(self, executor: VirtualExecutor, actor: bytes, every: int) -> None:
        self.executor = executor
        self.actor = actor
        self.every = every
        self.disk: Saved = executor.simulator.checkpoints.setdefault(actor, Saved())
        self.answers: dict[bytes, Value] = {}

    def restore(self, incarnation: int) -> Steps[None]:
        """Become what the actor was: its state, then the calls since, in order. It may die while it does."""
        executor, disk, instance = self.executor, self.disk, self.executor.instance
        assert instance is not None
        instance |= disk.state
        self.answers = dict(disk.answers)
        for task, number, _ in disk.calls:
            yield Sleep(20 * MICROSECOND_NS)
            instance["total"] += number
            self.answers[task] = Value(instance["total"])
        executor.process.records.actor_restored(
            executor.clock.time_ns(),
            self.actor,
            executor.process.id,
            disk.number,
            len(disk.calls),
            0,
            0.0,
            incarnation,
        )

    def ended(self, running: Running, number: int, value: Value) -> None:
        """A call has ended and its result has not left."""
        self.disk.calls.append((running.task, number, value))

    def save_if_due(self) -> None:
        """Save the state if so many calls have ended, once their results have left."""
        executor, disk, instance = self.executor, self.disk, self.executor.instance
        if instance is None or len(disk.calls) < self.every:
            return
        executor.process.send_everything()
        disk.number += 1
        disk.state, disk.answers = dict(instance), dict(self.answers)
        executor.process.records.actor_checkpoint_saved(
            executor.clock.time_ns(), self.actor, executor.process.id, disk.number, len(disk.calls), 0, 0.0
        )
        disk.calls = []
