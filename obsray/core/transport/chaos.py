"""Shell: carries out what ``obsray/chaos.py`` describes, on the links and calls of this process, and records it.

Without a specification nothing of this is in the way: a reactor makes plain links, and a route hands out plain stubs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from obsray.chaos import BREAKABLE, REPEAT_SECONDS, Fault, Losses, Plan, parse
from obsray.core.protocol.messages import MESSAGES, Exit, Goodbye, Message, NodeLeaves, decode
from obsray.core.transport.connection import Hello
from obsray.core.transport.links import Link, Reactor
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Emitter

#: Of the tasks in one message, at most so many get a record of the fault that hit them.
HITS_MAX = 64
#: Who says one of these ends next: nothing may stay behind, as the system sends what a dead process has written.
_LAST = {cls._field_defaults["tag"] for cls in (Goodbye, Exit, NodeLeaves)}

_NIL8, _NIL16, _NIL20 = bytes(8), bytes(16), bytes(20)


class Faults:
    """The plan of one process, its chance, and what it has done. Threads share it.

    ``who`` makes the chance of this process its own: the same for the same seed, process kind and name.
    """

    def __init__(self, plan: Plan, who: str, emitter: Emitter, worker: bytes) -> None:
        self.plan = plan
        self._emitter, self._who = emitter, who
        self._closed = False
        self._lock = threading.Lock()
        self._chance: dict[str, Any] = {}
        self._left: dict[int, int] = {
            rule.entry: rule.faults_max for rule in plan.losses.values() if rule.faults_max is not None
        }
        self.injected: Counter[tuple[str, Fault]] = Counter()
        emitter.chaos_started(time.time_ns(), worker, plan.seed, emitter.intern(plan.text))

    def _random(self, name: str) -> Any:
        chance = self._chance.get(name)
        if chance is None:
            from random import Random

            chance = self._chance[name] = Random(f"{self.plan.seed}/{self._who}/{name}")
        return chance

    def loss(self, name: str, side: tuple[Fault, ...]) -> Fault | None:
        """What happens to this one of ``name``, out of the faults that ``side`` of it can see."""
        rule: Losses | None = self.plan.losses.get(name)
        if rule is None:
            return None
        with self._lock:
            left = self._left.get(rule.entry, 1)
            at, shares = 100 * self._random(name).random(), (rule.request, rule.reply, rule.in_flight)
            for fault, share in zip((Fault.REQUEST_LOST, Fault.REPLY_LOST, Fault.IN_FLIGHT), shares, strict=True):
                if fault in side:
                    if at < share and left > 0:
                        if rule.entry in self._left:
                            self._left[rule.entry] -= 1
                        return fault
                    at -= share
        return None

    def delay(self, name: str) -> float:
        """How much later than it could be, in seconds."""
        bounds = self.plan.delays.get(name)
        if bounds is None:
            return 0.0
        with self._lock:
            return float(self._random(name).uniform(*bounds))

    # --- what is recorded ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """This process stops recording."""
        self._closed = True

    def tell(self, name: str, fault: Fault, seconds: float, peer: bytes, subject: Any) -> None:
        """Record a fault. ``subject``: the message or request that it hit."""
        if self._closed:
            return
        emitter, now = self._emitter, time.time_ns()
        with self._lock:
            self.injected[name, fault] += 1
        method = emitter.intern(name)
        tasks, object_id, actor = _subjects(subject)
        first = tasks[0] if tasks else _NIL16
        told = emitter.delay_injected if fault is Fault.DELAYED else emitter.fault_injected
        told(now, method, int(fault), seconds, peer[:8].ljust(8, b"\0"), first, object_id, actor)
        if fault is not Fault.DELAYED:
            for task in tasks[1:HITS_MAX]:
                emitter.fault_hit(now, method, int(fault), task)

    def pause(self, name: str, peer: bytes, subject: Any) -> bool:
        """For a thread that may wait: be as late as the plan says, and as what must be repeated. True: the link breaks
        behind this message."""
        seconds = self.delay(name)
        if seconds:
            self.tell(name, Fault.DELAYED, seconds, peer, subject)
        fault = self.loss(name, (Fault.REQUEST_LOST, Fault.IN_FLIGHT))
        if fault is not None:
            self.tell(name, fault, REPEAT_SECONDS, peer, subject)
            seconds += REPEAT_SECONDS if fault is Fault.REQUEST_LOST else 0.0
        time.sleep(seconds)
        return fault is Fault.IN_FLIGHT and name in BREAKABLE


def _subjects(subject: Any) -> tuple[list[bytes], bytes, bytes]:
    """The tasks, the object and the actor that a message or request is about, as far as it says."""
    if isinstance(subject, tuple):
        try:
            subject = decode(subject)
        except ValueError:
            return [], _NIL20, _NIL16
    listed = getattr(subject, "results", None) or getattr(subject, "tasks", None)
    items = listed if isinstance(listed, list | tuple) else ()
    tasks = [item[0] if isinstance(item, tuple) and item else item for item in items]
    tasks = [task for task in (*tasks, getattr(subject, "task", None)) if _is_id(task, 16)]
    objects = getattr(subject, "objects", None)
    found = getattr(subject, "object", None) or (objects[0] if isinstance(objects, list | tuple) and objects else None)
    found = found[0] if isinstance(found, tuple) and found else found
    spec = getattr(subject, "spec", None)
    actor = getattr(subject, "actor", None) or (spec.get("actor") if isinstance(spec, dict) else None)
    # A request to register an actor holds its description.
    actor = getattr(actor, "actor", actor)
    return tasks, found if _is_id(found, 20) else _NIL20, actor if _is_id(actor, 16) else _NIL16


def _is_id(value: Any, size: int) -> TypeGuard[bytes]:
    return isinstance(value, bytes) and len(value) == size


_active: Faults | None = None


def activate(
    specification: str, kind: ProcessKind, process: bytes, emitter: Emitter, reactor: Reactor | None = None
) -> Faults | None:
    """From here on this process injects what is specified, on the links of ``reactor`` and its calls to control stores.

    An empty specification ends what one before began. Raises ValueError for one that cannot be read.
    """
    global _active
    plan = parse(specification)
    # Each worker has a chance of its own, or a fresh one would meet what ended the one before.
    who = f"worker {process.hex()}" if kind is ProcessKind.WORKER else kind.name.lower()
    _active = Faults(plan, who, emitter, process) if plan else None
    if _active is not None and reactor is not None:
        disturb(reactor, _active)
    return _active


def deactivate() -> None:
    """This process stops recording and injects nothing any more."""
    global _active
    if _active is not None:
        _active.close()
    _active = None


def active() -> Faults | None:
    """What this process injects, None if nothing."""
    return _active


# --- links ---------------------------------------------------------------------------------------------------


def disturb(reactor: Reactor, faults: Faults) -> None:
    """Have the links of ``reactor`` that are made from now on injected with faults."""
    handle = reactor.on_messages

    def on_messages(link: Link, messages: list[Message]) -> None:
        handle(link, messages)
        if isinstance(link, DisturbedLink):
            link.answer_late(messages)

    def make(reactor: Reactor, sock: Any, peer: Hello) -> Link:
        return DisturbedLink(faults, reactor, sock, peer)

    reactor.on_messages = on_messages
    reactor.make_link = make


class DisturbedLink(Link):
    """A link whose messages may be late, all in their order, and which may break behind one."""

    __slots__ = ("_due", "_faults", "_held", "_timed")

    def __init__(self, faults: Faults, reactor: Reactor, sock: Any, peer: Hello) -> None:
        super().__init__(reactor, sock, peer)
        self._faults = faults
        #: When each message goes (monotonic), and whether the link breaks behind it.
        self._held: deque[tuple[float, Message, bool]] = deque()
        #: Nothing goes before this.
        self._due = 0.0
        self._timed = False

    def flush(self) -> None:
        if self.closed:
            self.outbox.clear()
            self._held.clear()
            return
        if self.outbox:
            messages, self.outbox = self.outbox, []
            now = time.monotonic()
            for message in messages:
                self._hold(message, now)
        self._release()

    def answer_late(self, messages: list[Message]) -> None:
        """These were handled; if the answer to one is lost, whatever is said from here on comes later."""
        for message in messages:
            name = _name(message)
            if self._faults.loss(name, (Fault.REPLY_LOST,)) is not None:
                self._faults.tell(name, Fault.REPLY_LOST, REPEAT_SECONDS, self.peer.worker, message)
                self._due = max(self._due, time.monotonic() + REPEAT_SECONDS)

    def _hold(self, message: Message, now: float) -> None:
        faults, name = self._faults, _name(message)
        breaks, due = False, max(now, self._due)
        seconds = faults.delay(name)
        if seconds:
            faults.tell(name, Fault.DELAYED, seconds, self.peer.worker, message)
        fault = faults.loss(name, (Fault.REQUEST_LOST, Fault.IN_FLIGHT))
        if fault is not None:
            faults.tell(name, fault, REPEAT_SECONDS, self.peer.worker, message)
            breaks = fault is Fault.IN_FLIGHT
            seconds += 0.0 if breaks else REPEAT_SECONDS
        self._due = due + seconds
        self._held.append((self._due, message, breaks))
        if message[0] in _LAST:
            self._held = deque((now, held, breaks) for _, held, breaks in self._held)
            self._due = now

    def _release(self) -> None:
        now, breaks = time.monotonic(), False
        ready: list[Message] = []
        while self._held and self._held[0][0] <= now and not breaks:
            _, message, breaks = self._held.popleft()
            ready.append(message)
        if ready:
            self.unsent.append(memoryview(self.connection.pack(ready)))
        if not self.writing:
            self._write()
        if breaks:
            self._held.clear()
            self.reactor.broken.append(self)
            self.reactor.wake()
        elif self._held and not self._timed:
            self._timed = True
            self.reactor.call_at(self._held[0][0], self._on_time)
            # Whoever waits for sockets does not know of this timer yet.
            self.reactor.wake()

    def _on_time(self) -> None:
        self._timed = False
        if not self.closed:
            self._release()


def _name(message: Message) -> str:
    cls = MESSAGES.get(message[0])
    return cls.__name__ if cls is not None else ""


# --- calls to the control store ------------------------------------------------------------------------------


def disturbed(stub: Any) -> Any:
    """``stub``, or one whose calls go wrong as this process' plan says."""
    return stub if _active is None else _DisturbedStub(stub, _active)


