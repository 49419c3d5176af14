"""From a call in the user's program to a task in the machines."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from struct import Struct
from typing import Any

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import TaskState, advance
from obsray.core.runtime import ambient
from obsray.core.runtime.calls import ActorClient
from obsray.core.runtime.dispatch import wire_arguments
from obsray.core.runtime.leases import Function, Shape
from obsray.core.runtime.ownership import NODE, READY, Entry, Task
from obsray.core.runtime.producers import GATHERED
from obsray.core.runtime.references import ObjectRef, counted, unknown
from obsray.core.runtime.serialization import PLAIN, Serialized, dump_error, serialize
from obsray.core.runtime.session import Session
from obsray.core.runtime.streams import ObjectRefGenerator, Streams
from obsray.errors import ActorDiedError, PendingCallsLimitExceeded, RaySystemError
from obsray.ids import NIL_OBJECT, NIL_TASK
from obsray.telemetry.events import Outcome, TaskType

#: ``num_returns`` of generators: references one by one, or all of them in one value at the end.
STREAMING = -1
DYNAMIC = GATHERED
_SEQUENCE = Struct(">Q").pack
_FIRST = bytes(4)


class Plan:
    """Everything about a remote function or actor method that does not change from call to call, for one session.

    ``check(args, kwargs)`` raises TypeError if they do not fit; it is called only for calls whose number of positional
    arguments is outside ``args_min``..``args_max`` or that use keywords.
    """

    __slots__ = ("args_max", "args_min", "backpressure", "check", "function", "labels", "name", "name_number",
                 "options", "retries", "returns", "session", "shape")  # fmt: skip

    def __init__(
        self, session: Session, function: Function, name: str, returns: int, retries: int,
        options: dict[str, Any] | None, shape: Shape | None,
        bounds: tuple[int, int], check: Callable[[Any, Any], None], labels: str = "",
    ) -> None:  # fmt: skip
        self.session = session
        self.function = function
        self.name = name
        self.name_number = session.emitter.intern(name)
        #: Number of the labels' text, 0 for none.
        self.labels = session.emitter.intern(labels) if labels else 0
        self.returns = returns
        self.retries = retries
        # Whoever must choose a worker to kill spares what would not run again.
        self.options = {**(options or {}), "final": True} if shape is not None and retries == 0 else options
        self.shape = shape
        self.args_min, self.args_max = bounds
        self.check = check
        self.backpressure = (options or {}).get("backpressure", -1)


class Packed:
    """Arguments ready to travel: ``arguments`` are top-level references, ``nested`` ids inside the payload."""

    __slots__ = ("arguments", "nested", "payload", "stored")

    def __init__(self) -> None:
        self.payload = b""
        self.arguments: list[tuple[int | str, bytes]] | None = None
        self.nested: list[bytes] | None = None
        #: The whole payload as an object of this process, if it is too large to travel inline.
        self.stored: ObjectRef[Any] | None = None


def pack_arguments(session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Pickle the arguments of one call. Raises TypeError for what cannot travel."""
    packed = Packed()
    plain = True
    references: list[tuple[int | str, bytes]] = []
    values: Any = args
    for position, value in enumerate(args):
        kind = type(value)
        if kind is ObjectRef:
            if values is args:
                values = list(args)
            values[position] = None
            references.append((position, value._id))
        elif kind not in PLAIN:
            plain = False
    if kwargs:
        for name, value in kwargs.items():
            if type(value) is ObjectRef:
                references.append((name, value._id))
            elif type(value) not in PLAIN:
                plain = False
        if references:
            kwargs = {k: None if type(v) is ObjectRef else v for k, v in kwargs.items()}
    if plain:
        payload = pickle.dumps((values, kwargs), 5)
        if len(payload) <= session.config.inline_bytes_max:
            packed.payload = payload
            packed.arguments = references or None
            return packed
        serialized = Serialized(payload, [], [])
    else:
        serialized = _serialize_arguments(values, kwargs)
        packed.nested = serialized.references or None
    if serialized.size <= session.config.inline_bytes_max:
        packed.payload = serialized.to_bytes()
    else:
        packed.stored = session.values.put(serialized)
        references.append(("*", bytes(packed.stored)))
    packed.arguments = references or None
    return packed


def _serialize_arguments(values: Any, kwargs: dict[str, Any]) -> Serialized:
    try:
        return serialize((values, kwargs))
    except TypeError:
        # Which one it was; none, if pickling fails by chance.
        for position, value in enumerate(values):
            serialize(value, f"argument {position}")
        for name, value in kwargs.items():
            serialize(value, f"argument {name!r}")
        raise


