"""A worker that has become an actor: the user's object and the threads its calls run on.

Three ways to run calls. *Serial*: the worker's main thread, one after the other (the default). *Threads*: a pool for
each concurrency group, when ``max_concurrency`` or groups are given. *Event loops*: any ``async def`` method makes all
calls run on the loop of their group (``group_loop.py``), at most ``max_concurrency`` (1000) of the default group at a
time. A call starts in the order of arrival.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from obsray.core.protocol import messages as m
from obsray.core.runtime.executor import LoadedFunction, call_user_code
from obsray.core.runtime.group_loop import GroupLoop
from obsray.core.runtime.running import Running
from obsray.core.runtime.serialization import deserialize, dump_error
from obsray.errors import ActorCheckpointError, ActorDiedError, AsyncioActorExit
from obsray.telemetry.events import Outcome
from obsray.telemetry.spine import NOW_SLOTS

if TYPE_CHECKING:
    from obsray.core.runtime.executor import Executor

log = logging.getLogger("obsray.actor")

ASYNC_CONCURRENCY_DEFAULT = 1000
#: The group of methods that name none.
DEFAULT_GROUP = ""
#: How long calls on the loop may go on that were cancelled because the actor ends.
CANCEL_SECONDS_MAX = 5.0
#: How much of what an actor's class says of it is recorded.
SHOWN_CHARACTERS_MAX = 200
#: What a class does when its actor ends in order, and what was registered with ``atexit``, may take so long together.
SHUTDOWN_SECONDS_MAX = 30.0
#: How long other calls are waited for that run when the actor ends.
STOP_SECONDS_MAX = 30.0
#: How much of the names of a concurrency group's methods is recorded.
METHODS_TEXT_MAX = 1000


class ActorExit(SystemExit):
    """Control flow: ``exit_actor()`` was called in a method."""


class ActorRunner:
    """One actor in its worker, from its constructor to its end."""

    def __init__(self, executor: Executor, message: m.StartActor) -> None:
        self.executor = executor
        self.spec = message.spec
        self.incarnation = message.incarnation
        self.devices = message.devices
        self.id: bytes = self.spec["actor"]
        self.link = executor.session.node
        self.lease = 0
        self.instance: Any = None
        #: What its lines on a terminal are headed with.
        self.byline: str = self.spec["class_name"]
        self.concurrent = False
        #: A call has asked for the end: what has not begun will not begin any more.
        self.leaving = False
        #: Then those that run on a loop may end first.
        self._in_order = False
        #: Calls that asked for it: they fail, whatever they did with the exception they were told by.
        self._leavers: set[bytes] = set()
        #: The loops of an async actor's groups; empty for every other actor.
        self.loops: list[GroupLoop] = []
        self._groups: dict[str, GroupLoop | _Threads] = {}
        #: Calls that wait for a thread or for room on a loop.
        self.waiting: dict[bytes, Running] = {}
        #: The attempt that made it: what its threads submit belongs to that, where it does not belong to one call.
        self.born: Running | None = None
        self._slots = itertools.count(1)
        self._warned = False

    # --- construction ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the constructor and tell the node how it went."""
        executor, spec = self.executor, self.spec
        if spec["job"] != executor.session.job:
            executor.session.meet_job(spec["job"])
        executor.actor = self
        context = {"devices": self.devices, "resources": spec.get("held", {}), "job": spec["job"], "actor": spec}
        context |= spec.get("inherited") or {}
        executor._contexts[0] = context
        fields = (spec["task"], self.incarnation, 0, spec["payload"], spec["arguments"], 1, spec["trace"], None)
        link = self.stand_in(f"{spec['class_name']}.__init__", spec["function"])
        self.born = running = Running(link, 0, 0, time.time_ns(), context, time.time_ns(), fields)
        try:
            cls, args, kwargs = executor.begin(running, 0)
            self._prepare(cls)
            self.instance = self._construct(cls, args, kwargs)
        except BaseException as error:
            if executor.termination.asked and not isinstance(error, Exception):
                executor.crash(f"{spec['class_name']}.__init__", SystemExit(1))
            failed = executor._describe(_unwrap(error), running)
            never = "; it never ran" if self.incarnation == 0 else ""
            text = (
                f"the actor {spec['class_name']} ({self.id.hex()}, pid {os.getpid()}) is dead: its constructor "
                f"raised{never}\n{_unwrap(error)!r}"
            )
            died = ActorDiedError(text + "\n" + _text_of(failed), self.id.hex(), actor_init_failed=True)
            # Whoever makes no call would hear of it nowhere.
            print(f"Exception raised in creation task: {died}", file=sys.stderr, flush=True)
            executor.end(running, Outcome.APP_ERROR, [failed], None, time.time_ns())
            self._report(m.ActorFailed(self.id, dump_error(died), False))
            executor.exit("its constructor failed")
            return
        executor.end(running, Outcome.OK, [], None, time.time_ns())
        if spec.get("checkpoint") is not None and not self._restore(spec["checkpoint"]):
            return
        shown = self.shown()
        if shown is not None:
            self.byline = shown
            with executor.session.lock:
                emitter, worker = executor.session.emitter, executor.session.worker
                emitter.actor_described(time.time_ns(), self.id, worker, emitter.intern(shown[:SHOWN_CHARACTERS_MAX]))
        self._report(m.ActorReady(self.id, os.getpid()))

    def _construct(self, cls: type, args: Any, kwargs: Any) -> Any:
        if not self.loops:
            return call_user_code(cls, args, kwargs)
        # Whoever looks at what runs here finds it where it is.
        threads, main = self.executor.threads, self.executor.threads[0]
        threads[0] = self.loops[0].thread.ident or main
        try:
            return self.loops[0].construct(cls, args, kwargs)
        finally:
            threads[0] = main

    def _restore(self, wishes: dict[str, Any]) -> bool:
        from obsray.core.runtime.checkpoints import Checkpoints

        try:
            checkpoints = Checkpoints(self, wishes)
            if self.incarnation:
                checkpoints.restore()
        except Exception as error:
            if not isinstance(error, ActorCheckpointError):
                who = f"{self.spec['class_name']} ({self.id.hex()}, pid {os.getpid()})"
                text = f"the actor {who} is dead: its checkpoint could not be read: {error!r}"
                error = ActorCheckpointError(text, self.id.hex())
            self.give_up(error)
            return False
        self.executor.checkpoints = checkpoints
        return True

    def give_up(self, error: ActorCheckpointError) -> None:
        """The actor's state would be wrong from here on: it ends for good, and its callers hear why."""
        detail = error.error_msg.partition(" is dead: ")[2].partition("\n")[0]
        self._report(m.ActorGaveUp(self.id, dump_error(error), detail[:500]))
        self.executor.exit("its state could not be kept")

    def stand_in(self, name: str, blob: bytes = b"") -> Any:
        """In place of an owner's link, for what runs without one: a function called ``name`` has number 0 there."""
        return _NoOwner(self, name, blob)

    def shown(self) -> str | None:
        """How the actor's class says an actor looks; None if it does not say."""
        says: Any = type(self.instance).__repr__
        if self.instance is None or says is object.__repr__:
            return None
        try:
            return repr(self.instance)
        except Exception as error:
            return f"<{type(self.instance).__name__}, whose __repr__ raised {type(error).__name__}>"

    def _report(self, message: Any) -> None:
        session = self.executor.session
        with session.lock:
            session.node.send(m.encode(message))
            session.send_everything()

    def _prepare(self, cls: type) -> None:
        concurrency = self.spec.get("concurrency") or {}
        groups: dict[str, int] = dict(concurrency.get("groups") or {})
        is_async = any(
            inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
            for _, value in inspect.getmembers(cls, inspect.isfunction)
        )
        self.executor.producers.together_max = concurrency.get("ahead", -1)
        limit = concurrency.get("max") or (ASYNC_CONCURRENCY_DEFAULT if is_async else 1)
        groups[DEFAULT_GROUP] = limit
        if is_async:
            self.concurrent = True
            # The default group's is the first.
            self.loops = [GroupLoop(self, name, groups[name]) for name in sorted(groups)]
            self._groups = dict(zip(sorted(groups), self.loops, strict=True))
        elif len(groups) > 1 or limit > 1:
            self.concurrent = True
            self._groups = {name: _Threads(self, name, size) for name, size in groups.items()}
        if self.concurrent:
            self._tell_concurrency(cls, groups)

    def _tell_concurrency(self, cls: type, groups: dict[str, int]) -> None:
        """Record how many calls run at a time, and which methods belong to which group."""
        methods: dict[str, list[str]] = {}
        for name, function in inspect.getmembers(cls, inspect.isfunction):
            options = getattr(function, "__obsray_method__", {})
            methods.setdefault(options.get("concurrency_group") or DEFAULT_GROUP, []).append(name)
        emitter = self.executor.session.emitter
        with self.executor.session.lock:
            for name, size in groups.items():
                told = "" if name == DEFAULT_GROUP else ",".join(methods.get(name, ()))
                emitter.actor_concurrency(
                    time.time_ns(), self.id, self.executor.session.worker, emitter.intern(name), size,
                    emitter.intern(told[:METHODS_TEXT_MAX]),
                )  # fmt: skip

    def method(self, name: str) -> Any:
        """What a call of ``name`` runs."""
        if name == "__ray_ready__":
            return _ready
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_terminate__":
            return self.terminate
        found = getattr(self.instance, name)
        if not callable(found):
            # The object has something else by the name of a method: the method is meant.
            cls = type(self.instance)
            found = inspect.getattr_static(cls, name).__get__(self.instance, cls)
        return found

    def terminate(self) -> None:
        """End in order, after the calls that came before."""
        self._in_order = True
        raise ActorExit

    # --- calls that run beside others -------------------------------------------------------------------------------

    def submit(self, running: Running) -> None:
        """Hand a call to the threads or the loop of its group."""
        options = running.options or {}
        group = options.get("group", DEFAULT_GROUP)
        if group not in self._groups:
            running.loaded = running.link.state[running.number]
            self.executor.fail(running, ValueError(f"no concurrency group is called {group!r}"), time.time_ns())
            return
        if running.link.closed or self.executor.was_cancelled(running):
            return
        self.waiting[running.task] = running
        self._groups[group].put(running)

    def next_slot(self) -> int:
        """A place in the black box for a call that runs beside others."""
        return next(self._slots) % (NOW_SLOTS - 1) + 1

    def run_on_thread(self, running: Running, slot: int) -> None:
        """One call of a threaded actor."""
        if self.waiting.pop(running.task, None) is None:
            return
        self.executor.execute(running, slot)
        with self.executor.session.lock:
            self.executor.session.send_everything()

    def cancel(self, task: bytes) -> bool:
        """Cancel a call that runs on a loop or waits for it or for a thread. Called with the session's lock held."""
        if any(loop.cancel(task) for loop in self.loops):
            return True
        waiting = self.waiting.pop(task, None)
        if waiting is not None:
            self.executor._cancelled.add(task)
            self.executor.was_cancelled(waiting)
            return True
        return False

    def exits_by(self, error: BaseException) -> bool:
        """Whether a call ended with the wish to end the actor for good: ``exit_actor()``, or ``sys.exit(0)``.

        ``sys.exit()`` with another code, or none, ends the process as a crash, which counts as one.
        """
        if isinstance(error, SystemExit):
            return isinstance(error, ActorExit) or error.code == 0
        return isinstance(error, AsyncioActorExit)

    def farewell(self, error: BaseException) -> bytes:
        """A call asked for the end of the actor. The error for the one that asked."""
        self.leave()
        how = "sys.exit(0)" if type(error) is SystemExit else "exit_actor()"
        who = f"{self.spec['class_name']} ({self.id.hex()}, pid {os.getpid()})"
        return dump_error(ActorDiedError(f"the actor {who} ended itself by {how}", self.id.hex()))

    def ended_outside(self, error: BaseException) -> None:
        """Code on a loop that no call waits for raised SystemExit or KeyboardInterrupt."""
        if self.exits_by(error):
            self.leave()
        elif isinstance(error, SystemExit):
            self.executor.crash(f"a task on the event loop of {self.spec['class_name']}", error)
        else:
            log.error("a task on the event loop of %s raised", self.spec["class_name"], exc_info=error)

    def asked_to_leave(self) -> None:
        """``exit_actor()`` was called, here: whatever becomes of what it raises, no call begins any more."""
        running = self.executor.session.local.running
        if running is not None:
            self._leavers.add(running.task)
        if self.instance is not None or self.loops:
            self.leave()

    def has_left(self, task: bytes) -> bool:
        """Whether this call asked for the end of the actor."""
        return task in self._leavers

    def leave(self) -> None:
        """The actor is to end for good: no call begins any more."""
        self.leaving = True
        if not self.loops:
            self.waiting.clear()
        self.executor.exit("exit_actor() was called")

    def warn_if_blocking(self) -> None:
        """The code on this thread is about to wait in ``get``: on an event loop that stops every other call there."""
        if self._warned or self.instance is None:
            return
        if all(loop.thread is not threading.current_thread() for loop in self.loops):
            return
        self._warned = True
        log.warning(
            "obsray.get() in an async actor (%s) blocks an event loop, and with it all other calls of that concurrency "
            "group; use `await reference` instead",
            self.spec["class_name"],
        )

    def shut_down(self) -> None:
        """Have the class do what it wants done at an end in order, ``__ray_shutdown__``, for as long as is allowed."""
        timer = threading.Timer(SHUTDOWN_SECONDS_MAX, os._exit, (1,))
        timer.daemon = True
        timer.start()
        hook = getattr(self.instance, "__ray_shutdown__", None)
        if hook is None:
            return
        try:
            result = call_user_code(hook, (), {})
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except BaseException:
            log.exception("__ray_shutdown__ of %s raised", self.spec["class_name"])

    def say_goodbye(self) -> None:
        """Everything that ran has ended and its results have left: tell the node that this end is wanted."""
        if self.leaving:
            self._report(m.ActorFailed(self.id, b"", True))

    def stop(self) -> None:
        """Wait for calls that run on other threads, then end them."""
        at_once = bool(self.loops) and self.leaving and not self._in_order
        if at_once:
            for loop in self.loops:
                loop.cancel_all()
        deadline = time.monotonic() + (CANCEL_SECONDS_MAX if at_once else STOP_SECONDS_MAX)
        for group in self._groups.values():
            group.drain(deadline)


