"""The machines of one driver or worker on a bench: no clock, no links; every message is given and taken by hand."""

from __future__ import annotations

from typing import Any

from obsray.config import Config
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState
from obsray.core.runtime.calls import ActorCalls, ActorClient
from obsray.core.runtime.dispatch import Dispatcher
from obsray.core.runtime.leases import Function, Shape
from obsray.core.runtime.ownership import Entry, Ownership, Task
from obsray.core.runtime.serialization import dump_error
from obsray.core.runtime.verdicts import Verdicts
from obsray.errors import RayError
from obsray.ids import NIL_TASK, object_id, task_id
from obsray.telemetry.events import DeathCause, Outcome
from obsray.testing.agenda import EventLog, Records

ME, NODE_ = b"me______", b""
WORKER, OTHER = b"worker_1", b"worker_2"
CPU = {"CPU": 10_000}
INLINE = b"\x80."
MS = 1_000_000


class Bench:
    """A process that owns tasks. Its clock stands still unless ``now`` is set."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.log = EventLog()
        records = Records(self.log, ME)
        self.ownership = Ownership(ME)
        self.verdicts = Verdicts(self.ownership, records, lambda: 7)
        self.dispatcher = Dispatcher(self.ownership, self.verdicts, records, Config(**settings), 1)
        self.calls = ActorCalls(self.ownership, self.dispatcher, self.verdicts, records)
        self.shape: Shape = self.dispatcher.shape("f CPU:1", CPU, None, "f")
        self.function = Function(b"f", "f", b"blob")
        self.leases = 0
        self._numbers = iter(range(1, 1 << 30))
        self.take()

    # --- tasks ---------------------------------------------------------------------------------------------

    def make(self, retries: int = 0, arguments: list[Entry] | None = None, function: Function | None = None) -> Task:
        """A task with one result that the program holds."""
        task = Task(task_id(ME, next(self._numbers)), function or self.function, self.shape, b"", 1)
        entry = Entry(object_id(task.id), True)
        entry.local = 1
        task.entries = (entry,)
        task.retries_left = retries
        if arguments:
            task.arguments = list(enumerate(arguments))
            task.pinned = list(arguments)
            for argument in arguments:
                argument.pins += 1
        self.ownership.add_task(task)
        return task

    def submit(self, count: int = 1, **options: Any) -> list[Task]:
        """Tasks in line."""
        tasks = [self.make(**options) for _ in range(count)]
        for task in tasks:
            self.dispatcher.enqueue(task)
        return tasks

    def grant(self, worker: bytes = WORKER) -> int:
        """The node gives a worker; the number of the lease."""
        self.leases += 1
        granted = m.LeaseGranted(self.shape.number, self.leases, worker, "path", {})
        self.dispatcher.granted(granted, self.now, 0)
        return self.leases

    def run(self) -> None:
        """As at the end of a turn in which the process is about to wait."""
        self.dispatcher.run(self.now, 0)
        self.calls.run(0)
        self.dispatcher.push_all(0)
        self.calls.push_all(0)

    def turn(self) -> None:
        """As at the end of a turn in which the process goes on waiting."""
        self.dispatcher.run(self.now, 0)
        self.calls.run(0)
        self.dispatcher.push_due(0)
        self.calls.push_due(0)

    def done(
        self, *tasks: Task, worker: bytes = WORKER, run_ns: int = MS, extra: Any = None, value: Any = INLINE
    ) -> None:
        """The worker returned a value for each."""
        results = [(task.id, task.attempt, 0, (value,), extra, run_ns) for task in tasks]
        self.dispatcher.done(worker, results, self.now, 0)

    def failed(
        self, task: Task, outcome: Outcome = Outcome.APP_ERROR, extra: Any = None, worker: bytes = WORKER
    ) -> None:
        """The worker said that the attempt failed."""
        error = dump_error(RayError("it failed"))
        self.dispatcher.done(worker, [(task.id, task.attempt, int(outcome), (error,), extra, MS)], self.now, 0)

    # --- actors --------------------------------------------------------------------------------------------

    def actor(self, number: int = 1) -> ActorClient:
        """An actor that is alive at WORKER."""
        client = self.calls.client(task_id(ME, number, 2), "Counter", created_here=True)
        self.changed(client, ActorState.ALIVE)
        return client

    def changed(self, client: ActorClient, state: ActorState, worker: bytes = WORKER, detail: str = "") -> None:
        """The node says how the actor is."""
        where = worker if state is ActorState.ALIVE else bytes(8)
        self.calls.changed(m.ActorChanged(client.id, state, 0, where, "path", 0, b"", detail))

    def call(self, client: ActorClient, count: int = 1, **options: Any) -> list[Task]:
        """Calls at the end of the line."""
        tasks = [self.make(**options) for _ in range(count)]
        for task in tasks:
            task.ready = lambda t, entry: self.calls.argument_ready(t, entry, 0)
            self.calls.submit(client, task)
        return tasks

    # --- what came out -------------------------------------------------------------------------------------

    def take(self, kind: type | None = None) -> list[Any]:
        """Messages since the last call (of one kind: the others are forgotten)."""
        self.ownership.settle()
        found = [m.decode(message) for _, message in self.ownership.outbox]
        self.ownership.outbox.clear()
        return [message for message in found if kind is None or isinstance(message, kind)]

    def pushed(self) -> list[bytes]:
        """Tasks pushed since the last call, in order."""
        return [fields[0] for push in self.take(m.Push) for fields in push.tasks]

    def check(self) -> None:
        self.ownership.check_invariants()
        self.dispatcher.check_invariants()
        self.calls.check_invariants()


def death(worker: bytes = WORKER, *started: bytes) -> m.WorkerDied:
    """The news that a worker was killed while (or after) it ran ``started``; by default it had run nothing."""
    return m.WorkerDied(worker, 4000, DeathCause.SIGNAL, 0, 9, list(started) or [NIL_TASK], "killed", "")


def ids(tasks: list[Task]) -> list[bytes]:
    return [task.id for task in tasks]
