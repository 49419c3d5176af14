"""Runs tasks and actor calls in a worker.

The main thread takes attempts from a queue, runs them and collects results; results leave when the queue is empty,
after ``SEND_AFTER_NS``, or by the watcher if an attempt runs long. What waits behind a task that blocks in ``get`` goes
back to its owner at once, because it may be what the task waits for. Actors with threads or an event loop bring their
own way to run calls (``actor.py``); ``begin`` and ``end`` are the same for all.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType, GeneratorType
from typing import Any, NoReturn

from obsray.causes import format_user_traceback
from obsray.core.options import UNIT
from obsray.core.protocol import messages as m
from obsray.core.protocol.environment_key import FOLLOWS_CPUS, THREADS_OF_A_TASK
from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.interrupts import hear_ignored, in_import, in_runtime
from obsray.core.runtime.output import LOOK_NS, Streams
from obsray.core.runtime.producers import ABANDONED, Filled, Producers
from obsray.core.runtime.references import dropped
from obsray.core.runtime.running import Running
from obsray.core.runtime.serialization import NUMBERS, PICKLE_PROTOCOL, deserialize, dump_error, serialize
from obsray.core.runtime.session import Session
from obsray.core.runtime.termination import Termination, die
from obsray.core.runtime.values import Unreadable
from obsray.core.runtime.waiting import Waiter
from obsray.core.transport.links import Link
from obsray.errors import AsyncioActorExit, RayError, RayTaskError, TaskCancelledError
from obsray.ids import NIL_TASK, mark_of, task_of
from obsray.telemetry.events import Outcome, Reason, WaitKind
from obsray.telemetry.spine import FINAL_ATTEMPT

#: Results wait for company at most this long while there is more to run.
SEND_AFTER_NS = 1_000_000
#: An attempt that runs longer than this gets a record of its own start.
MARK_AFTER_NS = 5_000_000
#: CPU time is read from the clock only for functions that run at least this long; shorter ones count as all CPU.
CPU_CLOCK_NS_MIN = 100_000
#: Cancelled attempts that are remembered until they would begin.
CANCELLED_REMEMBERED_MAX = 10_000
#: A cancellation waits so long for an import to be over.
IMPORT_SECONDS_MAX = 10.0
_DONE_TAG = m.Done._field_defaults["tag"]
_NONE = serialize(None).pickled


class LoadedFunction:
    """A function as a worker knows it: its code is unpickled at its first call."""

    __slots__ = ("blob", "calls", "function", "mean_ns", "method", "name", "name_number")

    def __init__(self, name: str, name_number: int, blob: bytes) -> None:
        self.name = name
        self.method = name.rpartition(".")[2]
        self.name_number = name_number
        self.blob = blob
        self.function: Any = None
        self.calls = 0
        self.mean_ns = 0


class Introduction:
    """In the queue before the first task of a job: this worker gets to know it."""

    link = None
    lease = 0
    task = NIL_TASK

    def __init__(self, executor: Executor, job: int) -> None:
        self._session = executor.session
        self._job = job

    def start(self) -> None:
        """Ask the node, once."""
        if self._session.job != self._job:
            self._session.meet_job(self._job)


class ArgumentError(Exception):
    """Arguments or code could not be unpickled here; ``__cause__`` says why."""


_VISIBLE = "CUDA_VISIBLE_DEVICES"
#: As programs know them from Ray: "0" lets those without GPUs see all; "1" leaves the variable to the program.
_NOT_ON_ZERO = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"
_NEVER_SET = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"


class Executor:
    """What a worker does besides being a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.queue: deque[Any] = deque()
        self.exiting = ""
        self.actor: Any = None
        #: What keeps the actor's state beyond this process, if it wants that.
        self.checkpoints: Any = None
        #: stdout and stderr, if what is written there is told apart.
        self.output: Streams | None = None
        #: Thread slot -> what runs there; slot 0 is the main thread.
        self.slots: dict[int, Running] = {}
        #: Shows people what this process does.
        self.title: Callable[[str], None] = lambda _: None
        #: Thread slot -> the thread that has it.
        self.threads: dict[int, int] = {0: threading.get_ident()}
        #: Results that have not been sent, with the links they go to. Threads add to it without the session's lock
        #: while others send, so it is never exchanged for another and only taken from at its front.
        self._results: deque[tuple[Link, tuple[Any, ...]]] = deque()
        self._sent_ns = 0
        self._contexts: dict[int, dict[str, Any]] = {}
        self._devices: tuple[int, ...] = ()
        #: Captures what the GPUs of this worker do, once it owns some.
        self._gpu: Any = None
        self._gpu_asked = False
        #: The context of the attempt that began last, and the group that what it submits goes to.
        self._context: dict[str, Any] = {}
        self._captured: bytes = b""
        #: What the driver may see, before tasks get their share of it.
        self._visible = os.environ.get(_VISIBLE, "")
        #: What those may see that own none; None: whatever there is.
        self._unowned: str | None = None
        self._sets_visible = os.environ.get(_NEVER_SET, "") not in ("1", "true", "True")
        #: How many threads OpenMP may use, as long as that follows ``num_cpus``; else 0.
        self._threads = 1 if os.environ.get(FOLLOWS_CPUS) else 0
        self._blocked = False
        #: Lease -> how often tasks pushed under it were given back.
        self._given_back: dict[int, int] = {}
        #: The call of an actor that waits for an argument which was lost, if nothing runs beside it.
        self._recovering: Running | None = None
        #: Attempts that were cancelled before they began.
        self._cancelled: set[bytes] = set()
        #: Attempts whose children are to be cancelled with them, until they end.
        self._recursive: set[bytes] = set()
        self._interrupt = b""
        #: When it was asked for (monotonic).
        self._interrupt_at = 0.0
        self.producers = Producers(self)
        self._main = threading.get_ident()
        session.executor = self
        session.inbox.handle(m.DefineFunction, self._on_define)
        session.inbox.handle(m.Push, self._on_push)
        session.inbox.handle(m.Recall, self._on_recall)
        session.inbox.handle(m.CancelTask, self._on_cancel)
        session.inbox.handle(m.StartActor, self._on_start_actor)
        session.inbox.handle(m.ItemsTaken, lambda link, x: self.producers.taken(x[1], x[2]))
        signal.signal(signal.SIGINT, self._on_signal)
        self.termination = Termination(self)
        hear_ignored(self._interrupt_again)

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run tasks until told to exit."""
        session, queue = self.session, self.queue
        while not self.exiting:
            try:
                running = queue.popleft()
            except IndexError:
                running = None
            # Not in the handler: what is raised while it turns would have that IndexError as its context.
            if running is None:
                with session.lock:
                    session.send_everything()
                if not queue and not self.exiting:
                    self._idle_turn()
                continue
            if type(running) is Running:
                if self.actor is not None and self.actor.concurrent:
                    self.actor.submit(running)
                elif self.checkpoints is None:
                    self.execute(running)
                else:
                    self.checkpoints.perform(running)
            else:
                running.start()
            # Also if somebody has set the clock back.
            if not queue:
                with session.lock:
                    session.send_everything()
            elif not 0 <= time.time_ns() - self._sent_ns <= SEND_AFTER_NS:
                session.glance()
            elif session.watcher.dozes and self._next_may_be_long():
                # And the result of this one waits for company.
                session.watcher.wake()
        if self.termination.asked:
            # Whatever runs on other threads ends with the process.
            with session.lock:
                session.send_everything()
            return
        if self.actor is not None:
            self.actor.stop()
        with session.lock:
            session.send_everything()
        if self.actor is not None:
            self.actor.shut_down()
            self.actor.say_goodbye()

    def _next_may_be_long(self) -> bool:
        """Whether what comes next is not known to be over before a result has waited for long."""
        try:
            running = self.queue[0]
        except IndexError:
            return True
        loaded = running.link.state.get(running.number) if type(running) is Running else None
        return loaded is None or not loaded.calls or loaded.mean_ns > SEND_AFTER_NS

    def _idle_turn(self) -> None:
        session = self.session
        if session.driving.acquire(timeout=0.05):
            try:
                # The watcher may have received work between the look at the queue and here.
                if not self.queue and not self.exiting:
                    session.turn(None if self.checkpoints is None else self.checkpoints.idle_seconds())
            finally:
                session.driving.release()
                if session.sleepers:
                    session.wake_a_sleeper()
            if session.values.completions:
                session.values.complete_futures()
            if self.checkpoints is not None and not self.queue:
                self.checkpoints.save_if_due()

    def busy(self) -> bool:
        """Whether any thread runs user code."""
        return bool(self.slots)

    def restless(self) -> bool:
        """Whether something is to be done for what runs that cannot wait for long: see ``tick``."""
        if self._interrupt or self.termination.asked or (self.actor is not None and self.actor.concurrent):
            return True
        return not all(running.marked for running in list(self.slots.values()))

    def exit(self, reason: str) -> None:
        """Stop after what is running and already queued."""
        self.exiting = reason or "asked to"
        if self._gpu is not None:
            # What runs may not end in time.
            self._gpu.hurry()
        self.session.reactor.wake()

    def send_results(self) -> None:
        """Queue all collected results for sending. Called with the session's lock held."""
        waiting = self._results
        if len(waiting) == 1:
            link, result = waiting.popleft()
            link.send((_DONE_TAG, [result]))
        elif waiting:
            taken = [waiting.popleft() for _ in range(len(waiting))]
            while taken:
                # Nearly always they all go to one owner.
                link = taken[0][0]
                batch = [result for other, result in taken if other is link]
                link.send((_DONE_TAG, batch))
                taken = [item for item in taken if item[0] is not link] if len(batch) < len(taken) else []
        self._sent_ns = time.time_ns()

    def sends_are_due(self, now_ns: int) -> bool:
        """Whether what was collected has waited long enough for company."""
        return not 0 <= now_ns - self._sent_ns <= SEND_AFTER_NS

    def show_title(self) -> None:
        """Have ``ps`` and ``top`` say what runs here: a task or a call, else the actor, else nothing."""
        self.title(f"obsray::{self._doing()}")

    def _doing(self) -> str:
        running = self.slots.get(0) or next(iter(list(self.slots.values())), None)
        if running is not None and running.loaded is not None:
            return str((running.options or {}).get("name") or running.loaded.name)
        return "IDLE" if self.actor is None else str(self.actor.spec["class_name"])

    def tick(self, now: float) -> None:
        """Called by the watcher with the lock held while other threads run user code or sleep."""
        if not self.slots:
            return
        time_ns = time.time_ns()
        for running in list(self.slots.values()):
            if not running.marked and not 0 <= time_ns - running.started_at <= MARK_AFTER_NS:
                running.marked = True
                self.session.emitter.task_started(
                    time_ns, running.task, running.attempt, running.lease, running.batch, running.actor,
                    running.loaded.name_number, running.dispatched_at, running.arrived_at, running.started_at,
                )  # fmt: skip
                self.session.emitter.told(running.slot, running.started_at)
        running_main = self.slots.get(0)
        if self._interrupt and running_main is not None and running_main.task == self._interrupt:
            # The interrupt met runtime code, or code that swallows it: ask again.
            signal.pthread_kill(self._main, signal.SIGINT)
        if self.termination.asked and running_main is not None:
            signal.pthread_kill(self._main, signal.SIGTERM)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _on_define(self, link: Link, message: m.Message) -> None:
        _, number, name, blob = message
        link.state[number] = LoadedFunction(name, self.session.emitter.intern(name), blob)

    def _on_push(self, link: Link, message: m.Message) -> None:
        _, lease, batch, dispatched_at, context, tasks, heard = message
        if context is not None:
            self._contexts[lease] = context
            if context.get("job", 0) != self.session.job:
                self.queue.append(Introduction(self, context["job"]))
        if lease and (self._blocked or heard < self._given_back.get(lease, 0)):
            # Older ones are on their way back: these must not begin before them.
            reason = Reason.BLOCKED_IN_GET if self._blocked else Reason.FAIRNESS
            self._return(link, lease, [task[0] for task in tasks], reason)
            return
        now = time.time_ns()
        known = self._contexts.get(lease, {})
        self.queue.extend([Running(link, lease, batch, dispatched_at, known, now, task) for task in tasks])

    def _return(self, link: Link, lease: int, tasks: list[bytes], reason: Reason) -> None:
        if tasks:
            self._given_back[lease] = self._given_back.get(lease, 0) + 1
        link.send(m.encode(m.Returned(tasks, int(reason))))

    def _on_recall(self, link: Link, message: m.Message) -> None:
        wanted = set(message[1])
        back, stay, lease = [], [], 0
        for running in self._take_queue():
            if running.link is link and running.lease and (not wanted or running.task in wanted):
                back.append(running.task)
                lease = running.lease
            else:
                stay.append(running)
        self.queue.extend(stay)
        self._return(link, lease, back, Reason.FAIRNESS)

    def _on_cancel(self, link: Link, message: m.Message) -> None:
        _, task, recursive = message
        if recursive:
            self.session.cancel_children(task)
            if len(self._recursive) < CANCELLED_REMEMBERED_MAX:
                self._recursive.add(task)
        for running in list(self.slots.values()):
            if running.task == task:
                running.cancelled = True
                if self.actor is None:
                    self._interrupt, self._interrupt_at = task, time.monotonic()
                    signal.pthread_kill(self._main, signal.SIGINT)
                else:
                    # A generator that waits for room would not look.
                    self.producers.taken(task, ABANDONED)
                return
        if self.actor is not None and self.actor.cancel(task):
            return
        # It waits in the queue, or a thread has just taken it from there; if it has ended, this means nothing.
        if len(self._cancelled) < CANCELLED_REMEMBERED_MAX:
            self._cancelled.add(task)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        running = self.slots.get(0)
        if not self._interrupt or running is None or running.task != self._interrupt:
            return
        if in_runtime(frame):
            if not self.session.interrupt_pending:
                self.session.interrupt_pending.append(None)
                self.session.reactor.wake()
            return
        # Modules that are imported half spoil the process for all who come later (numpy cannot be imported again).
        if in_import(frame) and time.monotonic() < self._interrupt_at + IMPORT_SECONDS_MAX:
            return  # ``tick`` asks again
        self._interrupt = b""
        raise KeyboardInterrupt

    def _interrupt_again(self) -> bool:
        """A finalizer had the interrupt that was for the task: ``tick`` asks once more."""
        running = self.slots.get(0)
        if running is None or not running.cancelled or self.actor is not None:
            return False
        self._interrupt = running.task
        return True

    def link_closed(self, link: Link) -> None:
        """An owner is gone: nobody wants its tasks."""
        self.producers.link_closed(link)
        stay = [running for running in self._take_queue() if running.link is not link]
        self.queue.extend(stay)
        if stay:
            # The main thread may have looked in between and gone to sleep.
            self.session.reactor.wake()

    def _take_queue(self) -> list[Any]:
        """All that waits, in order; the main thread may take from the front meanwhile, without a lock.

        From the back: what the main thread begins meanwhile is older than all that is taken.
        """
        taken = []
        while True:
            try:
                taken.append(self.queue.pop())
            except IndexError:
                taken.reverse()
                return taken

    # --- blocking -------------------------------------------------------------------------------------------------

    def blocked(self, running: Running, waiter: Waiter, kind: WaitKind, for_ever: bool = False) -> None:
        """The running task waits: its CPU is free, and what is queued behind it goes back.

        ``for_ever``: unless what it waits for comes.
        """
        session = self.session
        with session.lock:
            session.emitter.task_blocked(time.time_ns(), running.task, int(kind), max(0, waiter.missing), waiter.first)
            if running.lease:
                self._blocked = True
                back: dict[tuple[Link, int], list[bytes]] = {(running.link, running.lease): []}
                stay = []
                for other in self._take_queue():
                    if type(other) is Running:
                        back.setdefault((other.link, other.lease), []).append(other.task)
                    else:
                        stay.append(other)
                self.queue.extend(stay)
                for (link, lease), tasks in back.items():
                    self._return(link, lease, tasks, Reason.BLOCKED_IN_GET)
                sure = for_ever and kind is WaitKind.GET and self._needs_a_worker(waiter)
                session.node.send(m.encode(m.Blocked(sure)))
            elif self._lends(running):
                session.node.send(m.encode(m.Blocked(False)))
            session.send_everything()

    def _lends(self, running: Running) -> bool:
        """Whether an actor that waits in this call keeps its CPU from nobody.

        Before it is alive it has no caller who counts on it; and what makes a lost argument again may need that CPU.
        """
        return self.actor is not None and (self.actor.instance is None or self._recovering is running)

    def _needs_a_worker(self, waiter: Waiter) -> bool:
        """Whether a wait cannot end before a task of this process has run, on a worker of this node."""
        task = self.session.ownership.tasks.get(task_of(waiter.first))
        if task is None or task.actor is not None:
            return False
        lease = task.dispatched_to
        if lease is None:
            return task.state is TaskState.QUEUED
        return mark_of(lease.worker) == mark_of(self.session.worker)

    def unblocked(self, running: Running, blocked_ns: int, kind: WaitKind) -> None:
        """The running task goes on."""
        session = self.session
        running.blocked_ns += blocked_ns
        with session.lock:
            session.emitter.task_unblocked(time.time_ns(), running.task, int(kind), blocked_ns / 1e9)
            if running.lease:
                self._blocked = False
            if running.lease or self._lends(running):
                session.node.send(m.encode(m.Unblocked()))
                session.after()

    # --- one attempt ------------------------------------------------------------------------------------------------

    def execute(self, running: Running, slot: int = 0) -> None:
        """Run one attempt on this thread and queue its result."""
        if running.link.closed or (self._cancelled and self.was_cancelled(running)):
            return
        try:
            function, args, kwargs = self.begin(running, slot)
            result = call_user_code(function, args, kwargs)
            if running.returns < 0:
                self.producers.stream(running, result)
                result = None
            elif type(result) is GeneratorType and running.returns > 0:
                result = self.producers.fill(running, result)
            if self.exiting and self.actor is not None and self.actor.has_left(running.task):
                raise AsyncioActorExit
            ended_at = time.time_ns()
            args = kwargs = None
            values, extra = self.store_results(running, result)
            result = None
            self.end(running, Outcome.OK, values, extra, ended_at)
        except Unreadable as lost:
            self.give_back(running, lost)
        except BaseException as error:
            ended_at = time.time_ns()
            args = kwargs = result = None
            self.fail(running, error, ended_at)

    def alone(self) -> Running | None:
        """The task that runs on the main thread, if there is never another beside it."""
        return None if self.actor is not None and self.actor.concurrent else self.slots.get(0)

    def origin(self) -> Running | None:
        """What a thread that nobody knows belongs to: the task that runs alone here, else the making of the actor."""
        return self.alone() or (self.actor.born if self.actor is not None else None)

    def was_cancelled(self, running: Running) -> bool:
        """Whether the attempt need not begin; then its owner is told so."""
        if not self._cancelled or running.task not in self._cancelled:
            return False
        self._cancelled.discard(running.task)
        error = dump_error(TaskCancelledError(running.task.hex()))
        self._add(running.link, (running.task, running.attempt, int(Outcome.CANCELLED), [error], None, 0))
        return True

    def begin(self, running: Running, slot: int) -> tuple[Any, Any, Any]:
        """Take note that the attempt starts here and fetch what it is called with: function, args, kwargs."""
        running.slot = slot
        running.loaded = loaded = running.link.state[running.number]
        running.started_at = running.fetched_at = running.ready_at = started_at = time.time_ns()
        if self.actor is not None:
            running.actor = self.actor.id
        running.cpu_started = time.thread_time_ns() if loaded.mean_ns >= CPU_CLOCK_NS_MIN or not loaded.calls else -1
        self.slots[slot] = self.session.local.running = running
        if self._cancelled and running.task in self._cancelled:
            self._cancelled.discard(running.task)
            running.cancelled = True
            running.number = -1  # it has not begun
            raise KeyboardInterrupt
        attempt = running.attempt
        if running.options is not None and "final" in running.options:
            attempt |= FINAL_ATTEMPT
        self.session.emitter.running(slot, running.task, started_at, loaded.name_number, attempt)
        if running.context is not self._context:
            self._enter(running.context)
        if self._devices and self._gpu is not None:
            # Calls on an event loop share its thread, and what one launches carries no number of its own.
            alone = self.actor is None or not self.actor.loops
            running.gpu = self._gpu.begin(running.task, running.attempt, loaded.name_number, alone)
        function = loaded.function
        if function is None:
            function = self._load(loaded)
        if not running.payload and running.arguments is None:
            return function, (), {}
        args, kwargs = self._arguments(running)
        # Waiting for arguments was no part of running.
        running.blocked_ns = 0
        running.ready_at = time.time_ns()
        return function, args, kwargs

    def _load(self, loaded: LoadedFunction) -> Any:
        if self.actor is not None and not loaded.blob:
            return self.actor.method(loaded.method)
        try:
            function = loaded.function = deserialize(loaded.blob)
        except BaseException as error:
            raise ArgumentError from error
        return function

    def _arguments(self, running: Running) -> tuple[Any, Any]:
        arguments = running.arguments
        try:
            if arguments is None:
                args, kwargs = deserialize(running.payload)
                return args, kwargs
            views: dict[Any, Any] = {}
            for position, kind, data in arguments:
                if kind == m.ARGUMENT_STORED:
                    views[position] = self._stored(running, data)
            if views:
                running.fetched_at = time.time_ns()
            args, kwargs = deserialize(views.get("*", running.payload))
            args = list(args)
            for position, kind, data in arguments:
                if position == "*":
                    continue
                value = deserialize(data if kind == m.ARGUMENT_INLINE else views[position])
                if type(position) is int:
                    args[position] = value
                else:
                    kwargs[position] = value
            return args, kwargs
        except (RayError, KeyboardInterrupt, Unreadable):
            raise
        except BaseException as error:
            raise ArgumentError from error

    def _stored(self, running: Running, identifier: bytes) -> Any:
        """An argument that lies in the store. Raises Unreadable if the attempt is to be given back instead."""
        try:
            return self.session.values.pinned_view(identifier)
        except Unreadable as lost:
            if running.lease and not running.cancelled:
                raise
            # Calls of an actor keep their order: this one waits where it is.
            if self.actor is not None and not self.actor.concurrent:
                self._recovering = running
            try:
                return self.session.values.recovered(identifier, str(lost))
            finally:
                self._recovering = None

    def give_back(self, running: Running, lost: Unreadable) -> None:
        """An argument cannot be read: the owner has the attempt run again when that is there again."""
        session = self.session
        self._interrupt = b""
        session.interrupt_pending.clear()
        if running.gpu:
            self._gpu.end(running.gpu)
        self.slots.pop(running.slot, None)
        session.local.running = None
        session.emitter.idle(running.slot)
        with session.lock:
            running.link.send(m.encode(m.ArgumentLost(running.task, running.attempt, lost.identifier, str(lost))))
            session.send_everything()

    def store_results(self, running: Running, result: Any) -> tuple[list[Any], dict[str, Any] | None]:
        """The results as they travel. Raises what makes them unfit to: wrong number, not picklable, store full."""
        returns = running.returns
        running.blocked_in_run_ns = running.blocked_ns
        if returns == 1 and type(result) in NUMBERS and running.options is None:
            pickled = pickle.dumps(result, PICKLE_PROTOCOL)
            if len(pickled) <= self.session.config.inline_bytes_max:
                return [pickled], None
        if type(result) is Filled:
            return result.values, self._hand_out(running, result.contained)
        if returns == 1:
            results: tuple[Any, ...] = (result,)
        elif returns <= 0:
            return [_NONE] if returns < 0 else [], None
        else:
            results = tuple(result) if hasattr(result, "__iter__") else (result,)
            if len(results) != returns:
                raise ValueError(
                    f"{running.loaded.name} must return {returns} values (num_returns={returns}), "
                    f"it returned {len(results)}"
                )
        values: list[Any] = []
        contained: list[list[bytes]] = []
        wanted = running.options.get("wanted") if running.options is not None else None
        for index, value in enumerate(results):
            if wanted is not None and index not in wanted:
                values.append(None)
                contained.append([])
                continue
            stored, references = self.store_one(running.task + index.to_bytes(4, "big"), value, "the result")
            values.append(stored)
            contained.append(references)
        return values, self._hand_out(running, contained)

    def _hand_out(self, running: Running, contained: list[list[bytes]]) -> dict[str, Any] | None:
        """Register who called as the holder of the references inside of results, one group for each of them."""
        if not any(contained):
            return None
        with self.session.lock:
            for group in contained:
                self.session.ownership.hand_out(group, running.link.peer.worker)
        return {"contained": contained}

    def store_one(self, identifier: bytes, value: Any, name: str) -> tuple[Any, list[bytes]]:
        """One value as it travels, in the store if it is large, and the references inside. ``name``: what it is."""
        serialized = serialize(value, name)
        if serialized.size <= self.session.config.inline_bytes_max:
            return serialized.to_bytes(), serialized.references
        return self.session.values.store(identifier, serialized), serialized.references

    def fail(self, running: Running, error: BaseException, ended_at: int) -> None:
        """The attempt raised: say what to its owner."""
        if self.termination.asked and not isinstance(error, Exception):
            self.crash(running.loaded.name, SystemExit(1))
        if isinstance(error, ArgumentError) and error.__cause__ is not None:
            error = error.__cause__
            error.add_note(
                f"while {running.loaded.name} or its arguments were rebuilt in a worker: the classes of values must "
                "be importable there, and modules are looked for in sys.path as it was when obsray.init() was called "
                "(extend it before, or give runtime_env={'py_modules': [...]})"
            )
        extra: dict[str, Any] | None = None
        # Whatever a coroutine that was cancelled ends with, nobody waits for it any more.
        on_loop = self.actor is not None and bool(self.actor.loops)
        gone = on_loop or isinstance(error, TaskCancelledError) or not isinstance(error, Exception)
        if isinstance(error, KeyboardInterrupt) or (running.cancelled and gone):
            outcome, values, extra = Outcome.CANCELLED, [self._cancellation(running)], {"begun": True}
            if running.task in self._recursive:
                # What it submitted while it was being told.
                with self.session.lock:
                    self.session.cancel_children(running.task)
                    self.session.after()
        elif self.actor is not None and self.actor.exits_by(error):
            outcome, values = Outcome.ACTOR_DIED, [self.actor.farewell(error)]
        elif isinstance(error, SystemExit):
            self.crash(running.loaded.name, error)
        else:
            outcome, values = Outcome.APP_ERROR, [self._describe(error, running)]
            extra = self._retry(error, running.options)
            if running.made is not None and running.made.values:
                made = running.made
                extra = {**(extra or {}), **(self._hand_out(running, made.contained) or {}), "made": made.values}
        error.__traceback__ = None
        self.end(running, outcome, values, extra, ended_at)

    def _cancellation(self, running: Running) -> bytes:
        identifier = running.task.hex()
        if running.cancelled:
            return dump_error(TaskCancelledError(identifier))
        text = f"{running.loaded.name} (task {identifier}) raised KeyboardInterrupt, which ends a task as cancelled"
        error = TaskCancelledError(identifier, text)
        return dump_error(RayTaskError(running.loaded.name, text, error, pid=os.getpid(), task_id=identifier))

    def crash(self, name: str, error: SystemExit) -> NoReturn:
        """``sys.exit()`` was called in ``name``: this process ends here and now, and that counts as a crash."""
        code, terminated = error.code, self.termination.asked
        self.termination.ending = True
        with self.session.lock:
            self.session.send_everything()
        how = "met SIGTERM" if terminated else f"called sys.exit({'' if code is None else repr(code)})"
        print(f"{name} {how}: its process ends", file=sys.stderr)
        # What user code registered; it may still use the runtime.
        atexit._run_exitfuncs()
        self.close_capture()
        sys.stdout.flush()
        sys.stderr.flush()
        if terminated:
            die()
        os._exit(code & 0xFF if isinstance(code, int) else 0 if code is None else 1)

    def _describe(self, error: BaseException, running: Running) -> bytes:
        text = format_user_traceback(error)
        # Of an error that came from a task this one waited for, the innermost cause is the one to catch.
        cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
        shown = self.actor.shown() if self.actor is not None else None
        wrapped = RayTaskError(
            running.loaded.name, text, cause, pid=os.getpid(), actor_repr=shown, task_id=running.task.hex()
        )
        wrapped.trace_id = running.trace.hex()
        if isinstance(cause, RayError):
            # An error of the runtime (a dead actor, a lost object) that user code met and did not catch.
            wrapped.story = cause.story
        return dump_error(wrapped)

    def _retry(self, error: BaseException, options: dict[str, Any] | None) -> dict[str, Any] | None:
        wanted = options.get("retry") if options is not None else None
        if wanted is None or not isinstance(error, Exception):
            return None
        if wanted is True:
            return {"retry": True}
        cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
        return {"retry": True} if isinstance(cause, pickle.loads(wanted)) else None

    def end(
        self, running: Running, outcome: Outcome, values: list[Any], extra: dict[str, Any] | None, ended_at: int
    ) -> None:
        """Queue the result and record the attempt."""
        session, loaded, options = self.session, running.loaded, running.options
        self._interrupt = b""
        session.interrupt_pending.clear()
        if self._recursive:
            self._recursive.discard(running.task)
        if running.gpu:
            self._gpu.end(running.gpu)
        run_ns = ended_at - running.ready_at
        if run_ns < 0:
            # Somebody has set the clock back.
            run_ns = 0
        loaded.calls += 1
        loaded.mean_ns = (loaded.mean_ns * 7 + run_ns) >> 3
        if running.borrowed is not None:
            kept = self._kept(running.borrowed)
            if kept:
                extra = {**(extra or {}), "kept": kept}
        if options is not None and options.get("max_calls") and loaded.calls >= options["max_calls"]:
            extra = {**(extra or {}), "retire": True}
        output = self.output
        if output is not None and (run_ns >= LOOK_NS or output.writer is running):
            output.ended(running)
        self.slots.pop(running.slot, None)
        session.local.running = None
        session.emitter.idle(running.slot)
        if running.cancelled and outcome is Outcome.OK and self.actor is not None:
            # A call is only asked to stop and nothing interrupts it: this is how it does. The value of a task, which
            # had to catch the interrupt to have one, stands.
            outcome, values = Outcome.CANCELLED, [dump_error(TaskCancelledError(running.task.hex()))]
            extra = {**(extra or {}), "begun": True}
        if self.checkpoints is not None:
            self.checkpoints.ended(running, outcome, extra is not None and "retry" in extra)
        size = 0
        for value in values:
            size += len(value) if type(value) is bytes else value or 0
        self._add(running.link, (running.task, running.attempt, int(outcome), values, extra, run_ns))
        run_seconds = run_ns / 1e9
        cpu_started = running.cpu_started
        cpu_seconds = (time.thread_time_ns() - cpu_started) / 1e9 if cpu_started >= 0 else run_seconds
        # Waiting for room while storing is part of storing.
        blocked_ns = running.blocked_ns if running.blocked_in_run_ns < 0 else running.blocked_in_run_ns
        blocked_seconds = blocked_ns / 1e9
        now, started, fetched, ready = time.time_ns(), running.started_at, running.fetched_at, running.ready_at
        # Also where somebody sets the clock back in the middle, no time is negative.
        session.emitter.task_ended(
            now, running.task, running.attempt, running.lease, running.batch, running.actor, loaded.name_number,
            running.dispatched_at, running.arrived_at, started, outcome,
            (fetched - started) / 1e9 if fetched > started else 0.0,
            (ready - fetched) / 1e9 if ready > fetched else 0.0,
            run_seconds - blocked_seconds if run_seconds > blocked_seconds else 0.0,
            (now - ended_at) / 1e9 if now > ended_at else 0.0, cpu_seconds, blocked_seconds, size,
        )  # fmt: skip

    def _add(self, link: Link, result: tuple[Any, ...]) -> None:
        self._results.append((link, result))

    def _kept(self, borrowed: list[bytes]) -> list[bytes]:
        """What came in with the arguments and is still referred to; the submitter registers us as holder."""
        session, kept = self.session, []
        with session.lock:
            if dropped:
                session.drain_dropped()
            for identifier in set(borrowed):
                entry = session.ownership.entries.get(identifier)
                if entry is not None and (entry.local > 0 or entry.pins > 0) and not entry.registered:
                    entry.registered = 1
                    kept.append(identifier)
        return kept

    def _enter(self, context: dict[str, Any]) -> None:
        """The attempt that begins belongs to another lease than the one before."""
        self._context = context
        if self._devices or context.get("devices"):
            self._set_devices(context)
        if self._threads:
            self._set_threads(context)
        captured = context["group"] if context.get("capture") else b""
        if captured != self._captured:
            # Functions that were called before have plans for tasks elsewhere.
            self._captured = captured
            planned = self.session.planned
            for function in list(planned):
                function.forget_plan()
            planned.clear()

    def gpus_named(self, devices: list[int]) -> list[Any]:
        """Devices as users know them: numbers, or the names that CUDA_VISIBLE_DEVICES had for the driver."""
        return [int(name) if name.isdigit() else name for name in names_of_gpus(devices, self._visible)]

    def _set_devices(self, context: dict[str, Any]) -> None:
        """Make exactly the devices of this lease visible."""
        devices = tuple(context.get("devices", {}).get("GPU", ()))
        if devices == self._devices:
            return
        self._show_devices(devices)
        if devices and not self._gpu_asked:
            self._start_capture(devices)
        self._devices = devices

    def hide_devices(self) -> None:
        """This process owns no devices yet, so CUDA shows it none, unless its environment says otherwise."""
        given = (self.session.place.get("description") or {}).get("env_vars") or {}
        self._unowned = given.get(_VISIBLE, None if os.environ.get(_NOT_ON_ZERO) == "0" else "")
        self._show_devices(())

    def _show_devices(self, devices: tuple[int, ...]) -> None:
        """Have CUDA show these devices and no others: who asked for none gets none, or what others own is shared."""
        shown = ",".join(names_of_gpus(devices, self._visible)) if devices else self._unowned
        if not self._sets_visible:
            return
        if shown is not None:
            os.environ[_VISIBLE] = shown
        elif self._visible:
            os.environ[_VISIBLE] = self._visible
        else:
            os.environ.pop(_VISIBLE, None)

    def _set_threads(self, context: dict[str, Any]) -> None:
        """Libraries that are loaded from here on use as many threads as the lease has CPUs."""
        threads = max(context.get("resources", {}).get("CPU", 0) // UNIT, 1)
        if threads != self._threads:
            self._threads = threads
            os.environ[THREADS_OF_A_TASK] = str(threads)

    def _start_capture(self, devices: tuple[int, ...]) -> None:
        """Capture what these GPUs do from here on: before the first call of CUDA, and only in workers that own one."""
        self._gpu_asked = True
        session, config = self.session, self.session.config
        if config.gpu_telemetry == "off" or config.telemetry == "off":
            return
        from obsray.gpu import capture
        from obsray.gpu.words import Level

        self._gpu = capture.start(
            Level[config.gpu_telemetry.upper()], session.directory / "rings", session.worker, session.emitter, devices,
            config.gpu_raw_bytes_max, config.gpu_flush_seconds, config.gpu_cost_ratio_max,
        )  # fmt: skip

    def close_capture(self) -> None:
        """Hand over what the GPUs did and was not handed over yet."""
        if self._gpu is not None:
            self._gpu.close()

    # --- becoming an actor --------------------------------------------------------------------------------------------

    def _on_start_actor(self, link: Link, message: m.Message) -> None:
        from obsray.core.runtime.actor import ActorRunner

        runner = ActorRunner(self, m.decode(message))
        self.queue.append(runner)


def names_of_gpus(devices: Iterable[int], visible: str) -> list[str]:
    """Devices as CUDA knows them: their numbers, or what CUDA_VISIBLE_DEVICES calls them if those are no numbers."""
    words = [word.strip() for word in visible.split(",") if word.strip()]
    named = bool(words) and not all(word.isdigit() for word in words)
    return [words[device] if named and device < len(words) else str(device) for device in devices]


def call_user_code(function: Any, args: Any, kwargs: Any) -> Any:
    """The frame below which everything is the user's; ``interrupts.in_runtime`` looks for its name."""
    return function(*args, **kwargs)
