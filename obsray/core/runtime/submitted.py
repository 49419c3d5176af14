"""What was submitted and is not recorded yet: equal calls in a row become one record."""

from __future__ import annotations

from typing import Any

from obsray.ids import NIL_TASK, owner_of, task_id
from obsray.telemetry.events import TaskType

#: A run is closed when it is this old: the times of its tasks are given back evenly spread over it.
RUN_NS_MAX = 1_000_000


class SubmittedRun:
    """The calls of one process since its last record about them, if they could all be told in one.

    Calls belong together if they are of one ``Plan``, from one place, to one actor or none, without references among
    their arguments, and numbered without a gap. Whoever sends anything or ends a task says ``flush`` before, so what
    others hear of has been recorded; a process killed within ``RUN_NS_MAX`` of a call that nobody heard of takes that
    call's record with it. Guarded by the session's lock.
    """

    __slots__ = ("_actor", "_argument_bytes", "_first", "_first_at", "_last_at", "_next", "_plan", "_running",
                 "_start", "_trace", "_type", "_until", "emitter", "job", "open")  # fmt: skip

    def __init__(self, emitter: Any, job: int) -> None:
        self.emitter = emitter
        self.job = job
        #: Whether there is anything to record.
        self.open = False
        self._plan: Any = None
        self._running: Any = None
        self._actor: bytes | None = None
        self._trace: bytes | None = None
        self._type = TaskType.TASK
        self._first = b""
        self._first_at = self._last_at = self._until = 0
        self._start = self._next = 0
        self._argument_bytes = 0

    def add(
        self, time_ns: int, number: int, identifier: bytes, plan: Any, running: Any, trace: bytes | None, actor: bytes,
        kind: TaskType, argument_bytes: int,
    ) -> None:  # fmt: skip
        """One more call. ``trace`` is the one it belongs to, None if it starts its own."""
        if (
            number == self._next
            and plan is self._plan
            and running is self._running
            and actor is self._actor
            and trace is self._trace
            and time_ns < self._until
        ):
            self._next = number + 1
            self._last_at = time_ns
            self._argument_bytes += argument_bytes
            return
        self.flush()
        self.open = True
        self._plan, self._running, self._trace, self._actor, self._type = plan, running, trace, actor, kind
        self._first, self._start, self._next = identifier, number, number + 1
        self._first_at = self._last_at = time_ns
        self._until = time_ns + RUN_NS_MAX
        self._argument_bytes = argument_bytes

    def tasks(self) -> set[bytes]:
        """The tasks that are not recorded yet."""
        if not self.open:
            return set()
        owner = owner_of(self._first)
        return {task_id(owner, number) for number in range(self._start, self._next)}

    def flush(self) -> None:
        """Record what was submitted since the last time."""
        if not self.open:
            return
        self.open = False
        count, plan, running = self._next - self._start, self._plan, self._running
        self._next, self._plan, self._running = 0, None, None
        parent = NIL_TASK if running is None else running.task
        shape = plan.shape.name_number if plan.shape is not None else 0
        if count == 1:
            self.emitter.task_submitted(
                self._first_at, self._first, parent, self._trace or self._first, self._actor, plan.name_number, shape,
                self.job, 0, 0, self._type, plan.retries, self._argument_bytes,
            )  # fmt: skip
            return
        self.emitter.tasks_submitted(
            self._last_at, self._first, parent, self._trace or NIL_TASK, self._actor, plan.name_number, shape,
            self.job, count, self._type, plan.retries, self._argument_bytes, self._first_at,
        )  # fmt: skip
