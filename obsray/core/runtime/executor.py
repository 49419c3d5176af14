"""Runs tasks and actor calls in a worker.

The main thread takes tasks from a queue, runs them and collects results; results leave when the queue is empty, after
``SEND_AFTER_NS``, or by the watcher if a task runs long. Tasks that wait behind one that blocks in ``get`` go back to
their owners at once, because they may be what it waits for.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import Any

from obsray.core.protocol import messages as m
from obsray.core.runtime.ownership import READY
from obsray.core.runtime.serialization import deserialize, dump_error, dump_exception, load_exception, serialize
from obsray.core.runtime.session import Running, Session, in_runtime
from obsray.core.transport.links import Link
from obsray.errors import RayError, RayTaskError, TaskCancelledError, format_user_traceback
from obsray.telemetry.events import Outcome, Reason, WaitKind

#: Results wait for company at most this long while there is more to run.
SEND_AFTER_NS = 1_000_000
#: CPU time is read from the clock only for tasks at least this long; shorter ones count as all CPU.
CPU_CLOCK_NS_MIN = 100_000
_DONE_TAG = m.Done._field_defaults["tag"]


class Item:
    """A task as it arrived: ``fields`` are ``messages.TASK_FIELDS``."""

    __slots__ = ("arrived_at", "batch", "context", "dispatched_at", "fields", "lease", "link")

    def __init__(
        self, link: Link, lease: int, batch: int, dispatched_at: int, context: dict[str, Any], arrived_at: int,
        fields: tuple[Any, ...],
    ) -> None:
        self.link = link
        self.lease = lease
        self.batch = batch
        self.dispatched_at = dispatched_at
        self.context = context
        self.arrived_at = arrived_at
        self.fields = fields


class LoadedFunction:
    """A function as a worker knows it: its code is unpickled at its first call."""

    __slots__ = ("blob", "calls", "function", "mean_ns", "name", "name_number")

    def __init__(self, name: str, name_number: int, blob: bytes) -> None:
        self.name = name
        self.name_number = name_number
        self.blob = blob
        self.function: Any = None
        self.calls = 0
        self.mean_ns = 0


class ArgumentError(Exception):
    """Arguments or code could not be unpickled here; ``cause`` says why."""


class Executor:
    """What a worker does besides being a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.queue: deque[Item] = deque()
        self.exiting = ""
        self.actor: Any = None
        self._results: dict[Link, list[tuple[Any, ...]]] = {}
        self._sent_ns = 0
        self._contexts: dict[int, dict[str, Any]] = {}
        self._devices: tuple[int, ...] | None = None
        self._running: Running | None = None
        self._item: Item | None = None
        self._started_at = 0
        self._marked = False
        self._blocked = False
        self._functions: dict[str, LoadedFunction] = {}
        #: Task ids whose cancellation was asked for before or while they run.
        self.cancelled: set[bytes] = set()
        self._interrupt: bytes = b""
        self._main = threading.get_ident()
        session.executor = self
        session.handle(m.DefineFunction, self._on_define)
        session.handle(m.Push, self._on_push)
        session.handle(m.Recall, self._on_recall)
        session.handle(m.CancelTask, self._on_cancel)
        session.handle(m.StartActor, self._on_start_actor)
        signal.signal(signal.SIGINT, self._on_signal)

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run tasks until told to exit."""
        session, queue = self.session, self.queue
        while not self.exiting:
            try:
                item = queue.popleft()
            except IndexError:
                with session.lock:
                    session.send_everything()
                if not queue and not self.exiting:
                    self._idle_turn()
                continue
            self.execute(item)
            if not queue or time.time_ns() - self._sent_ns > SEND_AFTER_NS:
                with session.lock:
                    session.send_everything()
        with session.lock:
            session.send_everything()

    def _idle_turn(self) -> None:
        session = self.session
        if session._driving.acquire(timeout=0.05):
            try:
                session.turn(None)
            finally:
                session._driving.release()
                if session._sleepers:
                    session._wake_a_sleeper()

    def busy(self) -> bool:
        """Whether the main thread runs a task."""
        return self._running is not None

    def exit(self, reason: str) -> None:
        """Stop after the task that is running."""
        self.exiting = reason or "asked to"
        self.session.reactor.wake()

    def send_results(self) -> None:
        """Queue all collected results for sending. Called with the session's lock held."""
        if self._results:
            results, self._results = self._results, {}
            for link, batch in results.items():
                link.send((_DONE_TAG, batch))
        self._sent_ns = time.time_ns()

    def tick(self, now: float) -> None:
        """Called by the watcher with the lock held, while the main thread runs user code or sleeps."""
        running, item = self._running, self._item
        if running is None or item is None:
            return
        if not self._marked and time.time_ns() - self._started_at > 5_000_000:
            self._marked = True
            fields = item.fields
            self.session.emitter.task_started(
                time.time_ns(), running.task, running.attempt, item.lease, item.batch, running.actor,
                self.session.emitter.intern(running.name), item.dispatched_at, item.arrived_at, self._started_at,
            )
            del fields
        if self._interrupt and self._interrupt == running.task:
            signal.pthread_kill(self._main, signal.SIGINT)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _on_define(self, link: Link, message: m.Message) -> None:
        _, number, name, blob = message
        link.state[number] = LoadedFunction(name, self.session.emitter.intern(name), blob)

    def _on_push(self, link: Link, message: m.Message) -> None:
        _, lease, batch, dispatched_at, context, tasks = message
        if context is not None:
            self._contexts[lease] = context
        if lease and self._blocked:
            link.send(m.encode(m.Returned([task[0] for task in tasks], int(Reason.BLOCKED_IN_GET))))
            return
        now = time.time_ns()
        known = self._contexts.get(lease, {})
        self.queue.extend([Item(link, lease, batch, dispatched_at, known, now, task) for task in tasks])

    def _on_recall(self, link: Link, message: m.Message) -> None:
        wanted = set(message[1])
        back, stay = [], []
        while self.queue:
            item = self.queue.popleft()
            if item.link is link and item.lease and (not wanted or item.fields[0] in wanted):
                back.append(item.fields[0])
            else:
                stay.append(item)
        self.queue.extendleft(reversed(stay))
        link.send(m.encode(m.Returned(back, int(Reason.FAIRNESS))))

    def _on_cancel(self, link: Link, message: m.Message) -> None:
        _, task, recursive = message
        running = self._running
        self.cancelled.add(task)
        if recursive:
            self.session.cancel_children(task)
        if running is not None and running.task == task and self.actor is None:
            self._interrupt = task
            signal.pthread_kill(self._main, signal.SIGINT)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        running = self._running
        if not self._interrupt or running is None or running.task != self._interrupt:
            return
        if in_runtime(frame):
            self.session.interrupt_pending = True
            self.session.reactor.wake()
            return
        self._interrupt = b""
        raise KeyboardInterrupt

    def link_closed(self, link: Link) -> None:
        """An owner is gone: nobody wants its tasks."""
        self._results.pop(link, None)
        if any(item.link is link for item in self.queue):
            stay = [item for item in self.queue if item.link is not link]
            self.queue.clear()
            self.queue.extend(stay)

    # --- blocking -------------------------------------------------------------------------------------------------

    def blocked(self, running: Running, kind: WaitKind) -> None:
        """The running task waits: its CPU is free, and what is queued behind it goes back."""
        session = self.session
        with session.lock:
            session.emitter.task_blocked(time.time_ns(), running.task, int(kind), 0, bytes(20))
            if running.lease:
                self._blocked = True
                back: dict[Link, list[bytes]] = {}
                for item in self.queue:
                    back.setdefault(item.link, []).append(item.fields[0])
                self.queue.clear()
                if running.link is not None:
                    back.setdefault(running.link, [])
                for link, tasks in back.items():
                    link.send(m.encode(m.Returned(tasks, int(Reason.BLOCKED_IN_GET))))
                session.node.send(m.encode(m.Blocked()))
            session.send_everything()

    def unblocked(self, running: Running, blocked_ns: int, kind: WaitKind) -> None:
        """The running task goes on."""
        session = self.session
        running.blocked_ns += blocked_ns
        with session.lock:
            session.emitter.task_unblocked(time.time_ns(), running.task, int(kind), blocked_ns / 1e9)
            if running.lease:
                self._blocked = False
                session.node.send(m.encode(m.Unblocked()))
                session.after()

    # --- one task ---------------------------------------------------------------------------------------------------

    def execute(self, item: Item) -> None:
        """Run one attempt and queue its result."""
        task, attempt, number, payload, arguments, returns, trace, options = item.fields
        session, link = self.session, item.link
        if link.closed:
            return
        loaded: LoadedFunction = link.state[number]
        if task in self.cancelled:
            self.cancelled.discard(task)
            self._add(link, (task, attempt, int(Outcome.CANCELLED), [dump_error(TaskCancelledError(task.hex()))], None, 0))
            return
        started_at = time.time_ns()
        emitter = session.emitter
        running = Running(task, attempt, trace, loaded.name, item.lease, link)
        running.context = item.context
        if self.actor is not None:
            running.actor = self.actor.id
        self._started_at, self._marked, self._item = started_at, False, item
        session.local.running = self._running = running
        emitter.running(0, task, started_at, loaded.name_number, attempt)
        fetched_at = ready_at = ended_at = started_at
        cpu_started = time.thread_time_ns() if loaded.mean_ns >= CPU_CLOCK_NS_MIN or not loaded.calls else -1
        extra: dict[str, Any] | None = None
        outcome = Outcome.OK
        try:
            try:
                if item.context.get("devices") or self._devices is not None:
                    self._set_devices(item.context)
                function = self._load(loaded)
                args, kwargs, fetched_at = self._arguments(payload, arguments, started_at)
                ready_at = time.time_ns() if payload or arguments else started_at
            except (ArgumentError, RayError) as error:
                raise error.__cause__ or error from None
            result = call_user_code(function, args, kwargs)
            ended_at = time.time_ns()
            args = kwargs = None
            values, extra = self._store_results(task, returns, result, link, loaded.name)
            result = None
        except BaseException as error:
            ended_at = max(ended_at, ready_at) if ended_at != started_at else time.time_ns()
            outcome, values, extra = self._failure(error, task, trace, loaded.name, options)
            error.__traceback__ = None
            args = kwargs = result = None
        self._interrupt = b""
        session.interrupt_pending = False
        stored_at = time.time_ns()
        run_ns = ended_at - ready_at
        loaded.calls += 1
        loaded.mean_ns = (loaded.mean_ns * 7 + run_ns) >> 3
        if running.borrowed:
            kept = self._kept(running)
            if kept:
                extra = {**(extra or {}), "kept": kept}
        if options is not None and options.get("max_calls") and loaded.calls >= options["max_calls"]:
            extra = {**(extra or {}), "retire": True}
        emitter.idle(0)
        session.local.running = self._running = None
        if self.cancelled:
            if task in self.cancelled:
                self.cancelled.discard(task)
                if outcome is Outcome.OK and self.actor is not None:
                    outcome, values = Outcome.CANCELLED, [dump_error(TaskCancelledError(task.hex()))]
        self._add(link, (task, attempt, int(outcome), values, extra, run_ns))
        blocked_seconds = running.blocked_ns / 1e9
        run_seconds = run_ns / 1e9
        cpu = (time.thread_time_ns() - cpu_started) / 1e9 if cpu_started >= 0 else run_seconds
        size = 0
        for value in values:
            size += len(value) if type(value) is bytes else value
        emitter.task_ended(
            stored_at, task, attempt, item.lease, item.batch, running.actor, loaded.name_number, item.dispatched_at,
            item.arrived_at, started_at, outcome, (fetched_at - started_at) / 1e9, (ready_at - fetched_at) / 1e9,
            run_seconds - blocked_seconds, (stored_at - ended_at) / 1e9, cpu, blocked_seconds, size,
        )

    def _add(self, link: Link, result: tuple[Any, ...]) -> None:
        batch = self._results.get(link)
        if batch is None:
            self._results[link] = [result]
        else:
            batch.append(result)

    def _load(self, loaded: LoadedFunction) -> Any:
        function = loaded.function
        if function is None:
            if self.actor is not None and not loaded.blob:
                return self.actor.method(loaded.name.rpartition(".")[2])
            try:
                function = loaded.function = deserialize(loaded.blob)
            except BaseException as error:
                raise ArgumentError from error
        return function

    def _arguments(
        self, payload: bytes, arguments: list[tuple[Any, ...]] | None, started_at: int
    ) -> tuple[list[Any] | tuple[Any, ...], dict[str, Any], int]:
        """The values a task is called with, and when the last stored one was mapped."""
        if not payload and arguments is None:
            return (), {}, started_at
        fetched_at = started_at
        try:
            if arguments is None:
                args, kwargs = deserialize(payload)
                return args, kwargs, fetched_at
            views = {}
            for position, kind, data in arguments:
                if kind == m.ARGUMENT_STORED:
                    views[position] = self.session.pinned_view(data)
            if views:
                fetched_at = time.time_ns()
            args, kwargs = deserialize(views.pop("*") if "*" in views else payload)
            args = list(args)
            for position, kind, data in arguments:
                if position == "*":
                    continue
                value = deserialize(data if kind == m.ARGUMENT_INLINE else views[position])
                if type(position) is int:
                    args[position] = value
                else:
                    kwargs[position] = value
            return args, kwargs, fetched_at
        except RayError:
            raise
        except BaseException as error:
            raise ArgumentError from error

    def _store_results(
        self, task: bytes, returns: int, result: Any, link: Link, name: str
    ) -> tuple[list[Any], dict[str, Any] | None]:
        if returns == 1:
            results = (result,)
        elif returns == 0:
            return [], None
        else:
            results = tuple(result) if hasattr(result, "__iter__") else (result,)
            if len(results) != returns:
                raise ValueError(f"{name} must return {returns} values (num_returns={returns}), it returned {len(results)}")
        values: list[Any] = []
        contained: list[list[bytes]] = []
        session = self.session
        for index, value in enumerate(results):
            serialized = serialize(value)
            if serialized.size <= session.config.inline_bytes_max:
                values.append(serialized.to_bytes())
            else:
                values.append(session.store(task + index.to_bytes(4, "big"), serialized))
            contained.append(serialized.references)
        if any(contained):
            with session.lock:
                for group in contained:
                    session.ownership.hand_out(group, link.peer.worker)
            return values, {"contained": contained}
        return values, None

    def _failure(
        self, error: BaseException, task: bytes, trace: bytes, name: str, options: dict[str, Any] | None
    ) -> tuple[Outcome, list[bytes], dict[str, Any] | None]:
        if isinstance(error, KeyboardInterrupt) and task in self.cancelled:
            self.cancelled.discard(task)
            return Outcome.CANCELLED, [dump_error(TaskCancelledError(task.hex()))], None
        text = format_user_traceback(error, 2)
        wrapped = RayTaskError(name, text, error, os.getpid(), task.hex())
        wrapped.trace_id = trace.hex()
        if isinstance(error, RayTaskError) and error.cause is not None:
            # An error of a task this one waited for: the innermost cause is the one to catch.
            wrapped.cause = error.cause
        elif isinstance(error, RayError):
            # An error of the runtime (a dead actor, a lost object) keeps its own type on its way through.
            return Outcome.APP_ERROR, [dump_error(error)], self._retry(error, options)
        return Outcome.APP_ERROR, [dump_error(wrapped)], self._retry(error, options)

    def _retry(self, error: BaseException, options: dict[str, Any] | None) -> dict[str, Any] | None:
        wanted = options.get("retry") if options is not None else None
        if wanted is None or not isinstance(error, Exception):
            return None
        if wanted is True:
            return {"retry": True}
        classes = pickle.loads(wanted)
        cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
        return {"retry": True} if isinstance(cause, classes) else None

    def _kept(self, running: Running) -> list[bytes]:
        """What came in with the arguments and is still referred to; the submitter registers us as holder."""
        session, kept = self.session, []
        with session.lock:
            if session.dropped:
                session._drain_dropped()
            for identifier in set(running.borrowed):
                entry = session.ownership.entries.get(identifier)
                if entry is not None and (entry.local > 0 or entry.pins > 0) and not entry.registered:
                    entry.registered = 1
                    kept.append(identifier)
        return kept

    def _set_devices(self, context: dict[str, Any]) -> None:
        """Make exactly the devices of this lease visible."""
        devices = tuple(context.get("devices", {}).get("GPU", ()))
        if devices == self._devices:
            return
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        self._devices = devices or None

    # --- becoming an actor --------------------------------------------------------------------------------------------

    def _on_start_actor(self, link: Link, message: m.Message) -> None:
        from obsray.core.runtime.actor import ActorRunner

        self.actor = ActorRunner(self, m.decode(message))


def call_user_code(function: Any, args: Any, kwargs: Any) -> Any:
    """The frame below which everything is the user's; ``session.in_runtime`` looks for its name."""
    return function(*args, **kwargs)


