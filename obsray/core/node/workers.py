"""The worker pool: which processes exist, what they do, when more are started and when idle ones end.

Invariants: a worker is in ``idle`` exactly while its state is IDLE and nobody asked it to leave; the number of
live processes never exceeds ``workers_max``, but for those that linger; a process that dies while starting counts
against its runtime's restart budget, so that a broken environment costs a few forks and then waits longer and longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from obsray.core.node.environments import DEFAULT_RUNTIME, EnvironmentTable, Runtime
from obsray.core.node.step import EndProcess, StartWorker, Step, require
from obsray.core.protocol.lifecycle import WorkerState, advance
from obsray.core.protocol.messages import Exit
from obsray.ids import NIL_TASK, NIL_WORKER
from obsray.telemetry.events import DeathCause, ProcessKind, Reason, signal_text

SIGNAL_KILL = 9
#: Restart intensity: more starters than this dying within the period make the next start wait.
FAILURES_MAX = 3
FAILURE_PERIOD_SECONDS = 10.0
BACKOFF_SECONDS_MIN = 0.5
BACKOFF_SECONDS_MAX = 30.0
_DID_NOT_END = "it closed its link but did not end"
TEXT_CHARACTERS_MAX = 500
_U32 = 0xFFFFFFFF
#: A process that ends so could not become what its environment says; its last words say why.
SETUP_FAILED_EXIT = 113


@dataclass(slots=True, eq=False)
class Worker:
    """One process. ``end_cause`` is set once the node has decided that it shall end, and why."""

    id: bytes
    runtime: Runtime
    asked_at: float
    state: WorkerState = WorkerState.STARTING
    pid: int = 0
    idle_since: float = 0.0
    uses: int = 0
    #: Whose modules it may have imported; 0 until it has worked for somebody who said who he is.
    job: int = 0
    #: Whether what it has run may have had devices.
    devices: bool = False
    end_cause: DeathCause | None = None
    end_detail: str = ""
    kill_at: float | None = None
    killed: bool = False
    said_goodbye: bool = False
    #: It stands still: it keeps what it has, and gets nothing new.
    halted: bool = False
    #: It shall end, gets no more work, and stays until nobody holds what it owns.
    lingers: bool = False

    @property
    def killed_here(self) -> bool:
        """Whether a SIGKILL that ended it was the node's own. One because of a link that had closed says nothing: that
        it had ended before, of which word comes late, is why such links close."""
        return self.killed and self.end_detail != _DID_NOT_END


class Ended(NamedTuple):
    """How a process ended, as the shell found out. ``oom`` is what the cgroup says, empty if it says nothing.

    ``started`` and ``attempts`` are as in ``WorkerDied``. ``parent_died``: it died because the process that had forked
    it did, which ended like this; empty if not.
    """

    worker: bytes
    pid: int
    exit_code: int
    signal: int
    rss_bytes: int = 0
    oom: str = ""
    parent_died: str = ""
    started: tuple[bytes, ...] = ()
    last_task: bytes = NIL_TASK
    tail: str = ""
    attempts: tuple[int, ...] = ()


class Death(NamedTuple):
    """A worker that is gone, with the cause and a sentence for people."""

    worker: Worker
    cause: DeathCause
    detail: str


@dataclass(slots=True)
class _Budget:
    """The restart budget of one runtime."""

    failures: deque[float]
    in_a_row: int = 0
    not_before: float = 0.0
    last: str = ""


class WorkerPool:
    """``new_id`` makes worker ids; ``prestart`` default workers are kept, ``workers_max`` bounds all of them."""

    def __init__(
        self,
        new_id: Callable[[], bytes],
        prestart: int,
        workers_max: int,
        idle_seconds: float,
        start_seconds_max: float,
        grace_seconds: float,
        environments: EnvironmentTable | None = None,
    ) -> None:
        self.environments = environments or EnvironmentTable()
        self.workers: dict[bytes, Worker] = {}
        self.idle: dict[str, dict[bytes, Worker]] = {}
        self.starting: dict[str, int] = {}
        #: How many stay only for what they own; they run nothing and do not count against the limit.
        self.lingering = 0
        self.prestart = prestart
        self.workers_max = workers_max
        self.starting_max = max(4, 2 * prestart)
        self.draining = False
        self._jobs_ended: set[int] = set()
        self._new_id = new_id
        self._idle_seconds = idle_seconds
        self._start_seconds_max = start_seconds_max
        self._grace_seconds = grace_seconds
        self._budgets: dict[str, _Budget] = {}

    # --- starting ----------------------------------------------------------------------------------------

    def keep_prestarted(self, step: Step) -> None:
        """Start default workers until there are ``prestart`` that are not actors."""
        have = sum(
            1
            for worker in self.workers.values()
            if worker.state is not WorkerState.ACTOR and worker.end_cause is None and not worker.runtime.key
        )
        if have < self.prestart:
            self.want(step, DEFAULT_RUNTIME, self.starting.get("", 0) + self.prestart - have, Reason.NONE)

    def want(self, step: Step, runtime: Runtime, count: int, reason: Reason) -> tuple[Reason, str]:
        """Have ``count`` processes of ``runtime`` starting; says what those who wait for them wait for."""
        if self.draining:
            return Reason.DRAINING, "the node is shutting down"
        waiting = self.prepare(step, runtime)
        if waiting[0] is not Reason.NONE:
            return waiting
        budget = self._budgets.get(runtime.key)
        if budget is not None and step.now < budget.not_before:
            step.wake(budget.not_before)
            wait = budget.not_before - step.now
            return Reason.WORKER_STARTING, f"the last starts failed ({budget.last}); next try in {wait:.1f} s"
        under_way = self.starting.get(runtime.key, 0)
        total = sum(self.starting.values())
        while under_way < count and total < self.starting_max:
            if self.is_full() and not self._make_room(step, runtime):
                break
            if self.is_full():
                return Reason.WORKER_STARTING, "an idle process of another runtime ends first"
            self._start(step, runtime, reason)
            under_way += 1
            total += 1
        if under_way:
            return Reason.WORKER_STARTING, f"{under_way} processes starting"
        if total >= self.starting_max:
            return Reason.WORKER_STARTING, f"{total} processes of other runtimes start first"
        return Reason.WORKER_LIMIT, self.limit()

    def prepare(self, step: Step, runtime: Runtime) -> tuple[Reason, str]:
        """Have what such processes need made; says what those who wait for it wait for, NONE if it is there."""
        return self.environments.ask(step, runtime.key) if runtime.key else (Reason.NONE, "")

    def _start(self, step: Step, runtime: Runtime, reason: Reason) -> None:
        worker = Worker(self._new_id(), runtime, step.now, job=runtime.job if runtime.key else 0)
        self.workers[worker.id] = worker
        self.starting[runtime.key] = self.starting.get(runtime.key, 0) + 1
        environment, place = self.environments.place(runtime.key, runtime.job) if runtime.key else (NIL_WORKER, {})
        step.emit.worker_starting(step.time_ns, worker.id, reason, environment)
        step.effects.append(StartWorker(worker.id, dict(runtime.environment), place))
        step.wake(step.now + self._start_seconds_max)

    def _make_room(self, step: Step, runtime: Runtime) -> bool:
        """At the limit: end the longest idle process of another runtime. False if there is none."""
        if any(worker.end_cause is not None and not worker.lingers for worker in self.workers.values()):
            return True
        others = [
            worker
            for key, workers in self.idle.items()
            for worker in workers.values()
            if key != runtime.key or not _suits(worker, runtime)
        ]
        if not others:
            return False
        oldest = min(others, key=lambda worker: worker.idle_since)
        self.retire(step, oldest, DeathCause.IDLE, "it was idle and a process of another runtime was needed")
        return True

    def limit(self) -> str:
        """How far the processes are from their limit, for people: actors hold theirs until they end."""
        actors = sum(worker.state is WorkerState.ACTOR for worker in self.workers.values())
        return f"{len(self.workers)} of {self.workers_max} processes exist" + (
            f", {actors} are actors" if actors else ""
        )

    def is_full(self) -> bool:
        """Whether there are as many processes as may be."""
        return len(self.workers) - self.lingering >= self.workers_max

    def forked(self, worker_id: bytes, pid: int) -> None:
        """The process exists."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.pid = pid

    def registered(self, step: Step, worker_id: bytes, pid: int) -> bool:
        """The process said hello. False if nobody like it is expected."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return False
        worker.pid = pid
        advance(worker, WorkerState.IDLE)
        self._started(worker.runtime.key)
        self._budgets.pop(worker.runtime.key, None)
        step.emit.worker_registered(step.time_ns, worker.id, pid, ProcessKind.WORKER, step.now - worker.asked_at)
        if worker.end_cause is None:
            self._rest(step, worker)
            if worker.job in self._jobs_ended:
                self.retire(step, worker, DeathCause.IDLE, "its job ended")
        return True

    def _started(self, key: str) -> None:
        self.starting[key] -= 1
        if not self.starting[key]:
            del self.starting[key]

    # --- work --------------------------------------------------------------------------------------------

    def find(self, runtime: Runtime) -> Worker | None:
        """An idle process of this runtime: the one used last, or for ``fresh`` one never used."""
        idle = self.idle.get(runtime.key)
        if not idle:
            return None
        found = idle.values() if runtime.fresh else reversed(idle.values())
        return next((worker for worker in found if not worker.halted and _suits(worker, runtime)), None)

    def take(self, worker: Worker, state: WorkerState, runtime: Runtime) -> None:
        """Give an idle process its work, LEASED or ACTOR, of this runtime."""
        worker.job, worker.devices = worker.job or runtime.job, runtime.devices
        advance(worker, state)
        self._unrest(worker)
        worker.uses += 1

    def put_back(self, step: Step, worker: Worker) -> None:
        """A leased process is free again."""
        advance(worker, WorkerState.IDLE)
        if worker.end_cause is None:
            self._rest(step, worker)
            if worker.job in self._jobs_ended:
                self.retire(step, worker, DeathCause.IDLE, "its job ended")

    def job_ended(self, step: Step, job: int) -> None:
        """Nobody else can use processes that have worked for this job."""
        self._jobs_ended.add(job)
        for idle in list(self.idle.values()):
            for worker in [worker for worker in idle.values() if worker.job == job]:
                self.retire(step, worker, DeathCause.IDLE, "its job ended")

    def _rest(self, step: Step, worker: Worker) -> None:
        worker.idle_since = step.now
        self.idle.setdefault(worker.runtime.key, {})[worker.id] = worker
        step.wake(step.now + self._idle_seconds)

    def _unrest(self, worker: Worker) -> None:
        idle = self.idle.get(worker.runtime.key, {})
        if idle.pop(worker.id, None) is not None and not idle:
            del self.idle[worker.runtime.key]

    # --- the end -----------------------------------------------------------------------------------------

    def retire(
        self, step: Step, worker: Worker, cause: DeathCause, why: str, patient: bool = False,
        seconds: float | None = None,
    ) -> None:  # fmt: skip
        """Ask a process to end, and kill it after the grace time, or after ``seconds``; ``patient``: only once it has
        said goodbye."""
        if worker.end_cause is None:
            worker.end_cause, worker.end_detail = cause, why
        self._unrest(worker)
        step.send(worker.id, Exit(why, worker.state is not WorkerState.ACTOR))
        if not patient:
            self._kill_later(step, worker, seconds)

    def still_needed(self, step: Step, worker: Worker, objects: int, tasks: int) -> None:
        """A process that shall end owns what others hold: it ends by itself when they let go of it."""
        if worker.end_cause is None or worker.lingers or worker.killed:
            return
        worker.lingers = True
        self.lingering += 1
        worker.kill_at = None
        step.emit.worker_lingers(step.time_ns, worker.id, min(objects, _U32), min(tasks, _U32))

    def kill(self, step: Step, worker: Worker, cause: DeathCause, why: str) -> None:
        """End a process now."""
        if worker.killed:
            return
        worker.end_cause, worker.end_detail, worker.killed = cause, why, True
        self._unrest(worker)
        step.effects.append(EndProcess(worker.id, SIGNAL_KILL))

    def goodbye(self, step: Step, worker: Worker) -> None:
        """The process ends on its own account, in order."""
        worker.said_goodbye = True
        self._unrest(worker)
        if worker.end_cause is None:
            worker.end_cause, worker.end_detail = DeathCause.INTENDED, "it ended in order"
        self._kill_later(step, worker)

    def link_lost(self, step: Step, worker: Worker) -> None:
        """A process without its link is of no use; usually it is dead and its wait status comes next."""
        self._unrest(worker)
        self._kill_later(step, worker)

    def _kill_later(self, step: Step, worker: Worker, seconds: float | None = None) -> None:
        if worker.kill_at is None:
            worker.kill_at = step.now + (self._grace_seconds if seconds is None else min(seconds, self._grace_seconds))
        step.wake(worker.kill_at)

    def not_forked(self, step: Step, worker_id: bytes, why: str) -> Death | None:
        """The process could not be made."""
        return self.ended(step, Ended(worker_id, 0, 0, 0, tail=why))

    def ended(self, step: Step, end: Ended) -> Death | None:
        """The process is gone. None if it is not one of ours."""
        worker = self.workers.pop(end.worker, None)
        if worker is None:
            return None
        self._unrest(worker)
        self.lingering -= worker.lingers
        cause, detail = _cause(worker, end)
        if worker.state is WorkerState.STARTING:
            self._started(worker.runtime.key)
            if cause is DeathCause.START_FAILED:
                self._failed_to_start(step, worker.runtime.key, detail, end)
        advance(worker, WorkerState.DEAD)
        last = end.started[0] if end.started else end.last_task
        step.emit.worker_died(
            step.time_ns, worker.id, worker.pid, cause, end.exit_code, end.signal, end.rss_bytes, last,
            step.emit.intern(detail[:TEXT_CHARACTERS_MAX]),
        )  # fmt: skip
        return Death(worker, cause, detail)

    def _failed_to_start(self, step: Step, key: str, detail: str, end: Ended) -> None:
        if key and end.exit_code == SETUP_FAILED_EXIT:
            self.environments.broken(step, key, end.tail or detail)
            return
        budget = self._budgets.setdefault(key, _Budget(deque()))
        budget.failures.append(step.now)
        budget.last = detail
        while budget.failures[0] < step.now - FAILURE_PERIOD_SECONDS:
            budget.failures.popleft()
        if len(budget.failures) > FAILURES_MAX:
            budget.in_a_row += 1
            delay = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2 ** (budget.in_a_row - 1))
            budget.not_before = step.now + delay
            step.wake(budget.not_before)
            if key:
                # Not the machine's fault: processes without an environment start.
                del self._budgets[key]
                self.environments.broken(step, key, f"{len(budget.failures)} processes did not start in it: {detail}")

    def tick(self, step: Step) -> None:
        """Kill what does not start or does not end, let go of what is idle too long, refill."""
        for worker in list(self.workers.values()):
            if worker.kill_at is not None and not worker.killed:
                if worker.kill_at <= step.now:
                    cause = DeathCause.KILLED_BY_REQUEST if worker.end_cause is None else worker.end_cause
                    self.kill(step, worker, cause, worker.end_detail or _DID_NOT_END)
                else:
                    step.wake(worker.kill_at)
            elif worker.state is WorkerState.STARTING and not worker.killed:
                if worker.asked_at + self._start_seconds_max <= step.now:
                    why = f"it did not say hello within {self._start_seconds_max:g} s"
                    self.kill(step, worker, DeathCause.START_FAILED, why)
                else:
                    step.wake(worker.asked_at + self._start_seconds_max)
        self._end_idle(step)
        self.environments.tick(step, (worker.runtime.key for worker in self.workers.values()))
        self.keep_prestarted(step)

    def _end_idle(self, step: Step) -> None:
        default = sum(
            1
            for worker in self.workers.values()
            if worker.state is not WorkerState.ACTOR and worker.end_cause is None and not worker.runtime.key
        )
        for key, idle in list(self.idle.items()):
            for worker in list(idle.values()):
                if not key and default <= self.prestart:
                    break
                if worker.idle_since + self._idle_seconds > step.now:
                    step.wake(worker.idle_since + self._idle_seconds)
                    continue
                default -= not key
                self.retire(step, worker, DeathCause.IDLE, f"it was idle for {self._idle_seconds:g} s")

    def counts(self) -> dict[WorkerState, int]:
        """How many processes are in each state."""
        found = dict.fromkeys(WorkerState, 0)
        for worker in self.workers.values():
            found[worker.state] += 1
        return found

    def check_invariants(self) -> None:
        require(len(self.workers) - self.lingering <= self.workers_max, "too many processes")
        require(self.lingering == sum(worker.lingers for worker in self.workers.values()), "who lingers is miscounted")
        self.environments.check_invariants()
        starting: dict[str, int] = {}
        for worker in self.workers.values():
            resting = worker.id in self.idle.get(worker.runtime.key, {})
            require(not resting or worker.state is WorkerState.IDLE, "{} rests", worker)
            require(not resting or worker.end_cause is None, "{} rests but shall end", worker)
            if worker.state is WorkerState.STARTING:
                starting[worker.runtime.key] = starting.get(worker.runtime.key, 0) + 1
        require(starting == self.starting, f"starting {self.starting}, by workers {starting}")
        for idle in self.idle.values():
            require(bool(idle), "an empty idle list")
            require(all(worker_id in self.workers for worker_id in idle), "a dead process rests")


def _suits(worker: Worker, runtime: Runtime) -> bool:
    """Whether a process with the runtime's key may work for it, too: it may have modules of the job that it has worked
    for, and what CUDA has told a process once (no devices, these devices) it tells it for good."""
    if runtime.fresh and worker.uses:
        return False
    return worker.job in (0, runtime.job) and (not worker.uses or worker.devices == runtime.devices)


def _cause(worker: Worker, end: Ended) -> tuple[DeathCause, str]:
    """Why a process ended: what the node asked for if that is how it went, else the wait status; never a guess."""
    asked = worker.end_cause
    if end.parent_died:
        return DeathCause.PARENT_DIED, f"the process that forks workers ({end.parent_died}) died and took it along"
    if end.oom and end.signal == SIGNAL_KILL and not worker.killed_here:
        return DeathCause.OOM, end.oom
    # The word of its end may come late: then it did end, in its own way, before it was killed.
    ended_itself = worker.end_detail == _DID_NOT_END and end.signal != SIGNAL_KILL
    if asked is not None and (worker.killed or not end.signal) and not ended_itself:
        return asked, worker.end_detail
    if worker.state is WorkerState.STARTING:
        return DeathCause.START_FAILED, f"it ended before it said hello: {_how(end)}"
    if end.signal:
        return DeathCause.SIGNAL, _how(end)
    return DeathCause.EXIT_CODE, _how(end)


def _how(end: Ended) -> str:
    if end.signal:
        return f"killed by {signal_text(end.signal)}"
    if not end.pid:
        return end.tail
    return f"exit code {end.exit_code}"
