"""Machine: the calls this process makes to actors, in order.

One ``ActorClient`` for each actor this process has a handle of. Calls of one caller run in the order they were made,
also across restarts and also if an earlier call waits for its argument. Calls wait here until the actor is alive.
When its process dies and it may start again, calls that may not be repeated (``max_task_retries``) fail: none waits for
a constructor that may take for ever. Of the others those that its black box says had begun use up a retry, and all go
back to the front of the line.

Invariant: a call is in exactly one of ``queue`` and ``in_flight``, or has ended.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Any

from obsray.core.protocol.lifecycle import ActorState, TaskState, advance
from obsray.core.protocol.messages import ActorChanged, CancelObject, CancelTask, Push, WatchActor, WorkerDied, encode
from obsray.core.runtime.dispatch import BATCH_TASKS, Dispatcher, is_push_due, wire_arguments
from obsray.core.runtime.ownership import NODE, Entry, Ownership, Task
from obsray.core.runtime.serialization import dump_error
from obsray.core.runtime.verdicts import Verdicts, calls_begun
from obsray.errors import ActorDiedError, ActorPlacementGroupRemoved, ActorUnschedulableError
from obsray.ids import task_of
from obsray.telemetry.events import DeathCause, DispatchReason

_PUSH_TAG = Push._field_defaults["tag"]

#: Calls pushed ahead of the answers to an actor that runs one at a time, and to one that runs them beside each other:
#: there those of a full concurrency group must not be in the way of others.
IN_FLIGHT_MAX = 4096
IN_FLIGHT_CONCURRENT_MAX = 65_536


class ActorClient:
    """An actor as one of its callers sees it."""

    __slots__ = (
        "active", "batch", "class_name", "concurrent", "cut", "ends_with_handles", "error", "id", "in_flight",
        "incarnation", "leaving", "lost", "ordered", "outgoing", "pending_max", "pinned", "queue", "state", "unreached",
        "unsent", "worker",
    )  # fmt: skip

    def __init__(self, identifier: bytes, class_name: str, active: set[ActorClient]) -> None:
        self.id = identifier
        #: Where a client registers whose line may move.
        self.active = active
        self.class_name = class_name
        self.state = ActorState.PENDING_CREATION
        self.incarnation = 0
        self.worker = b""
        #: It has said itself that it ends, and is not known to be dead yet.
        self.leaving = False
        #: The connection to its process broke, and it is not known yet what became of the calls in flight.
        self.cut = False
        #: Its process could not be reached just now: nothing is sent there until that is tried again.
        #: ``unsent``: so many calls at the front of the line were taken back because of it.
        self.unreached = False
        self.unsent = 0
        self.queue: deque[Task] = deque()
        self.in_flight: dict[bytes, Task] = {}
        self.outgoing: list[tuple[Any, ...]] = []
        self.batch = 0
        self.error = b""
        #: Calls start in the order they were made; otherwise those whose arguments exist overtake those that wait.
        self.ordered = True
        #: The actor runs calls beside each other; otherwise one after the other, as they were pushed.
        self.concurrent = False
        self.pending_max = -1
        #: Results of calls in flight when the actor died: its process may store them as long as it lives.
        self.lost: list[bytes] = []
        #: Arguments of the constructor, which a restart needs again.
        self.pinned: list[Entry] | None = None
        #: Whether this process made the actor and ends it when no handle is left anywhere.
        self.ends_with_handles = False

    def is_ending(self) -> bool:
        """Whether this process knows that the actor has ended or is about to."""
        return self.leaving or self.state is ActorState.DEAD

    def forget(self, task: Task) -> None:
        """The call is no longer in flight."""
        if self.in_flight.pop(task.id, None) is not None and self.queue:
            self.active.add(self)


class ActorCalls:
    """All actor calls of one process."""

    def __init__(self, ownership: Ownership, dispatcher: Dispatcher, verdicts: Verdicts, emitter: Any) -> None:
        self.ownership = ownership
        self.dispatcher = dispatcher
        self.verdicts = verdicts
        self.emitter = emitter
        self.clients: dict[bytes, ActorClient] = {}
        self.unsent: list[ActorClient] = []
        #: Clients whose line may move.
        self.active: set[ActorClient] = set()
        self._send = ownership.outbox.append
        verdicts.requeue = self.requeue
        self.lineage = dispatcher.lineage
        self.lineage.enqueue = self._again
        self.lineage.argument_ready = self._argument_ready

    def client(self, identifier: bytes, class_name: str, created_here: bool = False) -> ActorClient:
        """The client of an actor; on first sight the node is asked to keep it informed."""
        client = self.clients.get(identifier)
        if client is None:
            client = self.clients[identifier] = ActorClient(identifier, class_name, self.active)
            if not created_here:
                self._send((NODE, encode(WatchActor(identifier))))
        return client

    def submit(self, client: ActorClient, task: Task) -> None:
        """A call goes to the end of the line."""
        task.actor = client
        if client.state is not ActorState.ALIVE:
            if task.id not in self.ownership.tasks:
                return  # one of its arguments had failed already
            if client.state is ActorState.DEAD:
                self.verdicts.actor_gone(task, client.error)
                return
            if _does_not_wait(client, task):
                self.verdicts.actor_restarts(task)
                return
        client.queue.append(task)
        self.active.add(client)

    def argument_ready(self, task: Task, entry: Entry, time_ns: int) -> None:
        """The last missing argument of a call exists, or one has failed and the call with it."""
        client = task.actor
        if entry.failed:
            self.verdicts.argument_failed(task, entry)
        else:
            advance(task, TaskState.QUEUED)
            self.emitter.task_ready(time_ns, task.id, entry.id)
            if client is not None and _does_not_wait(client, task):
                self.verdicts.actor_restarts(task)
        if client is not None:
            self.active.add(client)

    def _argument_ready(self, task: Task, entry: Entry) -> None:
        time_ns = self.verdicts.clock_ns()
        if task.actor is None:
            self.dispatcher.argument_ready(task, entry, time_ns)
        else:
            self.argument_ready(task, entry, time_ns)

    def _again(self, task: Task) -> None:
        """A finished task or call is to run once more, because a result of it was lost."""
        if task.actor is None:
            self.dispatcher.enqueue(task)
        else:
            task.actor.queue.append(task)
            self.active.add(task.actor)

    def run(self, time_ns: int) -> None:
        """Move every line that can move."""
        # In an order that does not depend on addresses, so that a run can be repeated.
        active = list(self.active) if len(self.active) == 1 else sorted(self.active, key=_id_of)
        self.active.clear()
        for client in active:
            # Between the news of its process' death and those of what becomes of it, it has no worker.
            if client.state is ActorState.ALIVE and client.worker and not client.cut and not client.unreached:
                self._pump(client, time_ns)

    def _pump(self, client: ActorClient, time_ns: int) -> None:
        queue, in_flight = client.queue, client.in_flight
        was_idle = not in_flight
        waiting: list[Task] = []
        most = IN_FLIGHT_CONCURRENT_MAX if client.concurrent else IN_FLIGHT_MAX
        while queue and len(in_flight) < most:
            task = queue[0]
            if task.state is TaskState.WAITING_ARGUMENTS:
                if client.ordered:
                    break
                waiting.append(queue.popleft())
                continue
            if (
                task.arguments is not None
                and self.lineage.losses
                and task.state is TaskState.QUEUED
                and self.lineage.waits_again(task)
            ):
                continue
            queue.popleft()
            if task.state is not TaskState.QUEUED:
                continue
            self._assign(client, task)
        if waiting:
            queue.extendleft(reversed(waiting))
        if client.outgoing and (was_idle or len(client.outgoing) >= BATCH_TASKS):
            self.push(client, time_ns)

    def _assign(self, client: ActorClient, task: Task) -> None:
        advance(task, TaskState.DISPATCHED)
        task.dispatched_to = client
        client.in_flight[task.id] = task
        if not client.outgoing:
            self.unsent.append(client)
        function = task.function
        numbers = self.dispatcher.functions.get(client.worker)
        number = numbers.get(function.id) if numbers is not None else None
        if number is None:
            number = self.dispatcher.define(client.worker, function)
        client.outgoing.append(
            (
                task.id,
                task.attempt,
                number,
                task.payload,
                None if task.arguments is None else wire_arguments(task.arguments),
                task.returns,
                task.trace,
                task.options,
            )
        )

    def push(self, client: ActorClient, time_ns: int) -> None:
        """Send what was assigned to an actor."""
        tasks, client.outgoing = client.outgoing, []
        if not tasks:
            return
        client.batch += 1
        self._send((client.worker, (_PUSH_TAG, 0, client.batch, time_ns, None, tasks, 0)))
        self.emitter.tasks_dispatched(
            time_ns,
            client.worker,
            0,
            client.batch,
            0,  # calls have no shape of their own
            len(tasks),
            len(client.queue),
            len(client.in_flight),
            DispatchReason.ACTOR,
            tasks[0][0],
        )

    def push_all(self, time_ns: int) -> None:
        """Send everything assigned: this process is about to wait or to run user code."""
        unsent, self.unsent = self.unsent, []
        for client in unsent:
            self.push(client, time_ns)

    def push_due(self, time_ns: int) -> None:
        """Send what may not wait for company any longer: this process has received something and waits on."""
        for client in self.unsent:
            if is_push_due(client):
                self.push(client, time_ns)
        self.unsent = [client for client in self.unsent if client.outgoing]

    # --- what happens to actors ---------------------------------------------------------------------------------

    def changed(self, message: ActorChanged) -> None:
        """The node says where the actor is now."""
        client = self.clients.get(message.actor)
        if client is None or client.state is ActorState.DEAD:
            return
        after = ActorState(message.state)
        client.incarnation = message.incarnation
        if after is not client.state:
            if client.state is ActorState.PENDING_CREATION and after is ActorState.DEPENDENCIES_UNREADY:
                return
            lived = client.state is ActorState.ALIVE
            advance(client, after)
            if lived and after is ActorState.RESTARTING:
                self._end_what_does_not_wait(client)
        if after is ActorState.ALIVE:
            if client.worker and client.worker != message.worker:
                # Another node's news of that death are still on their way: nobody knows what had begun.
                self.worker_died(WorkerDied(client.worker, 0, message.cause, 0, 0, [], message.detail, ""))
            if client.worker != message.worker:
                client.cut = client.unreached = False
            client.worker = message.worker
            self.dispatcher.paths[message.worker] = message.path
            self.active.add(client)
        elif after is ActorState.DEAD:
            self.died(client, death_error(message, _obituary(client, message.detail)), message.detail)

    def _end_what_does_not_wait(self, client: ActorClient) -> None:
        """The actor starts again: calls in line that may not be repeated fail. Those in flight when more is known."""
        for task in [task for task in client.queue if task.id in self.ownership.tasks and _does_not_wait(client, task)]:
            self.verdicts.actor_restarts(task)
        client.queue = deque(task for task in client.queue if task.id in self.ownership.tasks)

    def died(self, client: ActorClient, error: bytes, detail: str) -> None:
        """The actor is gone for good: every call that has not ended fails."""
        if client.state is not ActorState.DEAD:
            advance(client, ActorState.DEAD)
        client.error = error or dump_error(ActorDiedError(_obituary(client, detail), client.id.hex()))
        client.lost = [entry.id for task in client.in_flight.values() for entry in task.entries]
        self._put_back(client)
        queue, client.queue = client.queue, deque()
        for task in queue:
            if task.id in self.ownership.tasks:
                self.verdicts.actor_gone(task, client.error)

    def _put_back(self, client: ActorClient) -> None:
        for task in reversed(client.in_flight.values()):
            task.dispatched_to = None
            advance(task, TaskState.QUEUED)
            client.queue.appendleft(task)
        client.in_flight.clear()
        client.outgoing.clear()

    def worker_died(self, death: WorkerDied) -> None:
        """A process died: calls in flight there that had begun fail or are retried, the others stay in line."""
        for client in self.clients.values():
            if client.worker != death.worker:
                continue
            client.worker = b""
            client.unreached = False
            self.ownership.discard(client.lost)
            client.lost = []
            in_flight = list(client.in_flight.values())
            client.outgoing.clear()
            # One that ran before and was asked for again is not where its number says.
            ordered = client.ordered and all(a.id < b.id for a, b in pairwise(in_flight))
            begun = calls_begun(in_flight, death, self.ownership.worker, ordered)
            for index in range(len(in_flight) - 1, -1, -1):
                task = in_flight[index]
                ran = task.id in death.started or not death.started if client.concurrent else index < begun
                if ran or task.cancelled or not _does_not_wait(client, task):
                    self.verdicts.crashed(task, death, ran)
                else:
                    self.verdicts.actor_restarts(task)

    def in_flight_at(self, worker: bytes) -> list[Task]:
        """Calls that an actor's process has been sent and has not answered."""
        clients = (client for client in self.clients.values() if client.worker == worker)
        return [task for client in clients for task in client.in_flight.values()]

    def connection_broke(self, worker: bytes, unsent: set[bytes]) -> list[Task] | None:
        """The connection to an actor broke: calls wait until it is known whether it lives. Those in flight; None if no
        actor is meant. What is ``unsent`` goes back in line."""
        clients = [client for client in self.clients.values() if client.worker == worker]
        if not clients:
            return None
        for client in clients:
            back = unsent | {wired[0] for wired in client.outgoing}
            client.outgoing.clear()
            for task in [task for task in reversed(client.in_flight.values()) if task.id in back]:
                self.requeue(task)
            client.cut = True
            if client.state is ActorState.RESTARTING:
                self._end_what_does_not_wait(client)
        return self.in_flight_at(worker)

    def cut_off(self, worker: bytes, tasks: list[Task]) -> None:
        """The connection to a living actor broke, with these calls in flight; those that still are fail or go again."""
        there = set(map(id, self.in_flight_at(worker)))
        for task in reversed(tasks):
            if id(task) in there:
                self.verdicts.cut_off(task, worker)
        for client in self.clients.values():
            if client.worker == worker and client.cut:
                client.cut = False
                self.active.add(client)

    def not_sent(self, worker: bytes, calls: set[bytes]) -> bool:
        """Calls that were to be pushed to an actor's process, which cannot be reached, go back to the front of the line
        in their order, and nothing more is sent there until ``send_again``. False if that was so already."""
        news = False
        for client in self.clients.values():
            if client.worker != worker:
                continue
            if not client.unreached:
                news = client.unreached = True
                client.unsent = 0
                self._take_back(client, {wired[0] for wired in client.outgoing})
                client.outgoing.clear()
            # Behind those that were pushed before them.
            client.queue.rotate(-client.unsent)
            count = self._take_back(client, calls)
            client.queue.rotate(client.unsent)
            client.unsent += count
        return news

    def _take_back(self, client: ActorClient, calls: set[bytes]) -> int:
        """How many calls went from in flight to the front of the line: those of ``calls`` that nobody has cancelled."""
        before = len(client.queue)
        for task in [task for task in reversed(client.in_flight.values()) if task.id in calls]:
            self.requeue(task)
        return len(client.queue) - before

    def send_again(self, worker: bytes, given_up: float = 0.0) -> bool:
        """Try again to send to an actor's process. ``given_up``: it could not be reached for so many seconds, and what
        waits for it fails instead. Whether anything waits."""
        waits = False
        for client in self.clients.values():
            if client.worker != worker or not client.unreached:
                continue
            client.unreached = False
            for task in [task for task in client.queue if given_up and task.state is TaskState.QUEUED]:
                self.verdicts.unreachable(task, worker, given_up)
            waits = waits or bool(client.queue)
            self.active.add(client)
        return waits

    def requeue(self, task: Task) -> None:
        """A call goes back to the front of its line; a task of no actor to its shape's queue."""
        client = task.actor
        if client is None:
            holder = task.dispatched_to
            if holder is not None:
                holder.forget(task)
            self.dispatcher.requeue(task)
            return
        client.forget(task)
        if task.cancelled:
            self.verdicts.cancelled(task)
        elif client.state is ActorState.DEAD:
            self.verdicts.actor_gone(task, client.error)
        else:
            task.dispatched_to = None
            advance(task, TaskState.QUEUED)
            client.queue.appendleft(task)
            self.active.add(client)

    def cancel(self, task: Task, recursive: bool, time_ns: int) -> None:
        """Cancel a call: before it begins it never runs; later the actor is told."""
        self.emitter.task_cancel_requested(time_ns, task.id, 0, recursive)
        task.cancelled = True
        if task.state is not TaskState.DISPATCHED:
            self.verdicts.cancelled(task)
            self.active.add(task.actor)
            return
        client = task.dispatched_to
        self.push(client, time_ns)
        self._send((client.worker, encode(CancelTask(task.id, recursive))))

    def cancel_any(self, task: Task, force: bool, recursive: bool, time_ns: int) -> None:
        """Cancel a task or call. Calls cannot be ended by force: others use their process."""
        if task.actor is not None:
            self.cancel(task, recursive, time_ns)
        else:
            self.dispatcher.cancel(task, force, recursive, time_ns)

    def cancel_object(self, identifier: bytes, force: bool, recursive: bool, time_ns: int) -> None:
        """Cancel what makes an object; of another process' object, have its owner do that. Nothing if it has ended."""
        task = self.ownership.tasks.get(task_of(identifier))
        if task is not None:
            self.cancel_any(task, force, recursive, time_ns)
        elif not identifier.startswith(self.ownership.worker):
            self.ownership.cancel_elsewhere(CancelObject(identifier, force, recursive))

    def cancel_children(self, parent: bytes, time_ns: int) -> None:
        """Cancel what a task submitted from this process."""
        for task in [task for task in self.ownership.tasks.values() if task.parent == parent]:
            # The end of one may have ended another that waited for it.
            if task.id in self.ownership.tasks:
                self.cancel_any(task, False, True, time_ns)

    def check_invariants(self) -> None:
        """Raise AssertionError if a line contradicts its calls. For simulation and tests."""
        for client in self.clients.values():
            for task in client.in_flight.values():
                assert task.state is TaskState.DISPATCHED and task.dispatched_to is client
            for task in client.queue:
                assert task.id not in client.in_flight


def _does_not_wait(client: ActorClient, task: Task) -> bool:
    """Whether the actor is between two processes, and the call, whose arguments exist, may not be repeated."""
    return (
        client.state is ActorState.RESTARTING
        and task.retries_left == 0
        and task.attempt == 0
        and task.state is not TaskState.WAITING_ARGUMENTS
    )


def death_error(message: ActorChanged, text: str) -> bytes:
    """How calls of an actor that is dead end: with its constructor's error, or with one that says ``text``."""
    if message.error:
        return message.error
    if message.cause == DeathCause.PLACEMENT_REMOVED:
        return dump_error(ActorPlacementGroupRemoved(text, message.actor.hex()))
    if message.cause == DeathCause.UNSCHEDULABLE:
        return dump_error(ActorUnschedulableError(text))
    return dump_error(ActorDiedError(text, message.actor.hex()))


def _obituary(client: ActorClient, detail: str) -> str:
    return f"the actor {client.class_name} ({client.id.hex()}) is dead: {detail}".rstrip(": ")


def _id_of(client: ActorClient) -> bytes:
    return client.id