#: Arguments that one record names.
_GIVEN_AT_ONCE = 4


class Submission:
    """Submits tasks, actor creations and actor calls for one session. The clock is an argument for simulators."""

    def __init__(self, session: Session, time_ns: Callable[[], int] = time.time_ns) -> None:
        self.session = session
        self._time_ns = time_ns
        self.streams = Streams(session)
        session.submission = self
        self._prefix = session.worker
        self._number = session.task_numbers.__next__

    def call(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a call of a remote function: its reference(s), a generator, or None for no returns."""
        if kwargs or not plan.args_min <= len(args) <= plan.args_max:
            plan.check(args, kwargs)
        session = self.session
        packed = pack_arguments(session, args, kwargs) if args or kwargs else None
        if session.interrupt_pending:
            session.take_interrupt()
        with session.lock:
            if session.closed or session.failure is not None:
                session.check_open()
            task = self._make(plan, packed, TaskType.TASK, NIL_TASK)
            if plan.labels:
                session.emitter.task_labelled(self._time_ns(), task.id, plan.labels)
            if task.state is TaskState.QUEUED and task.arguments is not None and session.ownership.places:
                session.dispatcher.enqueue(task)
            elif task.state is TaskState.QUEUED:
                shape = plan.shape
                assert shape is not None
                queue = shape.queue
                queue.append(task)
                # Leases are full already if others wait, and the node hears of demand in powers of two.
                waiting = len(queue)
                if waiting & (waiting - 1) == 0:
                    session.dispatcher.active.add(shape)
            else:
                task.ready = self._task_ready
            references = self._references(plan, task)
            if session.dispatcher.active or session.ownership.outbox:
                session.after()
        return references

    def call_actor(self, plan: Plan, client: ActorClient, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a call of an actor's method."""
        if kwargs or not plan.args_min <= len(args) <= plan.args_max:
            plan.check(args, kwargs)
        session = self.session
        if client.pending_max > 0 and len(client.queue) + len(client.in_flight) >= client.pending_max:
            with session.lock:
                pending = len(client.queue) + len(client.in_flight)
                session.emitter.call_refused(self._time_ns(), client.id, plan.name_number, pending, client.pending_max)
            raise PendingCallsLimitExceeded(
                f"{client.class_name} has {client.pending_max} calls of this process waiting (max_pending_calls); "
                "get some of their results first"
            )
        packed = pack_arguments(session, args, kwargs) if args or kwargs else None
        if session.interrupt_pending:
            session.take_interrupt()
        with session.lock:
            if session.closed or session.failure is not None:
                session.check_open()
            task = self._make(plan, packed, TaskType.ACTOR_CALL, client.id)
            # A pending call keeps the actor alive.
            keep = session.ownership.entries.get(client.id + _FIRST)
            if keep is not None:
                keep.pins += 1
                task.pinned = [*task.pinned, keep] if task.pinned is not None else [keep]
            task.ready = self._call_ready
            references = self._references(plan, task)
            session.calls.submit(client, task)
            session.after()
        return references

    def _make(self, plan: Plan, packed: Packed | None, kind: TaskType, actor: bytes) -> Task:
        session = self.session
        number = self._number()
        identifier = self._prefix + _SEQUENCE(number)
        task = Task(identifier, plan.function, plan.shape, b"" if packed is None else packed.payload, plan.returns)
        task.name = plan.name_number
        task.retries_left = plan.retries
        task.options = plan.options
        running = session.local.running
        if running is None and session.executor is not None:
            running = session.executor.origin()
        if running is None:
            trace = session.local.trace
            task.parent, task.trace = NIL_TASK, trace or identifier
        else:
            task.parent, task.trace = running.task, running.trace
            trace = running.trace
        around = ambient.current() if ambient.current is not None else None
        if around is not None:
            trace, span, baggage = around
            task.trace = trace
            session.emitter.task_called_in_span(self._time_ns(), identifier, span, trace)
            if baggage:
                task.options = {**(plan.options or {}), "baggage": baggage}
        if plan.returns == 1:
            task.entries = (Entry(identifier + _FIRST, True),)
        elif plan.returns > 1:
            task.entries = tuple(Entry(identifier + i.to_bytes(4, "big"), True) for i in range(plan.returns))
        elif plan.returns < 0:
            task.entries = (Entry(identifier + _FIRST, True),)
        arguments = 0
        if packed is not None and (packed.arguments is not None or packed.nested is not None):
            arguments = self._pin(task, packed)
        session.ownership.add_task(task)
        submitted = session.submitted
        if not arguments and task.pinned is None:
            submitted.add(self._time_ns(), number, identifier, plan, running, trace, actor, kind, len(task.payload))
            return task
        submitted.flush()
        session.emitter.task_submitted(
            self._time_ns(), identifier, task.parent, task.trace, actor, plan.name_number,
            plan.shape.name_number if plan.shape is not None else 0, session.job, arguments, task.unready, kind,
            plan.retries, len(task.payload),
        )  # fmt: skip
        if task.unready:
            for _, entry in task.arguments or ():
                if entry.state != READY:
                    session.emitter.task_arguments_waiting(self._time_ns(), identifier, entry.id)
        if arguments > task.unready:
            self._tell_given(task)
        return task

    def _tell_given(self, task: Task) -> None:
        """Which arguments are there already: waiting ones have been told of one by one."""
        given = [entry.id for _, entry in task.arguments or () if entry.state == READY]
        for at in range(0, len(given), _GIVEN_AT_ONCE):
            some = given[at : at + _GIVEN_AT_ONCE]
            self.session.emitter.task_arguments_given(
                self._time_ns(), task.id, len(some), *some, *[NIL_OBJECT] * (_GIVEN_AT_ONCE - len(some))
            )

    def _pin(self, task: Task, packed: Packed) -> int:
        entries = self.session.ownership.entries
        pinned: list[Entry] = []
        try:
            if packed.arguments is not None:
                task.arguments = []
                for position, identifier in packed.arguments:
                    entry = entries[identifier]
                    task.arguments.append((position, entry))
                    pinned.append(entry)
            for identifier in packed.nested or ():
                pinned.append(entries[identifier])
        except KeyError:
            raise unknown(identifier) from None
        for entry in pinned:
            entry.pins += 1
        task.pinned = pinned
        return len(task.arguments or ())

    def _references(self, plan: Plan, task: Task) -> Any:
        if plan.returns == DYNAMIC:
            whole = self.streams.gather(task)
            self._fail_early(task)
            return counted(whole.id)
        if plan.returns < 0:
            stream = self.streams.open(task)
            stream.backpressure = plan.backpressure
            task.entries[0].local = 1
            generator: ObjectRefGenerator[Any] = ObjectRefGenerator(stream, task)
            self._fail_early(task)
            return generator
        if plan.returns == 1:
            entry = task.entries[0]
            entry.local = 1
            references: Any = counted(entry.id)
        else:
            for entry in task.entries:
                entry.local = 1
            references = [counted(entry.id) for entry in task.entries] or None
        if task.arguments is not None:
            self._fail_early(task)
        return references

    def _fail_early(self, task: Task) -> None:
        """An argument that has failed already fails the task at once."""
        for _, entry in task.arguments or ():
            if entry.failed and task.id in self.session.ownership.tasks:
                self.session.verdicts.argument_failed(task, entry)
                return

    def _task_ready(self, task: Task, entry: Entry) -> None:
        self.session.dispatcher.argument_ready(task, entry, self._time_ns())

    def _call_ready(self, task: Task, entry: Entry) -> None:
        self.session.calls.argument_ready(task, entry, self._time_ns())

    # --- actors -----------------------------------------------------------------------------------------------------

    def create_actor(
        self, plan: Plan, spec: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any], ordered: bool,
        pending_max: int,
    ) -> tuple[ActorClient, ObjectRef[Any]]:  # fmt: skip
        """Ask the node for an actor. Raises RaySystemError (kind "name_taken") if its name is not free."""
        session = self.session
        session.check_open()
        packed = pack_arguments(session, args, kwargs) if args or kwargs else None
        if spec["name"] and packed is not None and packed.arguments is not None:
            # A name is answered for at once, so what it is built from must exist.
            self._wait_for_arguments(packed)
        client, answer = self.create_packed(plan, spec, packed, ordered, pending_max)
        reference: ObjectRef[Any] = counted(client.id + _FIRST)
        if answer is not None and spec["name"]:
            session.wait_until(answer, time.monotonic() + 60)
            reply = answer.message
            if reply is not None and reply.error:
                error = RaySystemError(reply.error)
                error.kind = reply.kind  # type: ignore[attr-defined]
                raise error
        return client, reference

    def create_packed(
        self, plan: Plan, spec: dict[str, Any], packed: Packed | None, ordered: bool, pending_max: int
    ) -> tuple[ActorClient, Any]:
        """Have an actor created whose handle counts as one reference. With the node's answer if it was asked now."""
        session = self.session
        actor, answer = session.next_actor(bool(spec["detached"])), None
        with session.lock:
            task = self._make(plan, packed, TaskType.ACTOR_CREATION, actor)
            entry = Entry(actor + _FIRST, True)
            entry.state, entry.value, entry.local = READY, b"\x80", 1
            session.ownership.entries[entry.id] = entry
            client = session.calls.client(actor, spec["class_name"], created_here=True)
            client.ordered = ordered
            client.pending_max = pending_max
            # A detached actor does not end with its handles.
            client.ends_with_handles = not spec["detached"]
            spec |= {
                "actor": actor, "job": session.job, "owner": session.worker, "task": task.id, "trace": task.trace,
                "function": plan.function.blob, "payload": task.payload,
            }  # fmt: skip
            session.emitter.actor_created(
                self._time_ns(), actor, task.id, session.emitter.intern(spec["class_name"]),
                session.emitter.intern(spec["name"]), session.emitter.intern(spec["namespace"]),
                session.emitter.intern(str(spec["resources"])), spec["restarts_max"], spec["detached"], session.job,
                (spec.get("placement") or {}).get("group", NIL_TASK),
            )  # fmt: skip
            if plan.labels:
                session.emitter.actor_labelled(self._time_ns(), actor, plan.labels)
            task.ended = lambda t, error: self._never_born(client, t, error)
            task.ready = lambda t, e: self._creation_ready(t, e, spec)
            if task.state is TaskState.QUEUED:
                self._fail_early(task)
                if task.id in session.ownership.tasks:
                    answer = self._place(task, spec)
            session.after()
        return client, answer

    def _wait_for_arguments(self, packed: Packed) -> None:
        session = self.session
        references = [session.reference(identifier) for _, identifier in packed.arguments or ()]
        session.values.wait(references, len(references), None, fetch_local=False)

    def _never_born(self, client: ActorClient, task: Task, error: bytes) -> None:
        """The node must hear of it: others may have handles of this actor and wait for it."""
        self.session.calls.died(client, error, "its constructor's argument failed")
        unwanted = task.state is TaskState.CANCELLED
        self.session.ownership.outbox.append((NODE, m.encode(m.ActorFailed(client.id, error, unwanted))))

    def _creation_ready(self, task: Task, entry: Entry, spec: dict[str, Any]) -> None:
        if entry.failed:
            self.session.verdicts.argument_failed(task, entry)
            return
        advance(task, TaskState.QUEUED)
        if spec["actor"] + _FIRST in self.session.ownership.entries or spec["detached"]:
            self._place(task, spec)
        else:
            # Its last handle went away before it could be built.
            self.session.verdicts.cancelled(task)

    def _place(self, task: Task, spec: dict[str, Any]) -> Any:
        spec["arguments"] = None if task.arguments is None else wire_arguments(task.arguments)
        advance(task, TaskState.DISPATCHED)
        task.dispatched_to = _Placement(self.session, spec)
        self.session.placements[spec["actor"]] = task
        answer = self.session.ask(lambda number: m.CreateActor(number, spec))
        answer.then = lambda reply: self._answered(task, spec, reply)
        return answer

    def _answered(self, task: Task, spec: dict[str, Any], reply: m.Reply) -> None:
        """The node has the actor now, or will not have it: its name is taken. Then its creation is over."""
        if not reply.error or reply.kind == "duplicate" or task.id not in self.session.ownership.tasks:
            return
        text = f"it never ran; {reply.error}"
        error = dump_error(ActorDiedError(f"{spec['class_name']} was not made: {reply.error}", spec["actor"].hex()))
        self.session.calls.died(self.session.calls.clients[spec["actor"]], error, text)
        # The node knows already.
        task.ended = None
        self.session.verdicts.end(task, TaskState.CANCELLED, Outcome.CANCELLED, error)


class _Placement:
    """Where a creation task is once the node has it."""

    def __init__(self, session: Session, spec: dict[str, Any]) -> None:
        self.session, self.spec = session, spec

    def forget(self, task: Task) -> None:
        """The creation has ended."""
        self.session.placements.pop(self.spec["actor"], None)
