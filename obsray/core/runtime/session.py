"""Shell: one process' part in a runtime; the one object behind the API of a driver or worker.

Threads. There is no I/O thread on the fast path: whoever waits (``get``, ``wait``, an idle worker) drives the sockets
itself ("leader"), so a round trip crosses no thread. A *watcher* thread steps in only when nobody drives: it notices
within ``TICK_SECONDS`` that the leader has left, and sleeps in ``epoll`` while the process is quiet.

Locks. ``lock`` guards all machines and links and is held for microseconds; ``_driving`` is held by the leader, also
while it is blocked in ``epoll``. ``lock`` may be taken while holding ``_driving``, never the other way round.
References may die on any thread at any time, so ``ObjectRef.__del__`` only appends to ``dropped``.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from struct import Struct
from types import FrameType
from typing import Any

from obsray.config import Config
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.calls import ActorCalls
from obsray.core.runtime.dispatch import Dispatcher
from obsray.core.runtime.ownership import NODE, READY, Entry, Ownership, Task
from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.serialization import Serialized, deserialize, dump_error
from obsray.core.runtime.storage import Arena
from obsray.core.runtime.verdicts import Verdicts
from obsray.core.transport.connection import Connection, Hello
from obsray.core.transport.links import Link, Reactor, connect
from obsray.errors import (
    GetTimeoutError,
    LocalRayletDiedError,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RaySystemError,
)
from obsray.ids import SEQUENCE_ACTOR, SEQUENCE_PUT
from obsray.telemetry.events import DeathCause, ProcessKind, WaitKind
from obsray.telemetry.spine import Emitter, Ring, Silent

TICK_SECONDS = 0.005
#: The watcher wakes at least this often, to act on references that died while nothing else happened.
QUIET_SECONDS = 0.1
#: A task counts as blocked, and gives its CPU back, after waiting this long.
BLOCKED_AFTER_SECONDS = 0.001
_SEQUENCE = Struct(">Q").pack
_FIRST_INDEX = bytes(4)
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_current: Session | None = None


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


class Waiter:
    """A thread that waits for a number of entries. ``fail_fast``: the first failure ends the wait."""

    __slots__ = ("event", "fail_fast", "missing")

    def __init__(self, missing: int, fail_fast: bool = False) -> None:
        self.missing = missing
        self.fail_fast = fail_fast
        self.event: threading.Event | None = None

    def on_ready(self, entry: Entry) -> None:
        self.missing -= 1
        if self.fail_fast and entry.failed:
            self.missing = 0
        if self.missing <= 0 and self.event is not None:
            self.event.set()


class Answer(Waiter):
    """A thread that waits for the node's answer to one request."""

    __slots__ = ("message",)

    def __init__(self) -> None:
        super().__init__(1)
        self.message: Any = None

    def arrived(self, message: Any) -> None:
        """The answer is here."""
        self.message = message
        self.missing = 0
        if self.event is not None:
            self.event.set()


class _FutureWaiter:
    __slots__ = ("future", "session")

    def __init__(self, session: Session, future: concurrent.futures.Future[Any]) -> None:
        self.session, self.future = session, future

    def on_ready(self, entry: Entry) -> None:
        self.session.completions.append((self.future, entry))


class Running:
    """What a thread of a worker executes now."""

    __slots__ = ("actor", "attempt", "blocked_ns", "borrowed", "context", "lease", "link", "name", "task", "trace")

    def __init__(self, task: bytes, attempt: int, trace: bytes, name: str, lease: int, link: Link | None) -> None:
        self.task = task
        self.attempt = attempt
        self.trace = trace
        self.name = name
        self.lease = lease
        self.link = link
        self.actor = bytes(16)
        self.context: dict[str, Any] = {}
        self.blocked_ns = 0
        #: Ids of other owners' objects that came in with the arguments.
        self.borrowed: list[bytes] = []