class _Threads:
    """The threads of one concurrency group, started as calls come."""

    def __init__(self, runner: ActorRunner, name: str, size: int) -> None:
        self.runner = runner
        self.size = size
        self._queue: queue.SimpleQueue[Running | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._name = name
        self._free = 0

    def put(self, running: Running) -> None:
        """Run the call as soon as a thread is free."""
        if self._free < self._queue.qsize() + 1 and len(self._threads) < self.size:
            slot = self.runner.next_slot()
            thread = threading.Thread(
                target=self._run, args=(slot,), name=f"obsray-actor-{self._name}{slot}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._queue.put(running)

    def _run(self, slot: int) -> None:
        self.runner.executor.threads[slot] = threading.get_ident()
        while True:
            self._free += 1
            running = self._queue.get()
            self._free -= 1
            if running is None:
                return
            self.runner.run_on_thread(running, slot)

    def drain(self, deadline: float) -> None:
        """Wait until every thread has ended its call, or until ``deadline`` (monotonic)."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class _NoOwner:
    """Stands in for an owner's link: nobody waits for the result here."""

    def __init__(self, runner: ActorRunner, name: str, blob: bytes) -> None:
        session = runner.executor.session
        self.state = {0: LoadedFunction(name, session.emitter.intern(name), blob)}
        self.closed = True
        self.peer = runner.link.peer

    def send(self, message: Any) -> None:
        """Nobody waits for it."""


def _ready() -> bool:
    return True


def _unwrap(error: BaseException) -> BaseException:
    from obsray.core.runtime.executor import ArgumentError

    return error.__cause__ if isinstance(error, ArgumentError) and error.__cause__ is not None else error


def _text_of(error: bytes) -> str:
    try:
        deserialize(error)
    except BaseException as raised:
        return str(raised)
    return ""
