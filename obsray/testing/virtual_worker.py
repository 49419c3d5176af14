"""A worker that "runs" tasks: as ``core/runtime/executor.py``, with generators for user code and no process.

The black box is ``Records.ran``: an attempt is in it from its first moment until another begins; a death reads it.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import msgpack

from obsray.core.protocol import messages as m
from obsray.core.runtime.executor import SEND_AFTER_NS, LoadedFunction
from obsray.core.runtime.producers import ABANDONED, UNREAD, Producers, Window
from obsray.core.runtime.running import Running
from obsray.core.runtime.serialization import dump_error
from obsray.core.runtime.values import Unreadable
from obsray.core.runtime.waiting import Waiter
from obsray.errors import ActorDiedError, RayError, RayTaskError, TaskCancelledError
from obsray.telemetry.events import Outcome, Reason, WaitKind
from obsray.testing.agenda import MICROSECOND_NS
from obsray.testing.bodies import body
from obsray.testing.network import VirtualLink
from obsray.testing.programs import Item, Program, Sleep, Steps, Until, Value
from obsray.testing.virtual_checkpoints import VirtualCheckpoints
from obsray.testing.virtual_process import INLINE, VirtualProcess
from obsray.testing.virtual_thread import VirtualThread

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator

_DONE_TAG = m.Done._field_defaults["tag"]
_NO_ACTOR = bytes(16)


class Call:
    """What a body is called with: where it runs, its numbers and arguments."""

    __slots__ = ("arguments", "attempt", "instance", "nested", "numbers", "process", "task", "thread")

    def __init__(self, thread: VirtualThread, running: Running, instance: dict[str, Any] | None) -> None:
        self.thread = thread
        self.process = thread.process
        self.task = running.task
        self.attempt = running.attempt
        #: The state of the actor, None in a task.
        self.instance = instance
        self.numbers: tuple[int, ...] = ()
        #: Values of top-level reference arguments, and ids of references inside the payload.
        self.arguments: list[Value] = []
        self.nested: tuple[bytes, ...] = ()

    def keep(self, *identifiers: bytes) -> None:
        """Have the actor keep references beyond this call."""
        assert self.instance is not None
        for identifier in identifiers:
            self.process.ownership.entries[identifier].local += 1
            self.instance.setdefault("kept", []).append(identifier)

    def kept(self) -> list[bytes]:
        """The references that the actor keeps."""
        assert self.instance is not None
        return list(self.instance.get("kept", ()))

    def let_go(self) -> None:
        """Have the actor forget them."""
        assert self.instance is not None
        self.process.dropped += self.instance.pop("kept", [])


class VirtualExecutor:
    """What a worker does besides being a session."""

    def __init__(self, process: VirtualProcess) -> None:
        self.process = process
        self.simulator: Simulator = process.simulator
        self.agenda, self.clock, self.chance = process.agenda, process.clock, process.chance
        self.queue: deque[Running | m.StartActor] = deque()
        self.exiting = ""
        self.slots: dict[int, Running] = {}
        self.actor = b""
        self.instance: dict[str, Any] | None = None
        self.checkpoints: VirtualCheckpoints | None = None
        #: Calls of an actor that run beside each other, each in a thread of its own.
        self.at_a_time = 1
        self.producers = Producers(cast(Any, self))
        self._thread = process.start_thread("main")
        self._thread.ended = self._main_ended
        self._threads: dict[int, VirtualThread] = {0: self._thread}
        self._idle: Waiter | None = None
        self._results: dict[int, tuple[VirtualLink, list[tuple[Any, ...]]]] = {}
        self._sent_ns = 0
        self._blocked = False
        #: Lease -> how often tasks pushed under it were given back.
        self._given_back: dict[int, int] = {}
        #: An actor's constructor, or its call that waits for a lost argument: as ``Executor._lends``.
        self._lending: Running | None = None
        self._cancelled: set[bytes] = set()
        process.executor = self
        inbox = process.inbox
        inbox.handle(m.DefineFunction, cast(Any, self._on_define))
        inbox.handle(m.Push, cast(Any, self._on_push))
        inbox.handle(m.Recall, cast(Any, self._on_recall))
        inbox.handle(m.CancelTask, cast(Any, self._on_cancel))
        inbox.handle(m.StartActor, cast(Any, self._on_start_actor))
        inbox.handle(m.ItemsTaken, cast(Any, lambda link, x: self.producers.taken(x[1], x[2])))

    @property
    def session(self) -> VirtualProcess:
        """As the real one calls it."""
        return self.process

    def start(self) -> None:
        """Begin to serve."""
        self.process.do(self._thread.run, self._run())

    # --- the loop ----------------------------------------------------------------------------------------------

    def _run(self) -> Steps[None]:
        process, queue = self.process, self.queue
        while not self.exiting:
            if not queue:
                process.send_everything()
                if not queue and not self.exiting:
                    yield from self._wait_idle()
                continue
            next_up = queue.popleft()
            if isinstance(next_up, Running) and self.at_a_time > 1:
                yield from self._room_beside()
                self._execute_beside(next_up)
            elif isinstance(next_up, Running):
                yield from self._execute(next_up)
            else:
                yield from self._become(next_up)
            # A moment for deaths between two attempts.
            yield Sleep(self.chance.randint(1, 5) * MICROSECOND_NS)
            if not queue or self.clock.time_ns() - self._sent_ns > SEND_AFTER_NS:
                process.send_everything()
        while self.slots:
            yield from self._wait_idle()
        process.send_everything()

    def _wait_idle(self) -> Steps[None]:
        self._idle = Waiter(1)
        yield Until(self._idle)
        self._idle = None

    def _room_beside(self) -> Steps[None]:
        while len(self.slots) >= self.at_a_time:
            self.process.send_everything()
            yield from self._wait_idle()

    def _execute_beside(self, running: Running) -> None:
        """A call begins in a thread of its own; those before it run on."""
        slot = next(number for number in itertools.count(1) if number not in self.slots)
        thread = self._threads[slot] = self.process.start_thread(f"call {slot}")
        thread.ended = lambda value, error: self._beside_ended(slot, error)
        self.slots[slot] = running
        self.agenda.after(MICROSECOND_NS, self.process.do, thread.run, self._execute(running, slot))

    def _beside_ended(self, slot: int, error: BaseException | None) -> None:
        if error is not None:
            raise error
        self.slots.pop(slot, None)
        self._wake()

    def _main_ended(self, value: Any, error: BaseException | None) -> None:
        if error is not None:
            raise error
        self.process.leave()
        self.simulator.exited(self.process)

    def has_work(self) -> bool:
        """Whether something runs, waits to run or has results that were not sent."""
        return bool(self.slots or self.queue or self._results)

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.on_ready(None)

    def exit(self, reason: str) -> None:
        """Stop after what is running."""
        self.exiting = reason or "asked to"
        self._wake()

    def send_results(self) -> None:
        """Queue all collected results for sending."""
        results, self._results = self._results, {}
        for link, batch in results.values():
            link.send((_DONE_TAG, batch))
        self._sent_ns = self.clock.time_ns()

    def tick(self) -> None:
        """What the watcher does for an executor: nothing that a simulation needs."""

    # --- messages ------------------------------------------------------------------------------------------------

    def _on_define(self, link: VirtualLink, message: m.Message) -> None:
        _, number, name, blob = message
        link.state[number] = LoadedFunction(name, self.process.records.intern(name), blob)

    def _on_push(self, link: VirtualLink, message: m.Message) -> None:
        _, lease, batch, dispatched_at, context, tasks, heard = message
        if context is not None and context.get("job", self.process.job) != self.process.job:
            self.process.meet_job(context["job"])
        if lease and (self._blocked or heard < self._given_back.get(lease, 0)):
            # Older ones are on their way back: these must not begin before them.
            reason = Reason.BLOCKED_IN_GET if self._blocked else Reason.FAIRNESS
            self._return(link, lease, [task[0] for task in tasks], reason)
            return
        now = self.clock.time_ns()
        self.queue.extend([Running(link, lease, batch, dispatched_at, {}, now, task) for task in tasks])
        self._wake()

    def _return(self, link: VirtualLink, lease: int, tasks: list[bytes], reason: Reason) -> None:
        if tasks:
            self._given_back[lease] = self._given_back.get(lease, 0) + 1
        link.send(m.encode(m.Returned(tasks, int(reason))))

    def _on_recall(self, link: VirtualLink, message: m.Message) -> None:
        wanted = set(message[1])
        back, stay, lease = [], [], 0
        while self.queue:
            running = self.queue.popleft()
            if (
                isinstance(running, Running) and running.link is link and running.lease
                and (not wanted or running.task in wanted)
            ):  # fmt: skip
                back.append(running.task)
                lease = running.lease
            else:
                stay.append(running)
        self.queue.extend(stay)
        self._return(link, lease, back, Reason.FAIRNESS)

    def _on_cancel(self, link: VirtualLink, message: m.Message) -> None:
        _, task, recursive = message
        if recursive:
            self.process.cancel_children(task)
        for running in self.slots.values():
            if running.task == task:
                running.cancelled = True
                if not self.actor or self.at_a_time > 1:
                    self._threads[running.slot].interrupt()
                else:
                    self.producers.taken(task, ABANDONED)
                return
        if any(isinstance(running, Running) and running.task == task for running in self.queue):
            self._cancelled.add(task)

    def _on_start_actor(self, link: VirtualLink, message: m.Message) -> None:
        self.queue.append(m.decode(message))
        self._wake()

    def alone(self) -> None:
        """Virtual tasks start no threads."""

    def link_closed(self, link: Any) -> None:
        """An owner is gone: nobody wants its tasks."""
        self._results.pop(link.number, None)
        for running in self.slots.values():
            if running.link is link:
                self.producers.taken(running.task, ABANDONED)
        stay = [running for running in self.queue if not isinstance(running, Running) or running.link is not link]
        self.queue.clear()
        self.queue.extend(stay)

    # --- blocking --------------------------------------------------------------------------------------------------

    def blocked(self, running: Running, kind: WaitKind) -> None:
        """The running task waits: its CPU is free, and what is queued behind it goes back."""
        process = self.process
        process.records.task_blocked(self.clock.time_ns(), running.task, int(kind), 0, bytes(20))
        if running.lease:
            self._blocked = True
            back: dict[tuple[Any, int], list[bytes]] = {(running.link, running.lease): []}
            for other in self.queue:
                assert isinstance(other, Running)
                back.setdefault((other.link, other.lease), []).append(other.task)
            self.queue.clear()
            for (link, lease), tasks in back.items():
                self._return(link, lease, tasks, Reason.BLOCKED_IN_GET)
        if running.lease or running is self._lending:
            process.node.send(m.encode(m.Blocked()))
        process.send_everything()

    def unblocked(self, running: Running, blocked_ns: int, kind: WaitKind) -> None:
        """The running task goes on."""
        process = self.process
        running.blocked_ns += blocked_ns
        process.records.task_unblocked(self.clock.time_ns(), running.task, int(kind), blocked_ns / 1e9)
        if running.lease:
            self._blocked = False
        if running.lease or running is self._lending:
            process.node.send(m.encode(m.Unblocked()))
            process.after()

    # --- one attempt -------------------------------------------------------------------------------------------------

    def _execute(self, running: Running, slot: int = 0) -> Steps[None]:
        if running.link.closed or self._was_cancelled(running):
            return
        thread = self._threads[slot]
        running.loaded = running.link.state[running.number]
        self._begin(running, slot)
        try:
            call = yield from self._arguments(running)
            answered = self.checkpoints is not None and running.task in self.checkpoints.answers
            result: Value | None
            if self.checkpoints is not None and answered:
                result = self.checkpoints.answers.pop(running.task)
            elif running.returns < 0:
                yield from self._stream(running, body(running.loaded.name)(call))
                result = None
            else:
                result = yield from body(running.loaded.name)(call)
            values, extra = yield from self._store_results(running, result)
        except Unreadable as lost:
            thread.let_go()
            self._give_back(running, lost)
        except (Exception, KeyboardInterrupt) as error:
            thread.let_go()
            self._fail(running, error)
        else:
            thread.let_go()
            if self.checkpoints is not None and not answered and result is not None:
                self.checkpoints.ended(running, call.numbers[0], result)
            self._end(running, Outcome.OK, values, extra)
            if self.checkpoints is not None:
                self.checkpoints.save_if_due()

    def _give_back(self, running: Running, lost: Unreadable) -> None:
        process = self.process
        self._leave_slot(running)
        self.simulator.attempt_given_back(running)
        running.link.send(m.encode(m.ArgumentLost(running.task, running.attempt, lost.identifier, str(lost))))
        process.send_everything()

    def _leave_slot(self, running: Running) -> None:
        self.slots.pop(running.slot, None)
        self._threads[running.slot].running = self.process.local.running = None
        self.process.records.idle(running.slot)

    def _begin(self, running: Running, slot: int = 0) -> None:
        running.slot = slot
        running.started_at = running.ready_at = self.clock.time_ns()
        running.actor = self.actor or _NO_ACTOR
        self.slots[slot] = self._threads[slot].running = self.process.local.running = running
        self.process.records.running(
            slot, running.task, running.started_at, running.loaded.name_number, running.attempt
        )
        self.simulator.attempt_began(self.process, running)

    def _was_cancelled(self, running: Running) -> bool:
        if running.task not in self._cancelled:
            return False
        self._cancelled.discard(running.task)
        error = dump_error(TaskCancelledError(running.task.hex()))
        self._add(running.link, (running.task, running.attempt, int(Outcome.CANCELLED), [error], None, 0))
        return True

    def _arguments(self, running: Running) -> Steps[Call]:
        thread, process = self._threads[running.slot], self.process
        call = Call(thread, running, self.instance)
        for _, kind, data in running.arguments or ():
            if kind == m.ARGUMENT_STORED:
                try:
                    stored = yield from process.pinned(data)
                except Unreadable as lost:
                    if running.lease and not running.cancelled:
                        raise
                    before = self._lending
                    self._lending = running if self.at_a_time == 1 else before
                    stored = yield from process.recovered(data, str(lost))
                    self._lending = before
                self.simulator.ledger.read(data, stored.made)
                call.arguments.append(process.adopt(stored, thread))
                process.unpin(data)
            else:
                call.arguments.append(process.open(data, thread))
        call.numbers, call.nested = msgpack.unpackb(running.payload, use_list=False)
        for identifier in call.nested:
            process.reference(identifier, thread)
        # Waiting for arguments was no part of running.
        running.blocked_ns = 0
        running.ready_at = self.clock.time_ns()
        return call

    def _stream(self, running: Running, program: Program) -> Steps[None]:
        """As ``Producers.stream``: send what a body yields as ``Item``, no further ahead than its consumer allows."""
        window = self.producers._open(running)
        answer: bool | None = None
        error: BaseException | None = None
        try:
            while window.taken != ABANDONED and not running.cancelled:
                try:
                    wish = program.send(answer) if error is None else program.throw(error)
                except StopIteration:
                    break
                answer = error = None
                if isinstance(wish, Item):
                    if window.taken == UNREAD:
                        continue
                    yield from self._yielded(running, window, wish.value)
                    if self.producers._is_full(window):
                        yield from self._room(window)
                    continue
                try:
                    answer = yield wish
                except (Exception, KeyboardInterrupt) as raised:
                    error = raised
        finally:
            self.producers._windows.pop(running.task, None)
            program.close()
        if running.cancelled:
            raise KeyboardInterrupt

    def _yielded(self, running: Running, window: Window, value: Value) -> Steps[None]:
        process, index = self.process, window.sent
        window.sent = index + 1
        if window.wanted is not None and index not in window.wanted:
            return
        stored = yield from process.store(running.task + (index + 1).to_bytes(4, "big"), value)
        if value.inner:
            process.ownership.hand_out(list(value.inner), running.link.peer.worker)
        running.link.send(m.encode(m.Item(running.task, index, stored, list(value.inner))))
        process.records.task_item_yielded(self.clock.time_ns(), running.task, index, value.size)
        process.send_everything()

    def _room(self, window: Window) -> Steps[None]:
        waiter = Waiter(1)
        window.wake = lambda: waiter.on_ready(None)
        self.process.send_everything()
        try:
            yield Until(waiter)
        finally:
            window.wake = None

    def _store_results(self, running: Running, result: Value | None) -> Steps[tuple[list[Any], dict[str, Any] | None]]:
        if running.returns < 0:
            return [INLINE], None
        values: list[Any] = []
        contained: list[list[bytes]] = []
        wanted = (running.options or {}).get("wanted")
        for index in range(running.returns):
            if wanted is not None and index not in wanted:
                values.append(None)
                contained.append([])
                continue
            value = Value(0) if result is None else result._replace(number=result.number + index)
            values.append((yield from self.process.store(running.task + index.to_bytes(4, "big"), value)))
            contained.append(list(value.inner))
        if not any(contained):
            return values, None
        for group in contained:
            self.process.ownership.hand_out(group, running.link.peer.worker)
        return values, {"contained": contained}

    def _fail(self, running: Running, error: BaseException) -> None:
        extra = None
        if running.cancelled and not isinstance(error, Exception):
            outcome, data = Outcome.CANCELLED, dump_error(TaskCancelledError(running.task.hex()))
        else:
            outcome, data = Outcome.APP_ERROR, self._describe(error, running)
            if isinstance(error, Exception) and (running.options or {}).get("retry"):
                extra = {"retry": True}
        self._end(running, outcome, [data], extra)

    def _describe(self, error: BaseException, running: Running) -> bytes:
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            return dump_error(error)
        return dump_error(RayTaskError(running.loaded.name, repr(error), task_id=running.task.hex()))

    def _end(self, running: Running, outcome: Outcome, values: list[Any], extra: dict[str, Any] | None) -> None:
        process, loaded, now = self.process, running.loaded, self.clock.time_ns()
        loaded.calls += 1
        if running.borrowed is not None:
            kept = self._kept(running.borrowed)
            if kept:
                extra = {**(extra or {}), "kept": kept}
        options = running.options or {}
        if options.get("max_calls") and loaded.calls >= options["max_calls"]:
            extra = {**(extra or {}), "retire": True}
        self._leave_slot(running)
        if running.cancelled and outcome is Outcome.OK and self.actor:
            outcome, values = Outcome.CANCELLED, [dump_error(TaskCancelledError(running.task.hex()))]
        run_ns = now - running.ready_at
        ran_ns = run_ns - running.blocked_ns
        self.simulator.attempt_ended(process, running, outcome)
        self._add(running.link, (running.task, running.attempt, int(outcome), values, extra, run_ns))
        process.records.task_ended(
            now, running.task, running.attempt, running.lease, running.batch, running.actor, loaded.name_number,
            running.dispatched_at, running.arrived_at, running.started_at, outcome, 0.0,
            (running.ready_at - running.started_at) / 1e9, ran_ns / 1e9, 0.0, ran_ns / 1e9, running.blocked_ns / 1e9, 0,
        )  # fmt: skip

    def _kept(self, borrowed: list[bytes]) -> list[bytes]:
        process, kept = self.process, []
        if process.dropped:
            dropped, process.dropped = process.dropped, []
            process.ownership.drop_local(dropped)
        for identifier in dict.fromkeys(borrowed):
            entry = process.ownership.entries.get(identifier)
            if entry is not None and (entry.local > 0 or entry.pins > 0) and not entry.registered:
                entry.registered = 1
                kept.append(identifier)
        return kept

    def _add(self, link: VirtualLink, result: tuple[Any, ...]) -> None:
        self._results.setdefault(link.number, (link, []))[1].append(result)

    # --- becoming an actor ---------------------------------------------------------------------------------------

    def _become(self, message: m.StartActor) -> Steps[None]:
        spec, process, thread = message.spec, self.process, self._thread
        self.actor, self.instance = spec["actor"], {}
        fields = (spec["task"], message.incarnation, 0, spec["payload"], spec["arguments"], 1, spec["trace"], None)
        running = Running(_Nobody(), 0, 0, self.clock.time_ns(), {}, self.clock.time_ns(), fields)
        name = f"{spec['class_name']}.__init__"
        running.loaded = LoadedFunction(name, process.records.intern(name), b"")
        self._begin(running)
        self._lending = running
        try:
            call = yield from self._arguments(running)
            yield from body(name)(call)
        except (Exception, KeyboardInterrupt) as error:
            thread.let_go()
            died = ActorDiedError(f"{spec['class_name']} could not be built: {error!r}", self.actor.hex(), True)
            self._end(running, Outcome.APP_ERROR, [b""], None)
            self._report(m.ActorFailed(self.actor, dump_error(died), False))
            self.exit("its constructor failed")
        else:
            self._lending = None
            thread.let_go()
            self._end(running, Outcome.OK, [], None)
            self.at_a_time = spec["concurrency"].get("max", 1)
            if spec["checkpoint"] is not None:
                self.checkpoints = VirtualCheckpoints(self, self.actor, spec["checkpoint"]["every"])
                if message.incarnation:
                    yield from self.checkpoints.restore(message.incarnation)
            self._report(m.ActorReady(self.actor, self.process.pid))
        self._results.pop(0, None)

    def _report(self, message: Any) -> None:
        self.process.node.send(m.encode(message))
        self.process.send_everything()


class _Nobody:
    """Stands in for the owner's link while a constructor runs: its result goes to the node."""

    number = 0
    closed = True

    def send(self, message: Any) -> None:
        """Nobody waits for the result of a constructor."""
