"""The states of all things, rebuilt from the events alone: what an observer would believe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obsray.core.protocol.lifecycle import ActorState, GroupState, ObjectState, TaskState, WorkerState
from obsray.ids import owner_of, sequence_of, task_id
from obsray.telemetry.events import BY_NAME, LeaseOutcome, Outcome

_ENDED = {Outcome.OK: TaskState.FINISHED, Outcome.CANCELLED: TaskState.CANCELLED}
_POSITION = {(event.name, field.name): index for event in BY_NAME.values() for index, field in enumerate(event.fields)}


class Contradiction(AssertionError):
    """The events tell something that cannot be."""


class NodeTables:
    """What the events of one node tell of its things."""

    def __init__(self) -> None:
        self.actors: dict[bytes, ActorState] = {}
        self.objects: dict[bytes, ObjectState] = {}
        self.workers: dict[bytes, WorkerState] = {}
        self.leases: dict[int, bytes] = {}
        self.groups: dict[bytes, GroupState] = {}
        #: (group, index of the bundle) that have a share of some node.
        self.bundles: set[tuple[bytes, int]] = set()
        self.folds: dict[str, Callable[[tuple[Any, ...]], None]] = {
            "actor_created": lambda row: self._set(self.actors, row[0], ActorState.PENDING_CREATION),
            "actor_alive": lambda row: self._set(self.actors, row[0], ActorState.ALIVE),
            "actor_restarting": lambda row: self._set(self.actors, row[0], ActorState.RESTARTING),
            "actor_died": lambda row: self._set(self.actors, row[0], ActorState.DEAD),
            "object_created": lambda row: self._set(self.objects, row[0], ObjectState.CREATED),
            "object_sealed": lambda row: self._set(self.objects, row[0], ObjectState.SEALED),
            "object_spilling": lambda row: self._set(self.objects, row[0], ObjectState.SPILLING),
            "object_spill_stopped": lambda row: self._set(self.objects, row[0], ObjectState.SEALED),
            "object_restoring": lambda row: self._set(self.objects, row[0], ObjectState.RESTORING),
            "object_spilled": lambda row: self._set(self.objects, row[0], ObjectState.SPILLED),
            "object_restored": lambda row: self._set(self.objects, row[0], ObjectState.SEALED),
            "object_lost": self._lost,
            "object_freed": lambda row: self._forget(self.objects, row[0]),
            "transfer_done": lambda row: self._set(self.objects, row[0], ObjectState.SEALED),
            "object_copy_dropped": lambda row: self._forget(self.objects, row[0]),
            "worker_starting": lambda row: self._set(self.workers, row[0], WorkerState.STARTING),
            "worker_registered": lambda row: self._set(self.workers, row[0], WorkerState.IDLE),
            "worker_died": lambda row: self._forget(self.workers, row[0]),
            "group_requested": lambda row: self._set(self.groups, row[0], GroupState.PENDING),
            "group_prepared": lambda row: self._set(self.groups, row[0], GroupState.PREPARED),
            "group_created": lambda row: self._set(self.groups, row[0], GroupState.CREATED),
            "group_rescheduling": lambda row: self._set(self.groups, row[0], GroupState.RESCHEDULING),
            "group_removed": lambda row: self._set(self.groups, row[0], GroupState.REMOVED),
            "bundle_placed": lambda row: self.bundles.add(row[:2]),
            "bundle_released": lambda row: self.bundles.discard(row[:2]),
            "lease_decided": self._decided,
            "lease_returned": lambda row: self._forget(self.leases, row[0]),
        }

    @staticmethod
    def _set(table: dict[Any, Any], key: Any, state: Any) -> None:
        table[key] = state

    @staticmethod
    def _forget(table: dict[Any, Any], key: Any) -> None:
        table.pop(key, None)

    def _lost(self, row: tuple[Any, ...]) -> None:
        # The home of an object says this also of what never lay there.
        if row[0] in self.objects:
            self.objects[row[0]] = ObjectState.LOST

    def _decided(self, row: tuple[Any, ...]) -> None:
        granted = row[_POSITION["lease_decided", "outcome"]] == LeaseOutcome.GRANTED
        # A group that is placed has no lease.
        if granted and row[_POSITION["lease_decided", "lease"]]:
            self.leases[row[_POSITION["lease_decided", "lease"]]] = row[_POSITION["lease_decided", "worker"]]


class Replay:
    """Fold the rows of an ``EventLog`` one by one.

    A batch that is dispatched names only its first task, so a task in line and one at a worker are both QUEUED here.
    """

    def __init__(self) -> None:
        #: Node -> what it told of its own things.
        self.nodes: dict[bytes, NodeTables] = {}
        #: owner -> its tasks that have not ended, with their states.
        self.open: dict[bytes, dict[bytes, TaskState]] = {}
        #: Tasks that have ended, with how.
        self.ended: dict[bytes, TaskState] = {}
        self.attempts: dict[bytes, int] = {}
        self._last: dict[bytes, int] = {}
        self.counts: dict[str, int] = {}
        self._folds: dict[str, Callable[[bytes, tuple[Any, ...]], None]] = {
            "task_submitted": self._submitted,
            "tasks_submitted": self._many_submitted,
            "task_ready": self._ready,
            "task_arguments_waiting": self._waiting,
            "task_retried": self._retried,
            "task_finished": self._finished,
            "tasks_finished": self._many_finished,
        }

    def fold(self, process: bytes, name: str, row: tuple[Any, ...]) -> None:
        """One more event. Raises Contradiction if it cannot follow what came before."""
        self.counts[name] = self.counts.get(name, 0) + 1
        fold = self._folds.get(name)
        if fold is not None:
            fold(process, row)
        elif process in self.nodes:
            node_fold = self.nodes[process].folds.get(name)
            if node_fold is not None:
                node_fold(row)

    # --- tasks -----------------------------------------------------------------------------------------------

    def _submitted(self, process: bytes, row: tuple[Any, ...]) -> None:
        task, unready = row[0], row[_POSITION["task_submitted", "unready_arguments"]]
        if owner_of(task) != process:
            raise Contradiction(f"{process.hex()} submitted {task.hex()}, which is not its own")
        if task in self.ended or task in self.open.setdefault(process, {}):
            raise Contradiction(f"{task.hex()} was submitted twice")
        self.open[process][task] = TaskState.WAITING_ARGUMENTS if unready else TaskState.QUEUED

    def _many_submitted(self, process: bytes, row: tuple[Any, ...]) -> None:
        first, count = row[0], row[_POSITION["tasks_submitted", "tasks"]]
        unready = [0] * (_POSITION["task_submitted", "unready_arguments"] + 1)
        for sequence in range(sequence_of(first), sequence_of(first) + count):
            self._submitted(process, (task_id(owner_of(first), sequence), *unready[1:]))

    def _known(self, process: bytes, task: bytes, event: str) -> dict[bytes, TaskState]:
        mine = self.open.get(process, {})
        if task not in mine:
            how = f"ended as {self.ended[task].name}" if task in self.ended else "was never submitted"
            raise Contradiction(f"{event} of {task.hex()}, which {how}")
        return mine

    def _ready(self, process: bytes, row: tuple[Any, ...]) -> None:
        self._known(process, row[0], "task_ready")[row[0]] = TaskState.QUEUED

    def _waiting(self, process: bytes, row: tuple[Any, ...]) -> None:
        self._known(process, row[0], "task_arguments_waiting")[row[0]] = TaskState.WAITING_ARGUMENTS

    def _retried(self, process: bytes, row: tuple[Any, ...]) -> None:
        task, attempt, outcome = row[:3]
        if outcome == Outcome.RESULT_LOST:
            # It had ended, and runs once more.
            if self.ended.pop(task, None) is not TaskState.FINISHED:
                raise Contradiction(f"a result of {task.hex()} was lost, which has not finished")
            self.open[process][task] = TaskState.QUEUED
            self.attempts[task] = self._last.pop(task, 0)
        self._known(process, task, "task_retried")
        if attempt != self.attempts.get(task, 0):
            raise Contradiction(f"attempt {attempt} of {task.hex()} is retried after {self.attempts.get(task, 0)}")
        self.attempts[task] = attempt + 1

    def _finished(self, process: bytes, row: tuple[Any, ...]) -> None:
        task, attempt, outcome = row[:3]
        mine = self._known(process, task, "task_finished")
        if attempt:
            self._last[task] = attempt
        if attempt != self.attempts.pop(task, 0):
            raise Contradiction(f"{task.hex()} ended with attempt {attempt}, which is not its last")
        del mine[task]
        self.ended[task] = _ENDED.get(Outcome(outcome), TaskState.FAILED)

    def _many_finished(self, process: bytes, row: tuple[Any, ...]) -> None:
        first, count = row[:2]
        for sequence in range(sequence_of(first), sequence_of(first) + count):
            self._finished(process, (task_id(owner_of(first), sequence), 0, Outcome.OK))