class _DisturbedStub:
    def __init__(self, stub: Any, faults: Faults) -> None:
        self._stub, self._faults = stub, faults

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._stub, name)
        return (
            _disturbed_watch(name, call, self._faults) if name == "Watch" else _disturbed_call(name, call, self._faults)
        )


_SIDE = (Fault.REQUEST_LOST, Fault.REPLY_LOST, Fault.IN_FLIGHT)


def _before(name: str, request: Any, faults: Faults) -> Fault | None:
    """Be late; then what shall go wrong with this call."""
    seconds = faults.delay(name)
    if seconds:
        faults.tell(name, Fault.DELAYED, seconds, _NIL8, request)
        time.sleep(seconds)
    fault = faults.loss(name, _SIDE)
    if fault is not None:
        faults.tell(name, fault, 0.0, _NIL8, request)
        if fault is Fault.REQUEST_LOST:
            raise _lost(f"the request of {name} was lost")
    return fault


def _disturbed_call(name: str, call: Any, faults: Faults) -> Callable[..., Any]:
    def disturbed_call(request: Any, **options: Any) -> Any:
        fault = _before(name, request, faults)
        if fault is Fault.IN_FLIGHT:
            call.future(request, **options)
            raise _lost(f"the connection broke while {name} was under way")
        reply = call(request, **options)
        if fault is Fault.REPLY_LOST:
            raise _lost(f"the reply of {name} was lost")
        return reply

    return disturbed_call


