"""A driver or worker without threads and sockets: the real machines, driven as ``core/runtime/session.py`` drives them.

Its inbox and its submissions are the real ones as well; what differs are links, clock and threads.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgpack

from obsray.core.protocol import messages as m
from obsray.core.runtime.calls import ActorCalls, ActorClient
from obsray.core.runtime.dispatch import Dispatcher
from obsray.core.runtime.inbox import Inbox
from obsray.core.runtime.leases import Function, Shape
from obsray.core.runtime.ownership import NODE, READY, Entry, Ownership, Task
from obsray.core.runtime.reservations import Reservations
from obsray.core.runtime.serialization import KIND_ERROR, load_error
from obsray.core.runtime.streams import Stream
from obsray.core.runtime.submission import Packed, Plan, Submission
from obsray.core.runtime.submitted import SubmittedRun
from obsray.core.runtime.values import READS_MAX, Unreadable
from obsray.core.runtime.verdicts import Verdicts
from obsray.core.runtime.waiting import Answer, Waiter
from obsray.core.transport.connection import Hello
from obsray.core.transport.handshake import UnknownTarget
from obsray.errors import ObjectFreedError, ObjectLostError, ObjectStoreFullError
from obsray.ids import (
    NIL_TASK,
    NIL_WORKER,
    SEQUENCE_ACTOR,
    SEQUENCE_DETACHED_ACTOR,
    SEQUENCE_GROUP,
    SEQUENCE_PUT,
    mark_of,
    mark_of_node,
    object_id,
    task_id,
)
from obsray.telemetry.events import ProcessKind, TaskType, WaitKind
from obsray.testing.agenda import MILLISECOND_NS, SECOND_NS, Records
from obsray.testing.founding import FoundedPeerTable
from obsray.testing.network import VirtualLink
from obsray.testing.programs import Steps, Until, Value
from obsray.testing.virtual_thread import VirtualThread

if TYPE_CHECKING:
    from obsray.testing.virtual_node import VirtualNode
    from obsray.testing.virtual_worker import VirtualExecutor

TICK_NS = 5 * MILLISECOND_NS
QUIET_NS = 100 * MILLISECOND_NS
BLOCKED_AFTER_NS = MILLISECOND_NS
CPU = 10_000
INLINE = b"\x80"
#: No placement group, any bundle.
_ANYWHERE = (b"", -1)


class VirtualProcess:
    """The session of one process, with the attributes that its inbox and its submissions look for."""

    def __init__(self, home: VirtualNode, identifier: bytes, pid: int, kind: ProcessKind) -> None:
        simulator = home.simulator
        self.simulator = simulator
        self.home, self.host, self.clock = home, home.host, home.clock
        self.agenda, self.network, self.chance = simulator.agenda, simulator.network, simulator.chance
        self.id = self.worker = identifier
        self.pid = pid
        self.kind = kind
        self.name = f"{kind.name.lower()} {pid} of {home.name}"
        self.config = simulator.config
        self.dead = self.paused = False
        self.links: dict[int, VirtualLink] = {}
        self.records = self.emitter = Records(simulator.log, identifier)
        self.job = 0
        self.local = SimpleNamespace(running=None, trace=None)
        self.lock = contextlib.nullcontext()
        self.closed = False
        self.failure: Exception | None = None
        self.executor: VirtualExecutor | None = None
        self.answers: dict[int, Answer] = {}
        self.placements: dict[bytes, Task] = {}
        self.node_addresses: dict[bytes, str] = {}
        self.node_ids: dict[bytes, bytes] = {}
        self.sleepers: list[Any] = []
        self.streams: Any = None
        self.submission: Any = None
        self.peers: dict[bytes, VirtualLink] = {}
        self.threads: list[VirtualThread] = []
        self.ended_workers: list[str] = []
        #: References that died since the last look.
        self.dropped: list[bytes] = []
        self.unpinned: list[bytes] = []
        self.task_numbers = itertools.count(1)
        self._numbers = itertools.count(1)
        self._put_numbers = itertools.count(1)
        self._actor_numbers = itertools.count(1)
        self._group_numbers = itertools.count(1)
        self._pins: dict[bytes, int] = {}
        self._functions: dict[Any, Function] = {}
        self._plans: dict[Any, Plan] = {}
        session = cast(Any, self)
        self.inbox = Inbox(session, self.clock.monotonic, self.clock.time_ns)
        self.reactor = SimpleNamespace(
            close=self._close_link, read_to_end=self.network.read_to_end,
            links=self.links, call_at=lambda instant, action: self.clock.at(instant, self.do, action),
        )  # fmt: skip
        self.ownership = Ownership(identifier)
        self.verdicts = Verdicts(self.ownership, self.records, self.clock.time_ns)
        self.dispatcher = Dispatcher(self.ownership, self.verdicts, self.records, self.config, 0)
        self.dispatcher.node_ids = self.node_ids
        self.calls = ActorCalls(self.ownership, self.dispatcher, self.verdicts, self.records)
        self.reservations = Reservations(self.ownership)
        self.submitted = SubmittedRun(self.records, 0)
        self.verdicts.before_told = self.submitted.flush
        Submission(session, self.clock.time_ns)
        self.ownership.on_freed = self.inbox.on_freed
        self.node: VirtualLink

    def join(self) -> bool:
        """Connect to the node. False if it does not expect this process."""
        link = self.home.join(self)
        if link is None:
            return False
        self.node = link
        peers = self.home.machine.peers
        if isinstance(peers, FoundedPeerTable):
            self.node_addresses, self.node_ids = peers.known_to_clients()
            self.dispatcher.node_ids = self.node_ids
        else:
            for peer in peers.living():
                self.node_addresses[mark_of_node(peer.id)] = peer.facts.address
                self.node_ids[mark_of_node(peer.id)] = peer.id
        self.dispatcher.job = self.submitted.job = self.job
        if self.home.clustered and self.kind is ProcessKind.DRIVER:
            link.send(m.encode(m.DescribeJob({"entrypoint": "program.py", "namespace": "space"})))
            self.network.flush()
        self.agenda.after(TICK_NS, self._tick)
        return True

    def meet_job(self, job: int) -> None:
        """A worker gets to know the job it works for."""
        self.job = self.dispatcher.job = self.submitted.job = job

    # --- turns -------------------------------------------------------------------------------------------------

    def do(self, stimulus: Callable[..., Any], *arguments: Any) -> None:
        """One turn: a stimulus, then what the machines want because of it."""
        if self.dead:
            return
        self.simulator.decide("owner", self._turn, stimulus, arguments)
        if not self.dead:
            self.simulator.after_step(self)

    def _turn(self, stimulus: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        stimulus(*arguments)
        if self.dead:
            return
        self.after()
        if self.dispatcher.unsent or self.calls.unsent:
            self.dispatcher.push_due(self.clock.time_ns())
            self.calls.push_due(self.clock.time_ns())
            self.after()

    def after(self) -> None:
        """Let the machines act on what happened and send what they say."""
        if self.dropped:
            dropped, self.dropped = self.dropped, []
            self.ownership.drop_local(dropped)
        if self.unpinned:
            unpinned, self.unpinned = self.unpinned, []
            self.node.send(m.encode(m.UnpinObjects(unpinned)))
        if self.dispatcher.active:
            self.dispatcher.run(self.clock.monotonic(), self.clock.time_ns())
        if self.calls.active:
            self.calls.run(self.clock.time_ns())
        self.ownership.settle()
        if self.ownership.outbox:
            self.submitted.flush()
            self._route()
        self.network.flush()

    def _route(self) -> None:
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

    def _connect(self, worker: bytes) -> VirtualLink | None:
        try:
            there = self._reach(worker)
            remote = there.home is not self.home
            me = Hello(self.id, int(self.kind), self.pid, remote)
            near, far = self.network.connect(self, me, there, Hello(worker, int(ProcessKind.WORKER), 0, remote))
        except OSError as error:
            for lease in self.dispatcher.by_worker.get(worker, ()):
                self.node.send(m.encode(m.KillWorker(worker, lease.id)))
            self.dispatcher.functions.pop(worker, None)
            self.inbox.not_reached(worker, error)
            return None
        self.peers[worker] = near
        self.inbox.reached(worker)
        there.inbox.on_link(cast(Any, far))
        return near

    def _reach(self, worker: bytes) -> VirtualProcess:
        """As ``Session._reach``: the process, if its node lets others through to it. Raises OSError if not."""
        there = self.simulator.processes.get(worker)
        mark = mark_of(worker)
        path = self.dispatcher.paths.get(worker) or ""
        elsewhere = self.home.clustered and mark != mark_of(self.id)
        if elsewhere and ":" not in path and mark not in self.node_addresses:
            raise ConnectionRefusedError(f"nobody knows the node of {worker.hex()}")
        if there is None or there.dead:
            raise UnknownTarget(worker.hex())
        if there.home is not self.home and there.home.paused:
            raise TimeoutError(f"the node of {worker.hex()} does not answer")
        return there

    def send_everything(self) -> None:
        """This process is about to wait: nothing may stay behind."""
        if self.dispatcher.unsent:
            self.dispatcher.push_all(self.clock.time_ns())
        if self.calls.unsent:
            self.calls.push_all(self.clock.time_ns())
        if self.executor is not None:
            self.executor.send_results()
        self.after()

    def _tick(self) -> None:
        if not self.dead:
            self.do(self._housekeeping)

    def _housekeeping(self) -> None:
        again = self.dispatcher.tick(self.clock.monotonic(), self.clock.time_ns())
        self.inbox.audit()
        if self.executor is not None:
            self.executor.tick()
            self.inbox.leave_if_free()
        self.send_everything()
        wait = QUIET_NS if again is None else max(TICK_NS, min(int(again * SECOND_NS), QUIET_NS))
        self.agenda.after(wait, self._tick)

    def deliver(self, link: VirtualLink, messages: list[m.Message]) -> None:
        """A peer or the node sent something."""
        self.do(self.inbox.on_messages, link, messages)

    def closed_by_peer(self, link: VirtualLink) -> None:
        """A peer or the node is gone."""
        self.do(self.inbox.on_close, link)

    def _close_link(self, link: VirtualLink) -> None:
        if not link.closed:
            self.network.close(link)
            self.inbox.on_close(cast(Any, link))

    def reading_delay_ns(self) -> int:
        """While user code runs a watcher reads, up to a tick after the last turn."""
        if self.executor is not None and self.executor.slots and self.chance.random() < 0.2:
            return self.chance.randint(0, TICK_NS)
        return 0

    def leave(self) -> None:
        """End in order: say goodbye to the node."""
        self.closed = True
        self.node.send(m.encode(m.Goodbye()))
        self.network.flush()

    def check_open(self) -> None:
        """A virtual process is open as long as it lives."""

    def start_thread(self, name: str) -> VirtualThread:
        """A new thread, which runs nothing yet."""
        thread = VirtualThread(self, name)
        self.threads = [other for other in self.threads if not other.done]
        self.threads.append(thread)
        return thread

    # --- values ------------------------------------------------------------------------------------------------

    def ask(self, make: Callable[[int], Any]) -> Answer:
        """Send a request to the node; ``make`` gets its number."""
        number = next(self._numbers)
        answer = self.answers[number] = Answer()
        self.node.send(m.encode(make(number)))
        return answer

    def next_put(self) -> bytes:
        """The id of a new object of this process."""
        return object_id(task_id(self.id, next(self._put_numbers), SEQUENCE_PUT))

    def next_actor(self, detached: bool = False) -> bytes:
        """The id of a new actor."""
        kind = SEQUENCE_DETACHED_ACTOR if detached else SEQUENCE_ACTOR
        return task_id(self.id, next(self._actor_numbers), kind)

    def store(self, identifier: bytes, value: Value) -> Steps[bytes | int]:
        """A value as it travels: inline, or written to the object store. Raises ObjectStoreFullError."""
        value = value._replace(made=self.simulator.ledger.next_made())
        if value.size <= self.config.inline_bytes_max:
            return INLINE + cast(bytes, msgpack.packb(value))
        answer = self.ask(lambda number: m.CreateObject(number, identifier, value.size))
        self.after()
        try:
            yield Until(answer, None, WaitKind.ALLOCATE)
        except BaseException:
            self.node.send(m.encode(m.AbortObject(identifier)))
            raise
        room = answer.message
        if isinstance(room, m.ObjectRefused):
            if room.error == "duplicate":
                return value.size
            raise ObjectStoreFullError(room.detail)
        self.home.arena[room.offset] = (identifier, value)
        self.node.send(m.encode(m.SealObject(identifier)))
        self.network.flush()
        return value.size

    def pinned(self, identifier: bytes) -> Steps[Value]:
        """A stored object; pinned until ``unpin``."""
        answer = self.ask(lambda number: m.PinObject(number, identifier))
        self.after()
        try:
            yield Until(answer)
        finally:
            if answer.message is None:
                answer.undo = m.UnpinObjects([identifier])
        told = answer.message
        if isinstance(told, m.ObjectRefused):
            if told.error in ("lost", "unknown"):
                raise Unreadable(identifier, told.detail)
            raise ObjectLostError(identifier.hex(), message=f"object {identifier.hex()} cannot be read: {told.detail}")
        if told.offset in self.home.gone and identifier not in self._pins:
            self.node.send(m.encode(m.FileGone(identifier, "no such file")))
            self.network.flush()
            raise Unreadable(identifier, "no such file")
        self._pins[identifier] = told.offset
        self.home.check_read(identifier, told.offset)
        value: Value = self.home.arena[told.offset][1]
        return value

    def read(self, entry: Entry) -> Steps[Any]:
        """A value as ``Values._read`` gets it: inline bytes, or a Value that lies in the store and is pinned."""
        for _ in range(READS_MAX):
            value = entry.value
            if type(value) is bytes:
                return value
            if value is None and entry.state == READY:
                raise ObjectFreedError(entry.id.hex(), message=f"object {entry.id.hex()} has been freed by its owner")
            if value is not None:
                try:
                    return (yield from self.pinned(entry.id))
                except Unreadable as lost:
                    self.inbox.recovery.unreadable(entry, str(lost))
            if entry.state != READY:
                waiter = Waiter(1, fail_fast=True)
                self.ownership.wait_for(entry, waiter)
                self.send_everything()
                try:
                    yield Until(waiter)
                finally:
                    self.ownership.stop_waiting(entry, waiter)
        raise ObjectLostError(entry.id.hex(), message=f"object {entry.id.hex()} cannot be read")

    def recovered(self, identifier: bytes, detail: str) -> Steps[Any]:
        """As ``Values.recovered``."""
        entry = self.ownership.entry(identifier)
        entry.local += 1
        if entry.state == READY:
            self.inbox.recovery.unreadable(entry, detail)
        elif not entry.owned:
            self.ownership.lost[identifier] = detail
        try:
            return (yield from self.read(entry))
        finally:
            self.dropped.append(identifier)

    def unpin(self, identifier: bytes) -> None:
        """The last view of the object is gone; it was not moved meanwhile."""
        self.home.check_read(identifier, self._pins.pop(identifier))
        self.unpinned.append(identifier)

    def open(self, data: bytes, thread: VirtualThread) -> Value:
        """An inline value; references inside it are held by the thread."""
        if data[0] == KIND_ERROR:
            raise load_error(data)
        if data == INLINE:
            return Value(0)
        return self.adopt(Value(*msgpack.unpackb(data[1:], use_list=False)), thread)

    def adopt(self, value: Value, thread: VirtualThread) -> Value:
        """The value was deserialized here: each reference inside is one more of this process."""
        for identifier in value.inner:
            self.reference(identifier, thread)
        return value

    def reference(self, identifier: bytes, thread: VirtualThread) -> None:
        """A new reference to an object, counted."""
        entry = self.ownership.entry(identifier)
        entry.local += 1
        if not entry.owned and thread.running is not None:
            if thread.running.borrowed is None:
                thread.running.borrowed = []
            thread.running.borrowed.append(identifier)
        thread.hold(identifier)

    def raise_error(self, entry: Entry) -> None:
        """Raise what an entry failed with."""
        if type(entry.value) is bytes:
            raise load_error(entry.value)
        raise ObjectFreedError(entry.id.hex(), message=f"object {entry.id.hex()} has been freed by its owner")

    # --- submitting ----------------------------------------------------------------------------------------------

    def _plan(
        self, name: str, returns: int, retries: int, options: dict[str, Any], cpus: float, where: tuple[bytes, int]
    ) -> Plan:
        key = (name, returns, retries, tuple(sorted(options.items())), cpus, where)
        plan = self._plans.get(key)
        if plan is None:
            function = self._function(name, options.get("max_calls", 0))
            shape = self._shape(cpus, where) if cpus >= 0 else None
            wired: dict[str, Any] = {"retry": True} if options.get("retry_exceptions") else {}
            if "backpressure" in options:
                wired["backpressure"] = options["backpressure"]
            if options.get("max_calls"):
                wired["max_calls"] = options["max_calls"]
            plan = self._plans[key] = Plan(
                cast(Any, self),
                function,
                name,
                returns,
                retries,
                wired or None,
                shape,
                (0, 9),
                lambda args, kwargs: None,
            )
        return plan

    def _function(self, name: str, max_calls: int) -> Function:
        function = self._functions.get((name, max_calls))
        if function is None:
            identifier = f"{name}/{max_calls}".encode()
            function = self._functions[name, max_calls] = Function(identifier, name, b"blob", max_calls)
        return function

    def _shape(self, cpus: float, where: tuple[bytes, int]) -> Shape:
        resources = {"CPU": round(cpus * CPU)} if cpus else {}
        placement = {"group": where[0], "bundle": where[1]} if where[0] else None
        name = f"CPU:{cpus:g} in {where[0].hex()}[{where[1]}]" if where[0] else f"CPU:{cpus:g}"
        return self.dispatcher.shape(name, resources, None, (cpus, where), placement)

    def _packed(self, numbers: tuple[int, ...], arguments: list[bytes], nested: list[bytes]) -> Packed:
        packed = Packed()
        packed.payload = msgpack.packb((numbers, nested))
        packed.arguments = list(enumerate(arguments)) or None
        packed.nested = nested or None
        return packed

    def submit(
        self,
        name: str,
        numbers: tuple[int, ...] = (),
        *,
        thread: VirtualThread,
        arguments: list[bytes] | None = None,
        nested: list[bytes] | None = None,
        returns: int = 1,
        retries: int = 3,
        cpus: float = 1,
        group: bytes = b"",
        bundle: int = -1,
        **options: Any,
    ) -> list[bytes]:
        """Submit a task as ``Submission.call`` does; the thread holds the references returned."""
        plan = self._plan(name, returns, retries, options, cpus, (group, bundle))
        packed = self._packed(numbers, arguments or [], nested or [])
        submission = self.submission
        task: Task = submission._make(plan, packed, TaskType.TASK, NIL_TASK)
        self._line_up(plan, task)
        return self._submitted(task, thread)

    def _line_up(self, plan: Plan, task: Task) -> None:
        if task.unready == 0:
            assert plan.shape is not None
            plan.shape.queue.append(task)
            waiting = len(plan.shape.queue)
            if waiting & (waiting - 1) == 0:
                self.dispatcher.active.add(plan.shape)
        else:
            task.ready = self.submission._task_ready

    def stream(
        self, name: str, numbers: tuple[int, ...], *, thread: VirtualThread, arguments: list[bytes] | None = None,
        backpressure: int = -1, retries: int = 3, cpus: float = 1,
    ) -> tuple[Stream, bytes]:  # fmt: skip
        """Submit a streaming task: its items, and the object that is ready at its end, which the thread holds."""
        plan = self._plan(name, -1, retries, {"backpressure": backpressure}, cpus, _ANYWHERE)
        task: Task = self.submission._make(plan, self._packed(numbers, arguments or [], []), TaskType.TASK, NIL_TASK)
        self._line_up(plan, task)
        stream: Stream = self.submission.streams.open(task)
        stream.backpressure = backpressure
        (ended,) = self._submitted(task, thread)
        return stream, ended

    def _submitted(self, task: Task, thread: VirtualThread) -> list[bytes]:
        self.simulator.task_submitted(self, task)
        for entry in task.entries:
            entry.local = 1
            thread.hold(entry.id)
        if task.arguments is not None:
            self.submission._fail_early(task)
        if self.dispatcher.active or self.ownership.outbox:
            self.after()
        return [entry.id for entry in task.entries]

    def call(
        self,
        client: ActorClient,
        method: str,
        numbers: tuple[int, ...] = (),
        *,
        thread: VirtualThread,
        arguments: list[bytes] | None = None,
        nested: list[bytes] | None = None,
        retries: int = 0,
    ) -> bytes:
        """Call an actor as ``Submission.call_actor`` does; the thread holds the reference returned."""
        plan = self._plan(f"{client.class_name}.{method}", 1, retries, {}, -1, _ANYWHERE)
        packed = self._packed(numbers, arguments or [], nested or [])
        submission = self.submission
        task: Task = submission._make(plan, packed, TaskType.ACTOR_CALL, client.id)
        keep = self.ownership.entries.get(client.id + bytes(4))
        if keep is not None:
            keep.pins += 1
            task.pinned = [*task.pinned, keep] if task.pinned is not None else [keep]
        task.ready = submission._call_ready
        (entry,) = task.entries
        entry.local = 1
        thread.hold(entry.id)
        self.simulator.task_submitted(self, task)
        if task.arguments is not None:
            submission._fail_early(task)
        self.calls.submit(client, task)
        self.after()
        return entry.id

    def create_actor(
        self, class_name: str, numbers: tuple[int, ...], *, thread: VirtualThread, nested: list[bytes] | None = None,
        restarts: int = 0, cpus: float = 0, detached: bool = False, checkpoint_every: int = 0, group: bytes = b"",
        at_a_time: int = 1,
    ) -> ActorClient:  # fmt: skip
        """Create an actor as ``Submission.create_actor`` does; the thread holds its handle's reference. ``at_a_time``:
        of more than one of its calls none waits for another."""
        plan = self._plan(class_name, 1, 0, {}, -1, _ANYWHERE)
        packed = self._packed(numbers, [], nested or [])
        spec = {
            "class_name": class_name, "name": "", "namespace": "", "detached": detached,
            "resources": {"CPU": CPU}, "held": {"CPU": round(cpus * CPU)} if cpus else {}, "runtime": None,
            "restarts_max": restarts, "meta": b"",
            "concurrency": {"max": at_a_time} if at_a_time > 1 else {},
            "checkpoint": {"every": checkpoint_every} if checkpoint_every else None,
            "placement": {"group": group, "bundle": -1} if group else None,
        }  # fmt: skip
        client: ActorClient
        client, _ = self.submission.create_packed(plan, spec, packed, at_a_time == 1, -1)
        client.concurrent = at_a_time > 1
        thread.hold(client.id + bytes(4))
        return client

    def create_group(self, bundles: list[int], strategy: str, *, thread: VirtualThread) -> tuple[bytes, bytes]:
        """Ask for a placement group with so many CPUs in each bundle: its id, and the object that is ready with it."""
        group = task_id(self.id, next(self._group_numbers), SEQUENCE_GROUP)
        spec = {
            "group": group, "name": "", "namespace": "", "strategy": strategy, "selectors": [], "detached": False,
            "bundles": [{"CPU": count * CPU} for count in bundles], "job": self.job, "target": NIL_WORKER,
        }  # fmt: skip
        self.ask(lambda number: m.CreateGroup(number, spec))
        ready = self.next_put()
        self.reservations.await_group(ready, group, INLINE)
        thread.hold(ready)
        self.after()
        return group, ready

    def remove_group(self, group: bytes) -> None:
        """End a placement group, as ``remove_placement_group`` does."""
        self.simulator.ledger.groups_removed += 1
        self.node.send(m.encode(m.RemoveGroup(group)))
        self.network.flush()

    def handle(self, actor: bytes, class_name: str) -> ActorClient:
        """The client of an actor whose handle came in with a value."""
        return self.calls.client(actor, class_name)

    def cancel(self, identifier: bytes, force: bool, recursive: bool) -> None:
        """Cancel the task that makes an object, as ``Session.cancel`` does."""
        self.calls.cancel_object(identifier, force, recursive, self.clock.time_ns())
        self.after()

    def cancel_children(self, parent: bytes) -> None:
        """Cancel what a cancelled task submitted from here, as ``Session.cancel_children`` does."""
        self.calls.cancel_children(parent, self.clock.time_ns())