class Session:
    """A driver's or worker's connection to its runtime."""

    def __init__(self, directory: Path, worker: bytes, kind: ProcessKind, config: Config) -> None:
        self.directory = directory
        self.worker = worker
        self.kind = kind
        self.config = config
        self.token = (directory / "token").read_bytes()
        self.emitter: Emitter = Silent() if config.telemetry == "off" else Ring(directory / "rings", worker, kind)
        self.lock = threading.Lock()
        self.local = threading.local()
        self.dropped: deque[bytes] = deque()
        self.completions: deque[tuple[concurrent.futures.Future[Any], Entry]] = deque()
        self.interrupt_pending = False
        self.closed = False
        self.failure: Exception | None = None
        self.executor: Any = None
        self.answers: dict[int, Answer] = {}
        self._numbers = itertools.count(1)
        self.task_numbers = itertools.count(1)
        self._put_numbers = itertools.count(1)
        self._actor_numbers = itertools.count(1)
        self._put_prefix = worker + bytes([SEQUENCE_PUT])
        self._actor_prefix = worker + bytes([SEQUENCE_ACTOR])
        self._driving = threading.Lock()
        self._turns = 0
        self._sleepers: list[Waiter] = []
        self._kept: set[bytes] = set()
        self.reactor = Reactor(self._on_messages, self._on_close)
        self.peers: dict[bytes, Link] = {}
        self.node = self._join()
        self.ownership = Ownership(worker)
        self.verdicts = Verdicts(self.ownership, self.emitter, time.time_ns)
        self.dispatcher = Dispatcher(self.ownership, self.verdicts, self.emitter, config, self.job)
        self.calls = ActorCalls(self.ownership, self.dispatcher, self.verdicts, self.emitter)
        self.ownership.on_freed = self._on_freed
        self.listener = self.reactor.listen(directory / "sockets" / f"{worker.hex()}.sock", self.token, self._on_link)
        self._handlers: dict[int, Callable[[Link, m.Message], None]] = self._make_handlers()
        self._watcher = threading.Thread(target=self._watch, name="obsray-watcher", daemon=True)

    def start(self) -> None:
        """Begin to serve: messages that came with the welcome, and the watcher."""
        with self.lock:
            self._on_messages(self.node, self._early)
            self.after()
        self._watcher.start()

    # --- joining ------------------------------------------------------------------------------------------------

    def _join(self) -> Link:
        sock = connect(self.directory / "sockets" / "node.sock", self.token, self._hello())
        connection = Connection()
        fds: list[int] = []
        received: list[m.Message] = []
        while not received:
            data, new_fds, _, _ = socket.recv_fds(sock, 1 << 16, 1)
            if not data:
                raise LocalRayletDiedError(f"the node of {self.directory} closed the connection: wrong token or version")
            fds += new_fds
            received += connection.receive(data)
        welcome = m.decode(received[0])
        if not isinstance(welcome, m.Welcome) or not fds:
            raise RaySystemError("the node did not say Welcome")
        self.node_id = welcome.node
        self.job = welcome.job
        self.settings = dict(welcome.settings)
        self.arena = Arena(fds[0], welcome.arena_bytes)
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
        if self.dropped:
            self._drain_dropped()
        if self.arena.unpinned:
            self._drain_unpinned()
        if self.dispatcher.active:
            self.dispatcher.run(time.monotonic(), time.time_ns())
        if self.calls.active:
            self.calls.run(time.time_ns())
        ownership.settle()
        if ownership.outbox:
            self._route()
        self.reactor.flush()

    def _drain_dropped(self) -> None:
        dropped = self.dropped
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

    def _connect(self, worker: bytes) -> Link | None:
        path = self.dispatcher.paths.get(worker) or str(self.directory / "sockets" / f"{worker.hex()}.sock")
        try:
            link = self.reactor.adopt(connect(path, self.token, self._hello()), Hello(worker, int(ProcessKind.WORKER), 0))
        except OSError:
            self._owner_lost(worker)
            return None
        self.peers[worker] = link
        return link

    def send_everything(self) -> None:
        """This process is about to wait or to run user code: nothing may stay behind. Call with ``lock`` held."""
        if self.dispatcher.unsent:
            self.dispatcher.push_all(time.time_ns())
        if self.calls.unsent:
            self.calls.push_all(time.time_ns())
        if self.executor is not None:
            self.executor.send_results()
        self.after()

    def turn(self, timeout: float | None) -> None:
        """Wait for something and handle it. Only the holder of ``_driving`` may call this."""
        ready = self.reactor.wait(timeout)
        self._turns += 1
        with self.lock:
            self.reactor.process(ready)
            self.after()
        if self.completions:
            self._complete_futures()

    def wait_until(self, waiter: Waiter, deadline: float | None, blocking: WaitKind = WaitKind.GET) -> None:
        """Block this thread until ``waiter`` has what it wants or ``deadline`` (monotonic) has passed."""
        running: Running | None = getattr(self.local, "running", None)
        blocked_at = 0
        try:
            while waiter.missing > 0:
                now = time.monotonic()
                if self.interrupt_pending and threading.current_thread() is threading.main_thread():
                    self.interrupt_pending = False
                    raise KeyboardInterrupt
                if self.failure is not None:
                    raise self.failure
                if deadline is not None and now >= deadline:
                    return
                timeout = None if deadline is None else deadline - now
                if running is not None and not blocked_at:
                    blocked_at, timeout = self._maybe_block(running, waiter, timeout, blocking)
                self._drive_or_sleep(waiter, timeout)
        finally:
            if blocked_at > 1 and running is not None:
                self._unblock(running, blocked_at, blocking)

    def _drive_or_sleep(self, waiter: Waiter, timeout: float | None) -> None:
        if self._driving.acquire(blocking=False):
            try:
                self.turn(timeout)
            finally:
                self._driving.release()
                if self._sleepers:
                    self._wake_a_sleeper()
            return
        waiter.event = threading.Event()
        with self.lock:
            if waiter.missing <= 0:
                return
            self._sleepers.append(waiter)
        # Bounded, so that a leader that left without a successor cannot strand this thread.
        waiter.event.wait(QUIET_SECONDS if timeout is None else min(timeout, QUIET_SECONDS))
        with self.lock:
            if waiter in self._sleepers:
                self._sleepers.remove(waiter)

    def _wake_a_sleeper(self) -> None:
        with self.lock:
            for sleeper in self._sleepers:
                if sleeper.event is not None and sleeper.missing > 0:
                    sleeper.event.set()
                    return

    def _maybe_block(
        self, running: Running, waiter: Waiter, timeout: float | None, blocking: WaitKind
    ) -> tuple[int, float | None]:
        """First a short wait with the CPU held; then the task counts as blocked."""
        if running.blocked_ns >= 0 and self.executor is not None:
            first = BLOCKED_AFTER_SECONDS if timeout is None else min(timeout, BLOCKED_AFTER_SECONDS)
            if waiter.event is None:
                self._drive_or_sleep(waiter, first)
            if waiter.missing <= 0:
                return 0, 0.0
            self.executor.blocked(running, blocking)
            return time.time_ns(), timeout
        return 1, timeout

    def _unblock(self, running: Running, blocked_at: int, blocking: WaitKind) -> None:
        self.executor.unblocked(running, time.time_ns() - blocked_at, blocking)

    def _watch(self) -> None:
        seen = -1
        wait = TICK_SECONDS
        while not self.closed:
            if seen != self._turns:
                # Somebody drove since the last look: stay out of the way for a tick.
                seen = self._turns
                time.sleep(TICK_SECONDS)
            elif self._driving.locked():
                time.sleep(TICK_SECONDS if self.executor is None or self.executor.busy() else QUIET_SECONDS)
            else:
                try:
                    ready = self.reactor.wait(wait)
                except (OSError, ValueError):
                    return
                if ready and not self._driving.acquire(blocking=False):
                    continue
                try:
                    if self.closed:
                        return
                    with self.lock:
                        self.reactor.process(ready)
                finally:
                    if ready:
                        self._driving.release()
            wait = self._tick()

    def _tick(self) -> float:
        """Housekeeping that nobody else does. Returns how long the watcher may sleep."""
        with self.lock:
            if self.closed:
                return QUIET_SECONDS
            now = time.monotonic()
            again = self.dispatcher.tick(now, time.time_ns())
            if self.executor is not None:
                self.executor.tick(now)
            self.send_everything()
        if self.completions:
            self._complete_futures()
        return QUIET_SECONDS if again is None else max(TICK_SECONDS, min(again, QUIET_SECONDS))

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """SIGINT on the main thread: never inside the machines, always soon."""
        if in_runtime(frame):
            self.interrupt_pending = True
            self.reactor.wake()
        else:
            signal.default_int_handler(number, frame)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _make_handlers(self) -> dict[int, Callable[[Link, m.Message], None]]:
        handlers: dict[type, Callable[[Link, m.Message], None]] = {
            m.LeaseGranted: lambda link, x: self.dispatcher.granted(m.decode(x), time.monotonic()),
            m.LeaseReclaim: lambda link, x: self.dispatcher.reclaim(x[1], time.time_ns()),
            m.WorkerDied: lambda link, x: self._on_worker_died(m.decode(x)),
            m.ObjectRoom: self._on_answer,
            m.ObjectRefused: self._on_answer,
            m.ObjectPinned: self._on_answer,
            m.Reply: self._on_answer,
            m.ActorChanged: lambda link, x: self.calls.changed(m.decode(x)),
            m.Exit: lambda link, x: self._on_exit(x[1]),
            m.Done: lambda link, x: self.dispatcher.done(link.peer.worker, x[1], time.monotonic(), time.time_ns()),
            m.Returned: lambda link, x: self.dispatcher.returned(link.peer.worker, x[1], x[2], time.time_ns()),
            m.GetObject: lambda link, x: self.ownership.asked_for(x[1], link.peer.worker),
            m.ObjectValue: self._on_value,
            m.AddHolder: self._on_add_holder,
            m.ReleaseHolders: self._on_release_holders,
        }
        return {cls._field_defaults["tag"]: handler for cls, handler in handlers.items()}  # type: ignore[attr-defined]

    def handle(self, kind: type, handler: Callable[[Link, m.Message], None]) -> None:
        """Have ``handler`` called for messages of class ``kind`` (executor, streams)."""
        self._handlers[kind._field_defaults["tag"]] = handler  # type: ignore[attr-defined]

    def _on_messages(self, link: Link, received: list[m.Message]) -> None:
        handlers = self._handlers
        for message in received:
            handler = handlers.get(message[0])
            if handler is not None:
                handler(link, message)

    def _on_link(self, link: Link) -> None:
        """Somebody connected to this process: an owner with tasks, or a holder of what this process owns."""
        link.state = {}

    def _on_close(self, link: Link) -> None:
        if link is self.node:
            if not self.closed:
                self._on_exit("the node process ended unexpectedly; its log is in " + str(self.directory / "logs"))
            return
        worker = link.peer.worker
        if self.peers.get(worker) is link:
            del self.peers[worker]
            self.dispatcher.functions.pop(worker, None)
            self._owner_lost(worker)
        elif self.executor is not None:
            self.executor.link_closed(link)

    def _on_answer(self, link: Link, message: m.Message) -> None:
        answer = self.answers.pop(message[1], None)
        if answer is not None:
            answer.arrived(m.decode(message))

    def _on_value(self, link: Link, message: m.Message) -> None:
        _, identifier, value, contained, error = message
        entry = self.ownership.entries.get(identifier)
        if entry is None:
            # Nobody here wants it any more; the holds registered for what is inside must still be given up.
            if contained:
                self._release_unwanted(contained)
            return
        entry.requested = False
        if value is None:
            value = dump_error(ObjectFreedError(f"object {identifier.hex()}: {error}", identifier.hex()))
        failed = type(value) is bytes and value[0] == 0x02
        self.ownership.fulfil(entry, value, failed, contained)

    def _release_unwanted(self, contained: Iterable[bytes]) -> None:
        for identifier in contained:
            if not identifier.startswith(self.worker):
                self.ownership.outbox.append((identifier[:8], m.encode(m.ReleaseHolders([identifier]))))

    def _on_add_holder(self, link: Link, message: m.Message) -> None:
        for identifier in message[1]:
            self.ownership.add_holder(identifier, message[2])

    def _on_release_holders(self, link: Link, message: m.Message) -> None:
        for identifier in message[1]:
            self.ownership.add_holder(identifier, link.peer.worker, -1)

    def _on_worker_died(self, death: m.WorkerDied) -> None:
        worker = death.worker
        begun = set(death.started)
        in_flight = self.dispatcher.worker_died(worker)
        last = max((i for i, task in enumerate(in_flight) if task.id in begun), default=-1 if begun else 0)
        for index in range(len(in_flight) - 1, -1, -1):
            self.verdicts.crashed(in_flight[index], death, index <= last)
        self.calls.worker_died(death)
        self.ownership.worker_died(worker)
        link = self.peers.pop(worker, None)
        if link is not None:
            self.reactor.close(link)
        self._owner_lost(worker, death)

    def _owner_lost(self, worker: bytes, death: m.WorkerDied | None = None) -> None:
        why = f"{death.detail}" if death is not None and death.detail else "its process ended"
        error = OwnerDiedError(f"the owner of the object, worker {worker.hex()}, is gone: {why}")
        self.ownership.owner_lost(worker, dump_error(error))

    def _on_freed(self, identifier: bytes) -> None:
        client = self.calls.clients.get(identifier[:16]) if identifier[8] == SEQUENCE_ACTOR else None
        if client is not None and client.created_here:
            self.ownership.outbox.append((NODE, m.encode(m.KillActor(client.id, False, True))))

    def _on_exit(self, reason: str) -> None:
        if self.executor is not None:
            self.executor.exit(reason)
            return
        self.failure = LocalRayletDiedError(f"the runtime is gone: {reason}")
        for answer in self.answers.values():
            if answer.event is not None:
                answer.event.set()
        for sleeper in self._sleepers:
            if sleeper.event is not None:
                sleeper.event.set()

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

    # --- references -----------------------------------------------------------------------------------------------------

    def reference(self, identifier: bytes) -> ObjectRef[Any]:
        """A new reference to an object, counted."""
        with self.lock:
            entry = self.ownership.entry(identifier)
            entry.local += 1
            if not entry.owned:
                running = getattr(self.local, "running", None)
                if running is not None:
                    running.borrowed.append(identifier)
        return ObjectRef(identifier, self)

    def keep_forever(self, identifier: bytes) -> None:
        """A reference left by a way nobody can follow: keep the value as long as this process lives."""
        with self.lock:
            if identifier not in self._kept:
                self._kept.add(identifier)
                self.ownership.entry(identifier).local += 1

    def next_actor(self) -> bytes:
        """The id of a new actor (16 bytes)."""
        return self._actor_prefix + next(self._actor_numbers).to_bytes(7, "big")

    def next_put(self) -> bytes:
        """The id of a new object made by this process (20 bytes)."""
        return self._put_prefix + next(self._put_numbers).to_bytes(7, "big") + _FIRST_INDEX

    # --- values ---------------------------------------------------------------------------------------------------------

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value owned by this process."""
        self.check_open()
        serialized = value if type(value) is Serialized else None
        if serialized is None:
            from obsray.core.runtime.serialization import serialize

            serialized = serialize(value)
        identifier = self.next_put()
        entry = Entry(identifier, True)
        entry.local = 1
        inline = serialized.size <= self.config.inline_bytes_max
        stored: Any = serialized.to_bytes() if inline else self.store(identifier, serialized)
        running = getattr(self.local, "running", None)
        with self.lock:
            self.ownership.put(entry, stored, serialized.references)
            self.emitter.object_put(
                time.time_ns(), identifier, running.task if running is not None else bytes(16), serialized.size, inline, 0
            )
            if self.dropped:
                self._drain_dropped()
                if not inline:
                    self.after()
        return ObjectRef(identifier, self)

    def store(self, identifier: bytes, serialized: Serialized) -> int:
        """Write a value into the object store and seal it. Raises ObjectStoreFullError. Returns its size."""
        size = serialized.size
        with self.lock:
            # Views and references that died may be the room that is needed.
            answer = self.ask(lambda number: m.CreateObject(number, identifier, size))
            self.after()
        self.wait_until(answer, None, WaitKind.ALLOCATE)
        room = answer.message
        if isinstance(room, m.ObjectRefused):
            if room.error == "duplicate":
                return size
            raise ObjectStoreFullError(room.detail)
        self.arena.write(room.offset, serialized)
        with self.lock:
            self.node.send(m.encode(m.SealObject(identifier)))
            self.reactor.flush()
        return size

    def get(self, references: list[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values, in order. Raises the first failure, GetTimeoutError after ``timeout`` seconds."""
        entries = self.entries_of(references)
        missing = [entry for entry in entries if entry.state != READY]
        deadline = None if timeout is None else time.monotonic() + timeout
        if missing:
            self._wait_for_all(missing, deadline)
        for entry in entries:
            if entry.failed:
                self.value(entry, deadline)
            if entry.state != READY:
                count = sum(e.state != READY for e in entries)
                raise GetTimeoutError(
                    f"{count} of {len(entries)} values were not there after {timeout} s, the first is "
                    f"{entry.id.hex()}; `obsray get task {entry.id[:16].hex()}` says what it waits for"
                )
        if len(entries) > 1 and any(type(entry.value) is int for entry in entries):
            self._pin_ahead(entries, deadline)
        return [self.value(entry, deadline) for entry in entries]

    def entries_of(self, references: list[ObjectRef[Any]]) -> list[Entry]:
        """The entries behind references of this session. Raises RaySystemError for those of another."""
        self.check_open()
        known = self.ownership.entries
        found = []
        for reference in references:
            entry = known.get(reference._id)
            if entry is None or reference._session is not self:
                raise RaySystemError(
                    f"{reference!r} belongs to a runtime that was shut down; its value is gone with it"
                )
            found.append(entry)
        return found

    def _wait_for_all(self, missing: list[Entry], deadline: float | None) -> None:
        waiter = Waiter(0, fail_fast=True)
        with self.lock:
            for entry in missing:
                if entry.state != READY:
                    waiter.missing += 1
                    self.ownership.wait_for(entry, waiter)
                elif entry.failed:
                    return
            self.send_everything()
        try:
            self.wait_until(waiter, deadline)
        finally:
            if any(entry.state != READY for entry in missing):
                with self.lock:
                    for entry in missing:
                        self.ownership.stop_waiting(entry, waiter)

    def value(self, entry: Entry, deadline: float | None = None) -> Any:
        """The value of an entry that is READY; raises the error if it is one."""
        value = entry.value
        if type(value) is bytes:
            return deserialize(value)
        if value is None:
            raise ObjectFreedError(f"object {entry.id.hex()} has been freed by its owner", entry.id.hex())
        return deserialize(self.pinned_view(entry.id, deadline))

    def pinned_view(self, identifier: bytes, deadline: float | None = None) -> memoryview:
        """A stored object, mapped; it stays where it is while the view or anything made from it lives."""
        view = self.arena.view(identifier)
        if view is not None:
            return view
        with self.lock:
            answer = self.ask(lambda number: m.PinObject(number, identifier))
            self.after()
        return self._open_pinned(identifier, answer, deadline)

    def _open_pinned(self, identifier: bytes, answer: Answer, deadline: float | None) -> memoryview:
        self.wait_until(answer, deadline)
        pinned = answer.message
        if pinned is None:
            raise GetTimeoutError(f"object {identifier.hex()} could not be read in time")
        if isinstance(pinned, m.ObjectRefused):
            raise ObjectLostError(f"object {identifier.hex()} cannot be read: {pinned.detail}", identifier.hex())
        return self.arena.open(identifier, pinned.offset, pinned.size)

    def _pin_ahead(self, entries: list[Entry], deadline: float | None) -> None:
        """Ask for many stored objects at once instead of one round trip each. Views stay alive in ``_ahead``."""
        wanted = {e.id for e in entries if type(e.value) is int and self.arena.view(e.id) is None}
        # More than a handful at once could pin more than fits; the rest is asked for one by one.
        batch = list(itertools.islice(wanted, 64))
        with self.lock:
            answers = [(i, self.ask(lambda number, i=i: m.PinObject(number, i))) for i in batch]  # type: ignore[misc]
            self.after()
        self.local.ahead = [self._open_pinned(i, answer, deadline) for i, answer in answers]

    def wait(
        self, references: list[Any], count: int, timeout: float | None
    ) -> tuple[list[Any], list[Any]]:
        """The references that are ready, at most ``count``, and the rest; both in input order."""
        entries = self.entries_of(references)
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = Waiter(count)
        pending: list[Entry] = []
        with self.lock:
            for entry in entries:
                if entry.state == READY:
                    waiter.missing -= 1
                else:
                    pending.append(entry)
            if waiter.missing > 0:
                for entry in pending:
                    self.ownership.wait_for(entry, waiter)
            self.send_everything()
        if waiter.missing > 0:
            try:
                if timeout == 0:
                    # Look once at what has arrived already.
                    self._drive_or_sleep(waiter, 0)
                else:
                    self.wait_until(waiter, deadline, WaitKind.WAIT)
            finally:
                with self.lock:
                    for entry in pending:
                        if entry.state != READY:
                            self.ownership.stop_waiting(entry, waiter)
        ready: list[Any] = []
        rest: list[Any] = []
        for reference, entry in zip(references, entries, strict=True):
            (ready if entry.state == READY and len(ready) < count else rest).append(reference)
        return ready, rest

    def future_of(self, reference: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A concurrent future that gets the value or the error."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        (entry,) = self.entries_of([reference])
        # The future must keep the object alive on its own.
        future._obsray_reference = reference  # type: ignore[attr-defined]
        with self.lock:
            if entry.state == READY:
                self.completions.append((future, entry))
            else:
                self.ownership.wait_for(entry, _FutureWaiter(self, future))
                self.send_everything()
        if self.completions:
            self._complete_futures()
        return future

    def _complete_futures(self) -> None:
        while True:
            try:
                future, entry = self.completions.popleft()
            except IndexError:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                value = self.value(entry)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(value)

    # --- ends -------------------------------------------------------------------------------------------------------------

    def cancel(self, task_id: bytes, force: bool, recursive: bool) -> None:
        """Cancel the task that makes an object; nothing happens if it has ended."""
        with self.lock:
            task = self.ownership.tasks.get(task_id)
            if task is None:
                return
            if task.actor is not None:
                self.calls.cancel(task, recursive, time.time_ns())
            else:
                self.dispatcher.cancel(task, force, recursive, time.time_ns())
            self.after()

    def children_of(self, parent: bytes) -> list[Task]:
        """The tasks that a task submitted from this process and that have not ended."""
        return [task for task in self.ownership.tasks.values() if task.parent == parent]

    def cancel_children(self, parent: bytes) -> None:
        """Cancel what a cancelled task submitted from here. Call with ``lock`` held."""
        for task in self.children_of(parent):
            if task.actor is not None:
                self.calls.cancel(task, True, time.time_ns())
            elif task.state is not TaskState.FINISHED:
                self.dispatcher.cancel(task, False, True, time.time_ns())

    def close(self, say_goodbye: bool = True) -> None:
        """Leave the runtime: what this process owns is freed. Closing twice does nothing."""
        with self.lock:
            if self.closed:
                return
            if say_goodbye and self.failure is None:
                self.node.send(m.encode(m.Goodbye()))
                self.reactor.flush()
            self.closed = True
            self.emitter.close(time.time_ns())
        self.reactor.wake()
        if self._watcher.is_alive() and threading.current_thread() is not self._watcher:
            self._watcher.join(1.0)
        with self.lock:
            self.reactor.shutdown()


def in_runtime(frame: FrameType | None) -> bool:
    """Whether the innermost frames of a thread are the runtime's own (and must not be torn open by an exception)."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_HERE):
            return frame.f_code.co_name != "call_user_code"
        if "threading.py" not in frame.f_code.co_filename and not frame.f_code.co_filename.startswith("<"):
            # Standard library frames may stand between; user code ends the search.
            module = frame.f_globals.get("__name__", "")
            if module not in sys.stdlib_module_names and module.partition(".")[0] not in sys.stdlib_module_names:
                return False
        frame = frame.f_back
    return False


__all__ = ["DeathCause", "Running", "Session", "Waiter", "current", "current_or_none", "set_current"]
