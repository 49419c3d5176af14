"""Machine: what becomes of a task whose attempt did not succeed: again, or an error that says why.

Tasks run at least once: an attempt that a worker's death interrupted is repeated ``max_retries`` times, an exception
of user code only if the caller asked for it. Calls of actors run at most once unless ``max_task_retries`` says
otherwise. An attempt counts only if the dead worker's own records say that it had begun.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from obsray.core.protocol.lifecycle import ActorState, TaskState, advance
from obsray.core.protocol.messages import WorkerDied
from obsray.core.runtime.ownership import Entry, Ownership, Task
from obsray.core.runtime.serialization import dump_error, needed_by
from obsray.errors import (
    ActorDiedError,
    ActorUnavailableError,
    NestedTooDeepError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskKilledError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from obsray.ids import NIL_TASK, NIL_WORKER, owner_of
from obsray.telemetry.events import DeathCause, Outcome, signal_text

#: How tasks, and calls of actors, end that their caller is told of although nobody asks: what ended an actor is told
#: of once, and not for each of its calls.
_NOBODY_ELSE_TELLS = (Outcome.APP_ERROR, Outcome.WORKER_DIED, Outcome.OOM, Outcome.NODE_DIED)
_OF_CALLS = (Outcome.APP_ERROR,)
_OUTCOMES_OF_DEATHS: dict[int, Outcome] = {
    DeathCause.OOM: Outcome.OOM, DeathCause.NODE_DIED: Outcome.NODE_DIED,
}  # fmt: skip
_KILLS: dict[int, str] = {
    DeathCause.KILLED_BY_REQUEST: "was killed on request", DeathCause.OWNER_DIED: "was killed",
    DeathCause.PARENT_DIED: "was killed",
}  # fmt: skip
#: How much of an error's text is kept with its event.
ERROR_TEXT_MAX = 2000
#: A task under which a second worker died waits so long before it runs again, each time twice as long.
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 5.0
#: The same for one that was killed for memory, from the first time on: others need the time to end.
OOM_PAUSE_SECONDS = 0.2


def describe_death(death: WorkerDied) -> str:
    """How a process ended, in words, from its wait status."""
    if death.cause == DeathCause.NODE_DIED:
        return f"worker {death.worker.hex()} was lost with its node: {death.detail}"
    if death.cause == DeathCause.OOM:
        how = f"was killed because it ran out of memory. {death.detail}".rstrip()
    elif death.cause in _KILLS:
        # What for says more than the signal that it was done with.
        how = f"{_KILLS[death.cause]}: {death.detail}" if death.detail else _KILLS[death.cause]
    elif death.signal:
        how = f"was killed by {signal_text(death.signal)}"
    else:
        how = f"exited with code {death.exit_code}"
    return f"worker {death.worker.hex()} (pid {death.pid}) {how}"


def ran_last(task: Task, death: WorkerDied) -> bool:
    """Whether the dead worker's records name this very attempt."""
    for identifier, attempt in zip_longest(death.started, death.attempts):
        if identifier == task.id and attempt in (task.attempt, None):
            return True
    return False


def tasks_begun(in_flight: list[Task], death: WorkerDied) -> int:
    """How many of a lease's tasks, in order, may have run: up to the one that ran last; one if nobody knows."""
    if death.cause == DeathCause.NODE_DIED:
        return len(in_flight)
    if not death.started:
        return min(1, len(in_flight))
    return max((index + 1 for index, task in enumerate(in_flight) if ran_last(task, death)), default=0)


def calls_begun(in_flight: list[Task], death: WorkerDied, caller: bytes, ordered: bool = True) -> int:
    """How many of the calls to an actor, in the order they were pushed, may have run.

    They run in that order, so all up to the one that ran last. If that was another caller's, nobody knows when it
    ran: all may have. ``ordered``: they were pushed in the order they were made.
    """
    if death.started and death.started[0] == NIL_TASK:
        return 0
    for last in death.started:
        if owner_of(last) == caller:
            return max(
                (i + 1 for i, task in enumerate(in_flight) if (ordered and task.id < last) or ran_last(task, death)),
                default=0,
            )
    return len(in_flight)