def _disturbed_watch(name: str, call: Any, faults: Faults) -> Callable[..., Any]:
    def disturbed_call(request: Any, **options: Any) -> Any:
        fault = _before(name, request, faults)
        return _DisturbedStream(call(request, **options), fault)

    return disturbed_call


class _DisturbedStream:
    """A stream that ends early: at once (in flight), or instead of its first reply (lost)."""

    def __init__(self, stream: Any, fault: Fault | None) -> None:
        self._stream, self._fault = stream, fault

    def __iter__(self) -> Iterator[Any]:
        for reply in self._replies():
            if self._fault is Fault.REPLY_LOST:
                self._stream.cancel()
                raise _lost("a reply of Watch was lost")
            yield reply

    def _replies(self) -> Iterator[Any]:
        if self._fault is Fault.IN_FLIGHT:
            self._stream.cancel()
            raise _lost("the connection broke while Watch was under way")
        yield from self._stream

    def cancel(self) -> None:
        self._stream.cancel()


def _lost(what: str) -> Exception:
    import grpc

    class Lost(grpc.RpcError):  # type: ignore[misc]
        """As gRPC tells that a server cannot be reached."""

        def code(self) -> Any:
            return grpc.StatusCode.UNAVAILABLE

        def details(self) -> str:
            return f"{what} (OBSRAY_CHAOS)"

        def trailing_metadata(self) -> tuple[Any, ...]:
            return ()

    return Lost()
