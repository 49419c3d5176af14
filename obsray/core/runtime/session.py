"""Shell: one process' part in a runtime; the one object behind the API of a driver or worker.

Threads. There is no I/O thread on the fast path: whoever waits (``get``, ``wait``, an idle worker) drives the sockets
itself ("leader"), so a round trip crosses no thread. A *watcher* thread (``watcher.py``) steps in only when nobody
drives: it notices within ``TICK_SECONDS`` that the leader has left, and sleeps in ``epoll`` while the process is quiet.

Locks. ``lock`` guards all machines and links and is held for microseconds; ``driving`` is held by the leader, also
while it is blocked in ``epoll``. ``lock`` may be taken while holding ``driving``, never the other way round.
References may die on any thread at any time, so ``ObjectRef.__del__`` only appends to ``dropped``.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obsray.causes import rendered_now
from obsray.config import Config
from obsray.core.protocol import messages as m
from obsray.core.runtime import ambient
from obsray.core.runtime.calls import ActorCalls
from obsray.core.runtime.dispatch import Dispatcher
from obsray.core.runtime.environments import Environments, set_import_path
from obsray.core.runtime.inbox import Inbox
from obsray.core.runtime.log_follower import claim_output
from obsray.core.runtime.logs import set_up_logging
from obsray.core.runtime.ownership import NODE, Ownership, Task
from obsray.core.runtime.references import ObjectRef, counted, dropped
from obsray.core.runtime.reservations import Reservations
from obsray.core.runtime.running import Here, Running
from obsray.core.runtime.storage import Arena
from obsray.core.runtime.submitted import SubmittedRun
from obsray.core.runtime.values import Values
from obsray.core.runtime.verdicts import Verdicts
from obsray.core.runtime.waiting import NOTICED_SECONDS, WAITED_FOR_MAX, Answer, Waiter, object_of
from obsray.core.runtime.watcher import QUIET_SECONDS, Watcher
from obsray.core.transport import chaos
from obsray.core.transport.connection import Connection, Hello, Refused
from obsray.core.transport.dial import dial, is_address
from obsray.core.transport.links import Link, Reactor, connect
from obsray.errors import (
    GetTimeoutError,
    LocalRayletDiedError,
    RaySystemError,
)
from obsray.ids import (
    NIL_OBJECT,
    NIL_TASK,
    SEQUENCE_ACTOR,
    SEQUENCE_DETACHED_ACTOR,
    SEQUENCE_DETACHED_GROUP,
    SEQUENCE_GROUP,
    SEQUENCE_PUT,
    mark_of,
    mark_of_node,
    task_id,
)
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind, WaitKind
from obsray.telemetry.spine import Emitter, Ring, Silent

if TYPE_CHECKING:
    pass

#: Python runs signal handlers between two instructions: a signal that comes after the last of them and before the
#: process sleeps, or that another thread gets, wakes nobody. So a thread that waits never sleeps longer than this.
LEADER_SECONDS_MAX = 0.5
#: Who leaves waits this long for another thread that is inside the machines.
CLOSE_SECONDS_MAX = 5.0
#: A task counts as blocked, and gives its CPU back, after waiting this long.
BLOCKED_AFTER_SECONDS = 0.001
#: Before falling asleep the leader looks this long for an answer, if the last one came within ``FAST_ANSWER_SECONDS``:
#: waking a sleeping core costs more than a short round trip takes (measured: 9.7 k/s round trips without, 21 k/s with
#: 40 µs on an idle machine; with others on it 100 µs kept 10 to 14 k/s where 40 µs fell to 7 k/s).
SPIN_SECONDS = 100e-6
FAST_ANSWER_SECONDS = 250e-6
_FIRST_INDEX = bytes(4)
#: A worker at another node is dialed with the lock held: it must be there at once, or count as gone.
DIAL_SECONDS_MAX = 2.0
#: After a dial that waited in vain, nobody else at that node is tried for this long.
SILENT_SECONDS = 5.0
#: How long the node of this machine is waited for when this process joins. One that has ended refuses or closes the
#: connection at once; one that lives may have a few hundred others to answer first, on processors that others want.
JOIN_SECONDS_MAX = 60.0

#: What a process hears that was forked from one with a runtime.
FORKED = (
    "this process was forked from one that has a runtime and has no part in it: the sockets are its parent's. Make "
    "calls in the parent, let tasks do the work instead of forks, or call obsray.init() here to start another runtime"
)

#: What a setup hook hears: its process is about to be a worker, and a runtime of its own would stay beside that.
NOT_JOINED = (
    "a worker_process_setup_hook runs before its process joins the runtime, so it cannot call obsray; let the task or "
    "the actor's constructor do that"
)

_current: Session | None = None
_before_joining = False


def is_before_joining() -> bool:
    """Whether this process is going to be a worker and has not joined its runtime yet."""
    return _before_joining


def set_before_joining(before: bool) -> None:
    """Say so, around what runs in a worker before it joins."""
    global _before_joining
    _before_joining = before


def current() -> Session:
    """The session of this process. Raises RaySystemError if there is none."""
    if _current is None:
        raise RaySystemError("there is no runtime in this process; call obsray.init() first")
    return _current


def current_or_none() -> Session | None:
    """The session of this process, if it has one."""
    return _current


def set_current(session: Session | None) -> None:
    """Make ``session`` the one behind the API of this process."""
    global _current
    _current = session
    session_file.current = None if session is None else session.directory
    if session is not None:
        ambient.watch(current_or_none)


class Session:
    """A driver's or worker's connection to its runtime."""

    def __init__(self, directory: Path, worker: bytes, kind: ProcessKind, config: Config) -> None:
        self.directory = directory
        self.worker = worker
        self.worker_pid = os.getpid()
        self.kind = kind
        self.config = config
        self.token = (directory / "token").read_bytes()
        self.emitter: Emitter = Silent() if config.telemetry == "off" else Ring(directory / "rings", worker, kind)
        self.lock = threading.Lock()
        self.local = Here()
        #: Streams whose consumer is gone; appended to by the garbage collector.
        self.abandoned_streams: deque[Any] = deque()
        self.streams: Any = None
        #: Workers that have ended, in hex, for who shows what they print.
        self.ended_workers: deque[str] = deque(maxlen=10_000)
        #: actor id -> creation task that the node is placing.
        self.placements: dict[bytes, Task] = {}
        #: The other living nodes, by their marks: ``host:port`` and ids.
        self.node_addresses: dict[bytes, str] = {}
        self.node_ids: dict[bytes, bytes] = {}
        #: Interrupts that met the machines: at most one. Whoever takes it out raises it, so that it is raised once.
        self.interrupt_pending: deque[None] = deque(maxlen=1)
        self.closed = False
        self.failure: Exception | None = None
        self.executor: Any = None
        self.answers: dict[int, Answer] = {}
        self._numbers = itertools.count(1)
        self.task_numbers = itertools.count(1)
        self._put_numbers = itertools.count(1)
        self._actor_numbers = itertools.count(1)
        self._detached_numbers = itertools.count(1)
        self._put_prefix = worker + bytes([SEQUENCE_PUT])
        self._actor_prefix = worker + bytes([SEQUENCE_ACTOR])
        self._group_numbers = itertools.count(1)
        self._group_prefix = worker + bytes([SEQUENCE_GROUP])
        self._detached_group_numbers = itertools.count(1)
        self._detached_group_prefix = worker + bytes([SEQUENCE_DETACHED_GROUP])
        self.driving = threading.Lock()
        self.turns = 0
        self._answers_come_fast = False
        self.sleepers: list[Waiter] = []
        self._kept: set[bytes] = set()
        self.inbox = Inbox(self)
        self.values = Values(self)
        self.inbox.on_runtime_gone = self.values.abandon_futures
        self.reactor = Reactor(self.inbox.on_messages, self.inbox.on_close)
        chaos.activate(config.chaos, kind, worker, self.emitter, self.reactor)
        self.peers: dict[bytes, Link] = {}
        #: Addresses that let us wait in vain, and until when they are not asked again.
        self._silent: dict[str, float] = {}
        # First a listener, then the node: it may give this process to others as soon as it knows it.
        self.listener = self.reactor.listen(
            directory / "sockets" / f"{worker.hex()}.sock", self.token, self.inbox.on_link
        )
        try:
            self.node = self._join()
        except BaseException:
            # Where a runtime goes on, nothing stays of an attempt to join it.
            self.emitter.close(time.time_ns())
            self.reactor.shutdown()
            raise
        self.ownership = Ownership(worker)
        self.verdicts = Verdicts(self.ownership, self.emitter, time.time_ns)
        self.verdicts.oom_retries_max = config.oom_retries_max
        self.dispatcher = Dispatcher(self.ownership, self.verdicts, self.emitter, config, self.job)
        self.dispatcher.node_ids = self.node_ids
        self.calls = ActorCalls(self.ownership, self.dispatcher, self.verdicts, self.emitter)
        self.reservations = Reservations(self.ownership)
        #: In workers: what has a plan made where tasks go to the placement group of the task that runs; it holds there.
        self.planned: weakref.WeakSet[Any] = weakref.WeakSet()
        self.submission: Any = None
        self.submitted = SubmittedRun(self.emitter, self.job)
        self.verdicts.before_told = self.submitted.flush
        self.environments = Environments(directory, config.environment_package_bytes_max)
        #: What the node has prepared for this process (a worker).
        self.place: dict[str, Any] = {}
        #: What holds for the job this process works for: ``DescribeJob``.
        self.description: dict[str, Any] = {}
        self.ownership.on_freed = self.inbox.on_freed
        self.ownership.on_held = self.inbox.on_held
        self.watcher = Watcher(self, config)

    def start(self) -> None:
        """Begin to serve: messages that came with the welcome, and the watcher."""
        with self.lock:
            self.inbox.on_messages(self.node, self._early)
            self.after()
        self.watcher.start()

    # --- joining ------------------------------------------------------------------------------------------------

    def _join(self) -> Link:
        sock = connect(self.directory / "sockets" / "node.sock", self.token, self._hello(), JOIN_SECONDS_MAX)
        connection = Connection()
        fds: list[int] = []
        received: list[m.Message] = []
        while not received:
            data, new_fds, _, _ = socket.recv_fds(sock, 1 << 16, 1)
            if not data:
                raise LocalRayletDiedError(
                    f"the node of {self.directory} closed the connection: wrong token or version"
                )
            fds += new_fds
            try:
                received += connection.receive(data)
            except Refused as error:
                raise RaySystemError(f"the node of {self.directory} does not let this process in: {error}") from None
        welcome = m.decode(received[0])
        if not isinstance(welcome, m.Welcome) or not fds:
            raise RaySystemError("the node did not say Welcome")
        faults = chaos.active()
        if faults is not None:
            faults.pause("Welcome", NODE, received[0])
        self.node_id = welcome.node
        self.job = welcome.job
        self.settings = dict(welcome.settings)
        for node, address in self.settings.pop("nodes", {}).items():
            self.node_addresses[mark_of_node(node)] = address
            self.node_ids[mark_of_node(node)] = node
        for node, why in self.settings.pop("gone", {}).items():
            self.inbox.recovery.gone[mark_of_node(node)] = why
        self.arena = Arena(fds[0], welcome.arena_bytes, Path(self.settings["session_directory"]) / "spill")
        link = self.reactor.adopt(sock, Hello(NODE, int(ProcessKind.NODE), 0))
        link.connection = connection
        self._early = received[1:]
        return link

    def _hello(self) -> Hello:
        return Hello(self.worker, int(self.kind), os.getpid())

    # --- the loop -------------------------------------------------------------------------------------------------

    def after(self) -> None:
        """Let the machines act on what happened and write what they send. Call with ``lock`` held."""
        ownership = self.ownership
        if ownership.outbox or self.calls.active or self.dispatcher.active or ownership.freed or ownership.released:
            self._act()
        elif self.reactor.dirty:
            self.reactor.flush()
        # Last: whoever got a message works while this process tidies up.
        if dropped or self.arena.unpinned or self.abandoned_streams:
            if dropped:
                self.drain_dropped()
            if self.arena.unpinned:
                self._drain_unpinned()
            if self.abandoned_streams:
                self.streams.abandon(self.abandoned_streams.popleft())
            self._act()

    def _act(self) -> None:
        ownership = self.ownership
        if self.dispatcher.active:
            self.dispatcher.run(time.monotonic(), time.time_ns())
        if self.calls.active:
            self.calls.run(time.time_ns())
        ownership.settle()
        if ownership.outbox:
            if self.submitted.open:
                self.submitted.flush()
            self._route()
        self.reactor.flush()

    def drain_dropped(self) -> None:
        """Count the references that died. Call with ``lock`` held."""
        identifiers = [dropped.popleft() for _ in range(len(dropped))]
        self.ownership.drop_local(identifiers)

    def _drain_unpinned(self) -> None:
        unpinned = self.arena.unpinned
        self.node.send(m.encode(m.UnpinObjects([unpinned.popleft() for _ in range(len(unpinned))])))

    def _route(self) -> None:
        # Sending can make peers appear dead, which makes more to send.
        outbox = self.ownership.outbox
        while outbox:
            effects = outbox[:]
            del outbox[:]
            for destination, message in effects:
                link = self.node if destination == NODE else self.peers.get(destination)
                if link is None:
                    link = self._connect(destination)
                if link is not None:
                    link.send(message)
                else:
                    self.inbox.undelivered(destination, message)

    def _connect(self, worker: bytes) -> Link | None:
        try:
            sock, remote = self._reach(worker)
            link = self.reactor.adopt(sock, Hello(worker, int(ProcessKind.WORKER), 0, remote))
        except OSError as error:
            # The node will tell how it died; a worker that lives but cannot be reached must not be waited for.
            for lease in self.dispatcher.by_worker.get(worker, ()):
                self.node.send(m.encode(m.KillWorker(worker, lease.id)))
            # What it was to be sent is lost, functions too; should it be reached later, it must hear of them again.
            self.dispatcher.functions.pop(worker, None)
            self.inbox.not_reached(worker, error)
            self.reactor.wake()
            return None
        self.peers[worker] = link
        self.inbox.reached(worker)
        return link

    def _reach(self, worker: bytes) -> tuple[socket.socket, bool]:
        """A connection to a worker or driver, and whether that is at another node. Raises OSError if there is none."""
        path = self.dispatcher.paths.get(worker) or ""
        if not is_address(path):
            mark = mark_of(worker)
            address = None if mark == mark_of_node(self.node_id) else self.node_addresses.get(mark)
            if address is None:
                local = path or str(self.directory / "sockets" / f"{worker.hex()}.sock")
                return connect(local, self.token, self._hello()), False
            path = address
        now = time.monotonic()
        if self._silent.get(path, 0.0) > now:
            raise TimeoutError(f"{path} did not answer a moment ago")
        try:
            return dial(path, self.token, self._hello(), worker, DIAL_SECONDS_MAX), True
        except OSError:
            if time.monotonic() - now > DIAL_SECONDS_MAX / 2:
                self._silent[path] = time.monotonic() + SILENT_SECONDS
            raise

    def send_everything(self) -> None:
        """This process is about to wait or to run user code: nothing may stay behind. Call with ``lock`` held."""
        if self.submitted.open:
            self.submitted.flush()
        if self.dispatcher.unsent:
            self.dispatcher.push_all(time.time_ns())
        if self.calls.unsent:
            self.calls.push_all(time.time_ns())
        if self.executor is not None:
            self.executor.send_results()
        self.after()

    def turn(self, timeout: float | None, alone: bool = True) -> None:
        """Wait for something and handle it. Only the holder of ``driving`` may call this.

        ``alone``: whoever waits goes on with the next answer; for one of many no core is kept awake.
        """
        before = time.perf_counter()
        ready = self.reactor.wait(timeout, SPIN_SECONDS if alone and self._answers_come_fast else 0.0)
        self._answers_come_fast = time.perf_counter() - before < FAST_ANSWER_SECONDS
        self.turns += 1
        with self.lock:
            self.reactor.process(ready)
            self.after()
            if self.dispatcher.unsent or self.calls.unsent:
                now = time.time_ns()
                self.dispatcher.push_due(now)
                self.calls.push_due(now)
                self._act()

    def glance(self) -> None:
        """Between two tasks of a worker: send what is ready and handle what has come, without waiting.

        What nobody looks at is the watcher's, which takes the interpreter from the task that runs then.
        """
        if not self.driving.acquire(blocking=False):
            with self.lock:
                self.send_everything()
            return
        try:
            self.turns += 1
            ready = self.reactor.wait(0)
            with self.lock:
                self.send_everything()
                if ready:
                    self.reactor.process(ready)
                    self.after()
        finally:
            self.driving.release()
            if self.sleepers:
                self.wake_a_sleeper()

    def wait_until(
        self,
        waiter: Waiter,
        deadline: float | None,
        blocking: WaitKind = WaitKind.GET,
        patience: float = BLOCKED_AFTER_SECONDS,
        part: bool = False,
    ) -> None:
        """Block this thread until ``waiter`` has what it wants or ``deadline`` (monotonic) has passed.

        ``patience``: how long a task keeps its CPU while it waits. ``part``: when the deadline has passed the caller
        goes on waiting; it is one wait for those who read of it.
        """
        running = self.local.running
        blocked_at, objects, goes_on = 0, waiter.missing, False
        try:
            while waiter.missing > 0:
                now = time.monotonic()
                waiter.began = waiter.began or now
                if self.interrupt_pending:
                    self.take_interrupt()
                if self.failure is not None:
                    raise self.failure
                if deadline is not None and now >= deadline:
                    goes_on = part
                    return
                timeout = None if deadline is None else deadline - now
                if running is not None and not blocked_at:
                    blocked_at, timeout = self._maybe_block(running, waiter, timeout, blocking, patience)
                self.drive_or_sleep(waiter, timeout)
                if not waiter.noticed and waiter.missing > 0 and time.monotonic() - waiter.began > NOTICED_SECONDS:
                    self._notice(waiter, running, blocking, objects)
        finally:
            if self.watcher.asleep:
                self.watcher.wake()
            began = waiter.began
            if blocked_at > 1 and running is not None:
                self._unblock(running, blocked_at, blocking)
            elif began and self.executor is None and not goes_on and time.monotonic() - began > BLOCKED_AFTER_SECONDS:
                # Told once, however often it is asked for what has come.
                seconds, waiter.began = time.monotonic() - began, 0.0
                with self.lock:
                    self.emitter.process_waited(time.time_ns(), int(blocking), objects, waiter.first, seconds)

    def _notice(self, waiter: Waiter, running: Running | None, blocking: WaitKind, objects: int) -> None:
        """Tell of a wait that lasts: that a driver waits, and, if it is for several, which are still missing."""
        waiter.noticed = True
        task = NIL_TASK if self.executor is None or running is None else running.task
        with self.lock:
            at = time.time_ns()
            since = at - int((time.monotonic() - waiter.began) * 1e9)
            if self.executor is None:
                self.emitter.wait_noticed(at, NIL_TASK, int(blocking), objects, waiter.first, since)
            missing = [source for source in waiter.sources if not source.is_ready()]
            if len(missing) < 2 or (self.executor is not None and running is None):
                return
            wanted = [object_of(source) for source in missing[:WAITED_FOR_MAX]]
            for begin in range(0, len(wanted), 4):
                four = wanted[begin : begin + 4] + [NIL_OBJECT] * 3
                self.emitter.wait_objects(at, task, since, max(0, waiter.missing), len(missing), *four[:4])

    def drive_or_sleep(self, waiter: Waiter, timeout: float | None) -> None:
        """One turn of the sockets if nobody drives them; else sleep until ``waiter`` is served or may drive."""
        if self.driving.acquire(blocking=False):
            try:
                # The watcher may have received it between the caller's look and here.
                if waiter.missing > 0:
                    seconds = LEADER_SECONDS_MAX if timeout is None else min(timeout, LEADER_SECONDS_MAX)
                    self.turn(seconds, waiter.missing == 1)
            finally:
                self.driving.release()
                if self.sleepers:
                    self.wake_a_sleeper()
            if self.values.completions:
                # Runs what others have hung onto futures, which may wait, too: somebody must be free to drive.
                self.values.complete_futures()
            return
        waiter.event = threading.Event()
        with self.lock:
            if waiter.missing <= 0:
                return
            self.sleepers.append(waiter)
        # Bounded, so that a leader that left without a successor cannot strand this thread.
        waiter.event.wait(QUIET_SECONDS if timeout is None else min(timeout, QUIET_SECONDS))
        with self.lock:
            if waiter in self.sleepers:
                self.sleepers.remove(waiter)

    def wake_a_sleeper(self) -> None:
        """The leader leaves: one of those who wait takes over."""
        with self.lock:
            for sleeper in self.sleepers:
                if sleeper.event is not None and sleeper.missing > 0:
                    sleeper.event.set()
                    return

    def _maybe_block(
        self, running: Running, waiter: Waiter, timeout: float | None, blocking: WaitKind, patience: float
    ) -> tuple[int, float | None]:
        """First a short wait with the CPU held; then the task counts as blocked."""
        if running.blocked_ns >= 0 and self.executor is not None:
            first = patience if timeout is None else min(timeout, patience)
            if waiter.event is None:
                self.drive_or_sleep(waiter, first)
            if patience > BLOCKED_AFTER_SECONDS:
                # One turn may have brought something else.
                until = time.monotonic() + first
                while waiter.missing > 0 and not self.interrupt_pending and (left := until - time.monotonic()) > 0:
                    self.drive_or_sleep(waiter, left)
            if waiter.missing <= 0:
                return 0, 0.0
            self.executor.blocked(running, waiter, blocking, timeout is None)
            return time.time_ns(), timeout
        return 1, timeout

    def _unblock(self, running: Running, blocked_at: int, blocking: WaitKind) -> None:
        self.executor.unblocked(running, time.time_ns() - blocked_at, blocking)

    def take_interrupt(self) -> None:
        """Raise KeyboardInterrupt for an interrupt that met the machines, if this is the thread that it is for."""
        if threading.current_thread() is threading.main_thread():
            try:
                self.interrupt_pending.pop()
            except IndexError:
                # The watcher was faster: it comes as a signal again.
                return
            interrupt = KeyboardInterrupt()
            # IPython and notebooks ask for it.
            interrupt.__dict__["_render_traceback_"] = rendered_now
            raise interrupt

    @property
    def address(self) -> str:
        """Where others join: ``host:port`` of the cluster, or the session directory of a node on its own."""
        return str(session_file.read(self.directory).get("control_address_tcp") or self.directory)

    # --- the job ------------------------------------------------------------------------------------------------------

    @property
    def namespace(self) -> str:
        """Where the actors of this process' job are named."""
        return str(self.description.get("namespace", ""))

    def describe_job(self, description: dict[str, Any]) -> None:
        """A driver says what its job is, before anything else."""
        self.description = description
        with self.lock:
            self.node.send(m.encode(m.DescribeJob(description)))
            self.reactor.flush()

    def meet_job(self, job: int) -> None:
        """A worker gets to know the job it works for, and imports from where its driver does."""
        self.description = dict(self.request("job", job=job) or {})
        self.job = self.dispatcher.job = self.submitted.job = job
        claim_output(self.directory, self.worker, job)
        if self.description.get("sys_path"):
            set_import_path(self.place, list(self.description["sys_path"]))
        set_up_logging(self)

    # --- asking the node ----------------------------------------------------------------------------------------------

    def ask(self, make: Callable[[int], Any]) -> Answer:
        """Send a request; ``make`` gets its number. Call with ``lock`` held."""
        number = next(self._numbers)
        answer = self.answers[number] = Answer()
        self.node.send(m.encode(make(number)))
        return answer

    def request(self, method: str, timeout: float | None = 60.0, **arguments: Any) -> Any:
        """Ask the node something rare and wait. Raises RaySystemError with the node's words if it refuses."""
        return self.call_node(lambda number: m.Request(number, method, arguments), timeout)

    def call_node(self, make: Callable[[int], Any], timeout: float | None = 60.0) -> Any:
        """Send any message that is answered by Reply and wait for its value."""
        self.check_open()
        with self.lock:
            answer = self.ask(make)
            self.after()
        self.wait_until(answer, None if timeout is None else time.monotonic() + timeout)
        reply = answer.message
        if reply is None:
            raise GetTimeoutError(f"the node did not answer within {timeout} s")
        if reply.error:
            error = RaySystemError(reply.error)
            error.kind = reply.kind  # type: ignore[attr-defined]
            raise error
        return reply.value

    def check_open(self) -> None:
        """Raise if this session can no longer be used."""
        if self.failure is not None:
            raise self.failure
        if self.closed:
            raise RaySystemError("this runtime has been shut down; call obsray.init() again")

    def left_behind(self) -> None:
        """In a forked child: this session is its parent's."""
        self.failure = RaySystemError(FORKED)
        self.closed = True
        # Only this process' copies: the node must notice the end of the parent although this one lives on.
        for link in list(self.reactor.links.values()):
            link.closed = True
            link.socket.close()
        self.listener.socket.close()
        # A thread of the parent may have held it.
        self.lock = threading.Lock()
        self.watcher.forget()

    def running(self) -> Running | None:
        """The task whose code asks; on a thread that a task has started, that task, unless several run here at once."""
        running: Running | None = self.local.running
        if running is None and self.executor is not None:
            running = self.executor.alone()
        return running

    # --- references ---------------------------------------------------------------------------------------------------

    def reference(self, identifier: bytes) -> ObjectRef[Any]:
        """A new reference to an object, counted."""
        with self.lock:
            entry = self.ownership.entry(identifier)
            entry.local += 1
            if not entry.owned:
                running = self.local.running
                if running is not None:
                    if running.borrowed is None:
                        running.borrowed = []
                    running.borrowed.append(identifier)
        return counted(identifier)

    def count_again(self, identifier: bytes) -> None:
        """There is one more reference here to an object, if this process knows it."""
        with self.lock:
            entry = self.ownership.entries.get(identifier)
            if entry is not None:
                entry.local += 1

    def keep_forever(self, identifier: bytes) -> None:
        """A reference left by a way nobody can follow: keep the value as long as this process lives."""
        with self.lock:
            if identifier not in self._kept:
                self._kept.add(identifier)
                self.ownership.entry(identifier).local += 1

    def next_actor(self, detached: bool = False) -> bytes:
        """The id of a new actor (16 bytes). A detached one is at home at the head of the cluster."""
        if detached:
            return task_id(self.worker, next(self._detached_numbers), SEQUENCE_DETACHED_ACTOR)
        return self._actor_prefix + next(self._actor_numbers).to_bytes(7, "big")

    def next_group(self, detached: bool = False) -> bytes:
        """The id of a new placement group (16 bytes)."""
        if detached:
            return self._detached_group_prefix + next(self._detached_group_numbers).to_bytes(7, "big")
        return self._group_prefix + next(self._group_numbers).to_bytes(7, "big")

    def next_put(self) -> bytes:
        """The id of a new object made by this process (20 bytes)."""
        return self._put_prefix + next(self._put_numbers).to_bytes(7, "big") + _FIRST_INDEX

    # --- ends ---------------------------------------------------------------------------------------------------------

    def cancel(self, identifier: bytes, force: bool, recursive: bool) -> None:
        """Cancel a task (by its id, or what it makes), whoever submitted it; nothing happens if it has ended."""
        with self.lock:
            self.calls.cancel_object(identifier, force, recursive, time.time_ns())
            self.after()

    def kill_actor(self, actor: bytes, restart: bool) -> None:
        """End an actor's process now."""
        self.check_open()
        with self.lock:
            self.node.send(m.encode(m.KillActor(actor, restart, False)))
            client = self.calls.clients.get(actor)
            if client is not None and not restart:
                # Calls go straight to the actor and could overtake the node's signal: from here on they fail.
                self.calls.died(client, b"", "it was ended by kill()")
            self.after()

    def give_back_idle(self) -> None:
        """Return leases that have nothing to do, so that the node's numbers show what is really free."""
        with self.lock:
            self.dispatcher.give_back_idle()
            self.after()

    def cancel_children(self, parent: bytes) -> None:
        """Cancel what a cancelled task submitted from here. Call with ``lock`` held."""
        self.calls.cancel_children(parent, time.time_ns())

    def close(self, say_goodbye: bool = True) -> None:
        """Leave the runtime: what this process owns is freed. Closing twice does nothing."""
        if not self.closed:
            self.watcher.stop()
        with self.lock:
            if self.closed:
                return
            if say_goodbye and self.failure is None:
                self.node.send(m.encode(m.Goodbye()))
                self.reactor.flush()
            self.closed = True
            self.submitted.flush()
            if self.executor is None:
                self.verdicts.leave()
            chaos.deactivate()
            self.emitter.close(time.time_ns())
        self.reactor.wake()
        self.watcher.join()
        # Who holds it may be stuck, or torn from it by an interrupt; the sockets close with the process then.
        if self.lock.acquire(timeout=CLOSE_SECONDS_MAX):
            try:
                self.reactor.shutdown()
            finally:
                self.lock.release()