class Verdicts:
    """Ends or repeats the tasks of one process."""

    def __init__(self, ownership: Ownership, emitter: Any, clock_ns: Callable[[], int]) -> None:
        self.ownership = ownership
        self.emitter = emitter
        self.clock_ns = clock_ns
        #: Puts a task back in line; set by the dispatcher and the actor calls that own the lines.
        self.requeue: Callable[[Task], None] = lambda task: None
        #: task id -> what happened to it so far, only for tasks that something happened to.
        self.stories: dict[bytes, list[str]] = {}
        #: The same after a pause of so many seconds; set by the dispatcher.
        self.requeue_later: Callable[[Task, float], None] = lambda task, seconds: self.requeue(task)
        #: How often a task is run again because its worker was killed for memory, without that using up a retry.
        self.oom_retries_max = 0
        #: task id -> how many workers have died under it; only for tasks that lost one.
        self._deaths: dict[bytes, int] = {}
        self._oom_kills: dict[bytes, int] = {}
        #: Records what was submitted and is not recorded yet, before a task that may be part of it ends or is retried.
        self.before_told: Callable[[], None] = lambda: None

    def tell(self, task: Task, sentence: str) -> None:
        """Add a line to what an error about this task will say happened."""
        self.stories.setdefault(task.id, []).append(sentence)

    def failed(
        self, task: Task, outcome: int, error: bytes, extra: dict[str, Any] | None, worker: bytes, time_ns: int
    ) -> None:
        """A worker reported that an attempt failed."""
        if outcome == Outcome.CANCELLED and not task.cancelled:
            # Nobody asked for it: it says itself why.
            self.end(task, TaskState.CANCELLED, outcome, error)
        elif outcome == Outcome.CANCELLED:
            self.cancelled(task, begun=extra is not None and "begun" in extra)
        elif self.repeats(task, extra):
            self._again(task, outcome, worker, "its exception is one to retry")
        else:
            if outcome == Outcome.ACTOR_DIED and task.actor is not None:
                task.actor.leaving = True
            self.end(task, TaskState.FAILED, outcome, error)

    def repeats(self, task: Task, extra: dict[str, Any] | None) -> bool:
        """Whether an attempt that failed with an exception is followed by another."""
        return extra is not None and bool(extra.get("retry")) and not task.cancelled and task.retries_left != 0

    def crashed(self, task: Task, death: WorkerDied, begun: bool) -> None:
        """The worker that had this task died. ``begun``: the attempt may have run."""
        outcome = _OUTCOMES_OF_DEATHS.get(death.cause, Outcome.WORKER_DIED)
        sentence = describe_death(death)
        if task.cancelled:
            self.cancelled(task, killed=begun and task.actor is None)
            return
        if not begun:
            self.requeue(task)
            return
        self.tell(task, f"attempt {task.attempt}: {sentence}")
        if task.shape is not None and task.shape.refusal is not None:
            self.refused(task, *task.shape.refusal)
            return
        if task.retries_left != 0:
            if outcome is Outcome.OOM and self.oom_retries_max and task.actor is None:
                kills = self._oom_kills[task.id] = self._oom_kills.get(task.id, 0) + 1
                if kills <= self.oom_retries_max:
                    pause = min(PAUSE_SECONDS_MAX, OOM_PAUSE_SECONDS * 2 ** (kills - 1))
                    self._again(task, outcome, death.worker, sentence, pause, counts=False)
                    return
                sentence += f"; workers that ran it were killed for memory {kills} times (oom_retries_max)"
            else:
                # Those that had ended there, and of which no word came, did not end it.
                pause = self._pause(task) if not death.started or ran_last(task, death) else 0.0
                self._again(task, outcome, death.worker, sentence, pause)
                return
        message = f"{task.function.name} did not finish: {sentence}, and no retries are left"
        if death.tail:
            message += f"\n  its last output:\n{death.tail}"
        error: RayError
        if task.actor is not None:
            error = self._call_lost(task, sentence, death.cause)
            if isinstance(error, ActorUnavailableError):
                outcome = Outcome.ACTOR_UNAVAILABLE
        elif outcome is Outcome.OOM:
            error = OutOfMemoryError(message, task.id.hex())
        elif outcome is Outcome.NODE_DIED:
            error = NodeDiedError(message, task.id.hex())
        else:
            error = WorkerCrashedError(message, task.id.hex())
        self.end(task, TaskState.FAILED, outcome, self._with_story(task, error))

    def _call_lost(self, task: Task, sentence: str, cause: int) -> RayError:
        text, actor = f"{task.function.name}: {sentence} while the call was running", task.actor.id.hex()
        # Whoever would start it again is gone, which its caller may not have heard yet.
        if task.actor.state is ActorState.DEAD or cause == DeathCause.OWNER_DIED:
            return ActorDiedError(text, actor)
        return ActorUnavailableError(
            f"{text}; the actor starts again. The call may have had its effect; max_task_retries repeats such calls",
            actor,
        )

    def cut_off(self, task: Task, worker: bytes) -> None:
        """The connection to the actor of this call broke, and its process may live: the call may have run."""
        if task.cancelled:
            self.cancelled(task)
            return
        why = f"the connection to worker {worker.hex()} broke"
        self.tell(task, f"attempt {task.attempt}: {why}")
        if task.retries_left != 0:
            self._again(task, Outcome.ACTOR_UNAVAILABLE, worker, why)
            return
        text = f"{task.function.name}: {why} while the call was running"
        error = ActorUnavailableError(
            f"{text}. The call may have had its effect; max_task_retries repeats such calls", task.actor.id.hex()
        )
        self.end(task, TaskState.FAILED, Outcome.ACTOR_UNAVAILABLE, self._with_story(task, error))

    def unreachable(self, task: Task, worker: bytes, seconds: float) -> None:
        """The actor of this call, which waits in line, could not be reached for too long."""
        text = f"{task.function.name}: the actor's process, worker {worker.hex()}, could not be reached for"
        error = ActorUnavailableError(f"{text} {seconds:.0f} s. The call was not made", task.actor.id.hex())
        self.end(task, TaskState.FAILED, Outcome.ACTOR_UNAVAILABLE, self._with_story(task, error))

    def actor_restarts(self, task: Task) -> None:
        """The actor of this new call is between two processes, and the call asked for no retries."""
        error = ActorUnavailableError(
            f"{task.function.name}: the actor is restarting. The call was not made; "
            "make it again, or give the actor max_task_retries to have calls wait",
            task.actor.id.hex(),
        )
        self.end(task, TaskState.FAILED, Outcome.ACTOR_UNAVAILABLE, self._with_story(task, error))

    def _pause(self, task: Task) -> float:
        """How long a task that ends its workers stays out of line: not after the first time, then longer and longer."""
        if task.actor is not None:
            return 0.0
        deaths = self._deaths[task.id] = self._deaths.get(task.id, 0) + 1
        return min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 2 ** (deaths - 2)) if deaths > 1 else 0.0

    def _again(
        self, task: Task, outcome: int, worker: bytes, why: str, pause: float = 0.0, counts: bool = True
    ) -> None:
        self._next_attempt(task, outcome, worker, why, pause, counts)
        if pause:
            self.requeue_later(task, pause)
        else:
            self.requeue(task)

    def _next_attempt(
        self, task: Task, outcome: int, worker: bytes, why: str, pause: float = 0.0, counts: bool = True
    ) -> None:
        if task.retries_left > 0 and counts:
            task.retries_left -= 1
            if task.retries_left == 0 and task.actor is None:
                task.options = {**(task.options or {}), "final": True}
        self.before_told()
        self.emitter.task_retried(
            self.clock_ns(), task.id, task.attempt, outcome, worker, pause, self.emitter.intern(why[:ERROR_TEXT_MAX])
        )
        task.attempt += 1

    def run_again(self, task: Task, why: str) -> None:
        """A finished task runs once more, because a result of it was lost: that uses up a retry."""
        self.tell(task, f"after attempt {task.attempt}: {why}")
        self._next_attempt(task, int(Outcome.RESULT_LOST), NIL_WORKER, why)

    def argument_lost(self, task: Task, error: RayError) -> None:
        """A worker that was given this task cannot read an argument, again and again."""
        self.end(task, TaskState.FAILED, Outcome.LOST_ARGUMENT, self._with_story(task, error))

    def cancelled(self, task: Task, begun: bool = False, killed: bool = False) -> None:
        """The task will not run (again): whoever asks for its result hears that it was cancelled.

        ``begun``: its code had begun, so that this is how it failed. ``killed``: and its process ended.
        """
        identifier = task.id.hex()
        kind = TaskKilledError if killed else TaskCancelledError
        error: RayError = kind(identifier, f"{task.function.name} (task {identifier}) was cancelled")
        if begun:
            error = RayTaskError(task.function.name, str(error), error, task_id=identifier)
        self.end(task, TaskState.CANCELLED, Outcome.CANCELLED, self._with_story(task, error))

    def leave(self) -> None:
        """The program that owns these tasks ends: what has not ended never will."""
        why = self.emitter.intern("the program that asked for it ended first")
        for task in self.ownership.tasks.values():
            advance(task, TaskState.CANCELLED)
            self.emitter.task_finished(self.clock_ns(), task.id, task.attempt, int(Outcome.CANCELLED), 0, why)

    def refused(self, task: Task, kind: str, detail: str) -> None:
        """The node will never run it: ``kind`` and ``detail`` as in ``ShapeRefused``."""
        text = f"{task.function.name} (task {task.id.hex()}) cannot run: {detail}"
        removed = kind == "group_removed"
        error: RayError = TaskPlacementGroupRemoved(text) if removed else TaskUnschedulableError(text)
        outcome = Outcome.PLACEMENT_REMOVED if removed else Outcome.UNSCHEDULABLE
        self.end(task, TaskState.FAILED, outcome, self._with_story(task, error))

    def too_deep(self, task: Task, detail: str) -> None:
        """There is no process for it, and none will come free as long as others wait for it."""
        error = NestedTooDeepError(
            f"{task.function.name} (task {task.id.hex()}) cannot run: {detail}. Pass references as arguments instead "
            "of getting them inside of tasks, make fewer and larger tasks, or raise workers_max"
        )
        self.end(task, TaskState.FAILED, Outcome.NESTED_TOO_DEEP, self._with_story(task, error))

    def argument_failed(self, task: Task, entry: Entry) -> None:
        """An argument failed, so the task does not run and fails with the argument's own error, which says so."""
        assert type(entry.value) is bytes
        self.ownership.unseen.seen(entry.id)
        error = needed_by(entry.value, f"{task.function.name} (task {task.id.hex()})")
        self.end(task, TaskState.FAILED, Outcome.LOST_ARGUMENT, error)

    def environment_failed(self, task: Task, why: str) -> None:
        """What a worker must be for this task cannot be made."""
        error = RuntimeEnvSetupError(f"the environment of {task.function.name} cannot be made: {why}")
        self.end(task, TaskState.FAILED, Outcome.ENVIRONMENT_FAILED, self._with_story(task, error))

    def actor_gone(self, task: Task, error: bytes) -> None:
        """The actor of this call is dead."""
        self.end(task, TaskState.FAILED, Outcome.ACTOR_DIED, error)

    def forget(self, task: bytes) -> None:
        """The task is over: what happened to it on the way is of no interest any more."""
        self.stories.pop(task, None)
        if self._deaths or self._oom_kills:
            self._deaths.pop(task, None)
            self._oom_kills.pop(task, None)

    def _with_story(self, task: Task, error: RayError) -> bytes:
        return dump_error(error.with_story(tuple(self.stories.get(task.id, ())), task.trace.hex()))

    def end(self, task: Task, state: TaskState, outcome: int, error: bytes) -> None:
        """The task is over without a value: all its results are ``error``."""
        holder = task.dispatched_to
        if holder is not None:
            holder.forget(task)
        if holder is not None or task.attempt:
            # But not what an attempt before has made and is still there.
            known = self.ownership.entries
            self.ownership.discard(e.id for e in task.entries if type(e.value) is not int or known.get(e.id) is not e)
        self.forget(task.id)
        self.before_told()
        self.emitter.task_finished(
            self.clock_ns(), task.id, task.attempt, int(outcome), len(error), self.emitter.intern(summarise(error))
        )
        if outcome in (_NOBODY_ELSE_TELLS if task.actor is None else _OF_CALLS) and task.ended is None:
            self.ownership.unseen.failed(task, error)
        self.ownership.finish(task, state, error)
        for entry in task.entries:
            self.ownership.fulfil(entry, error, failed=True)
        if task.ended is not None:
            task.ended(task, error)


def summarise(error: bytes) -> str:
    """The text of a serialized error for its event, cut to ``ERROR_TEXT_MAX``."""
    from obsray.core.runtime.serialization import load_error

    try:
        text = str(load_error(error))
    except Exception:
        return "an error that cannot be shown"
    return text if len(text) <= ERROR_TEXT_MAX else text[: ERROR_TEXT_MAX // 2] + " ... " + text[-ERROR_TEXT_MAX // 2 :]
