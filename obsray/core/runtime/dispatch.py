"""Machine: from a queue of tasks to leased workers, and back with results.

Tasks of one *shape* (resources and environment) share a queue and leases. Dispatch is decoupled from scheduling
(paper section 4.2): the node decides only who gets a worker; the owner pushes tasks to its workers directly.

* Pipelining: a worker gets at most ``pipeline_seconds`` of work ahead of its answers, by the running mean of each
  function. A function that has not run yet is pushed alone, so one long task never hides others behind it. If all
  workers have that much and one waits for each of them, each gets one more, which waits there no longer than that.
* Recall: if a task runs much longer than its function's mean, what was pushed behind it is taken back. If it turns out
  that the task was short and its worker only had no CPU, the next recall takes twice as long to come: where everybody
  waits for a CPU, handing the same tasks to and fro makes it worse.
* Order within a shape is first in, first out. What comes back from a worker (recalled, retried, lost with it) goes
  before all that no worker had, oldest first. It is never pushed behind a younger task: that may wait for this one, for
  reasons that only user code knows, and all other workers be given younger ones before it can be recalled.
* A task that pauses after the deaths of its workers keeps its place for the same reason: one worker is left for each,
  and younger tasks get the others. One whose pauses have grown long loses it, so that it does not hold up a pool.
* What was on its way to a worker that gave older tasks back comes back, too: each push says how much of that was known.

Invariants: a task is in exactly one of: arguments missing, its shape's queue, one lease's ``in_flight``, ended.
``lease.load_ns`` is the sum of the estimates of its ``in_flight``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from obsray.config import Config
from obsray.core.protocol.lifecycle import TaskState, advance
from obsray.core.protocol.messages import (
    ARGUMENT_INLINE,
    ARGUMENT_STORED,
    CancelTask,
    DefineFunction,
    DefineShape,
    KillWorker,
    LeaseGranted,
    LeaseRequest,
    LeaseReturn,
    Push,
    Recall,
    ShapeRefused,
    encode,
)
from obsray.core.runtime.leases import Function, Lease, Shape, Suspect
from obsray.core.runtime.lineage import Lineage
from obsray.core.runtime.ownership import NODE, Entry, Ownership, Task
from obsray.core.runtime.verdicts import Verdicts
from obsray.ids import TASK_ID_BYTES
from obsray.telemetry.events import DispatchReason, Reason

#: A task goes to where its arguments are if those elsewhere have at least so many bytes: a megabyte comes over in a few
#: milliseconds, about what asking another node for a worker takes.
NEAR_BYTES_MIN = 1 << 20
#: Beyond so many shapes tasks do not get one of their own for where their arguments are.
SHAPES_MAX = 4000
#: Conditions that may be joined with a wish for a node.
_LABELS_ONLY = {"selectors", "preferred"}
#: After recalls for nothing the next one waits up to so many times ``recall_seconds``.
RECALL_PATIENCE_MAX = 16
#: A task that pauses for longer does not keep a worker free meanwhile: by then six workers have died under it.
KEPT_PAUSE_SECONDS_MAX = 2.0
#: Tasks collected for a worker before they are sent, when it has others to run meanwhile.
BATCH_TASKS = 64
_DEFINE_TAG = DefineFunction._field_defaults["tag"]
_PUSH_TAG = Push._field_defaults["tag"]


def is_push_due(holder: Any) -> bool:
    """Whether what was assigned to a lease or an actor is to be sent although it is no full batch: the worker has no
    more to do than that, so it would soon wait."""
    return bool(holder.outgoing) and len(holder.in_flight) <= 2 * len(holder.outgoing)


def wire_arguments(arguments: list[tuple[int | str, Entry]]) -> list[tuple[Any, ...]]:
    """Top-level reference arguments as they travel: small values inline, large ones by id."""
    wired: list[tuple[Any, ...]] = []
    for position, entry in arguments:
        if type(entry.value) is bytes:
            wired.append((position, ARGUMENT_INLINE, entry.value))
        else:
            wired.append((position, ARGUMENT_STORED, entry.id))
    return wired


class Dispatcher:
    """The task queues and leases of one process."""

    def __init__(self, ownership: Ownership, verdicts: Verdicts, emitter: Any, config: Config, job: int) -> None:
        self.ownership = ownership
        self.verdicts = verdicts
        self.lineage = Lineage(ownership, verdicts, emitter, config.lineage_bytes_max)
        self.lineage.enqueue = self.enqueue
        self.emitter = emitter
        self.job = job
        self.shapes: dict[Any, Shape] = {}
        self.leases: dict[int, Lease] = {}
        self.by_worker: dict[bytes, list[Lease]] = {}
        #: worker -> where it listens; worker -> {function id: number on that connection}.
        self.paths: dict[bytes, str] = {}
        self.functions: dict[bytes, dict[bytes, int]] = {}
        #: Shapes whose queue may have something to dispatch; leases with tasks not yet sent.
        self.active: set[Shape] = set()
        self.unsent: list[Lease] = []
        #: Mark of another living node -> its id.
        self.node_ids: dict[bytes, bytes] = {}
        self._numbers: dict[int, Shape] = {}
        self._window_ns = int(config.pipeline_seconds * 1e9)
        self._tasks_max = config.pipeline_tasks_max
        self._linger = config.lease_linger_seconds
        self._recall = self._patience = config.recall_seconds
        self._send = ownership.outbox.append
        verdicts.requeue_later = self.requeue_later
        #: Tasks that wait before they are tried again: when that ends (None until somebody looks), how long it lasts.
        self.paused: list[tuple[float | None, float, Task]] = []

    # --- demand ---------------------------------------------------------------------------------------------------

    def shape(
        self, name: str, resources: dict[str, int], runtime: dict[str, Any] | None, key: Any,
        placement: dict[str, Any] | None = None, inherited: dict[str, Any] | None = None,
    ) -> Shape:  # fmt: skip
        """The shape of these resources, this environment and this placement; ``key`` identifies it."""
        shape = self.shapes.get(key)
        if shape is None:
            number = len(self._numbers) + 1
            label = self.emitter.intern(name)
            shape = self.shapes[key] = Shape(number, name, label, resources, runtime, inherited, placement)
            self._numbers[number] = shape
            self._send((NODE, encode(DefineShape(number, name, resources, runtime, placement))))
        return shape

    def enqueue(self, task: Task) -> None:
        """A task whose arguments exist waits for a worker."""
        if task.arguments is not None and (self.ownership.places or task.shape.base is not task.shape):
            task.shape = self._shape_near(task)
        shape = task.shape
        if task.estimate_ns:
            shape.put_back(task)
        else:
            shape.queue.append(task)
        self.active.add(shape)

    def _shape_near(self, task: Task) -> Shape:
        """The variant of the task's shape that runs where most bytes of its arguments are, if they are many."""
        base: Shape = task.shape.base
        if base.placement is not None and not base.placement.keys() <= _LABELS_ONLY:
            return base
        places, sums = self.ownership.places, dict[bytes, int]()
        for _, entry in task.arguments or ():
            if type(entry.value) is int:
                mark = places.get(entry.id, b"")
                sums[mark] = sums.get(mark, 0) + entry.value
        if not sums:
            return base
        # Equal sums: here, which is b"".
        mark = min(sums, key=lambda each: (-sums[each], each))
        node = self.node_ids.get(mark)
        if node is None or sums[mark] < NEAR_BYTES_MIN:
            return base
        near = 1 << (sums[mark].bit_length() - 1)
        key = ("near", base.number, node, near)
        if key not in self.shapes and len(self.shapes) >= SHAPES_MAX:
            return base
        placement = {**(base.placement or {}), "near": node, "near_bytes": near}
        shape = self.shape(base.name, base.resources, base.runtime, key, placement, base.inherited)
        shape.base = base
        return shape

    def argument_ready(self, task: Task, entry: Entry, time_ns: int) -> None:
        """The last missing argument exists, or one has failed and the task with it."""
        if entry.failed:
            self.verdicts.argument_failed(task, entry)
            return
        advance(task, TaskState.QUEUED)
        self.emitter.task_ready(time_ns, task.id, entry.id)
        self.enqueue(task)

    def run(self, now: float, time_ns: int) -> None:
        """Give queued tasks to leases with room, and tell the node if more workers are wanted."""
        active, self.active = self.active, set()
        # In an order that does not depend on addresses, so that a run can be repeated.
        for shape in active if len(active) == 1 else sorted(active, key=_number_of):
            if shape.refusal is not None:
                self._refuse_queued(shape)
                continue
            if shape.queue:
                if shape.unsorted:
                    shape.sort()
                self._fill_all(shape, now, time_ns)
            self._demand(shape, time_ns)

    def _fill_all(self, shape: Shape, now: float, time_ns: int) -> None:
        queue, leases = shape.queue, shape.leases
        for lease in leases:
            self._fill(lease, queue, now, time_ns)
            if not queue:
                return
        if len(queue) >= len(leases):
            # All have as much as they may, and there is one more for each: so none waits for it between two tasks.
            for lease in leases:
                if lease.suspect is None:
                    self._fill(lease, queue, now, time_ns, one_more=True)

    def _fill(self, lease: Lease, queue: deque[Task], now: float, time_ns: int, one_more: bool = False) -> None:
        # What is pushed behind a recall would overtake what the worker gives back for it.
        if lease.blocked or lease.recalled or lease.reclaimed or lease.retire:
            return
        in_flight, window, alone = lease.in_flight, self._window_ns, lease.shape.spread
        keeping = lease.shape.keeping
        was_idle, youngest = not in_flight, b""
        while queue:
            task = queue[0]
            if task.state is not TaskState.QUEUED:
                queue.popleft()
                continue
            function = task.function
            estimate = 0 if function.max_calls else function.mean_ns
            if in_flight and (
                alone
                or not estimate
                or (lease.load_ns >= window if one_more else lease.load_ns + estimate > window)
                or len(in_flight) >= self._tasks_max
            ):
                break
            if task.estimate_ns and in_flight:
                youngest = youngest or max(in_flight)
                if task.id < youngest:
                    break
            if keeping and _is_kept_free(lease, task):
                break
            queue.popleft()
            if task.arguments is not None and self.lineage.losses and self.lineage.waits_again(task):
                continue
            self._assign(lease, task, estimate or window)
        if lease.outgoing and (was_idle or len(lease.outgoing) >= BATCH_TASKS):
            if was_idle:
                lease.progress_at = now
            self.push(lease, time_ns)

    def _assign(self, lease: Lease, task: Task, estimate_ns: int) -> None:
        advance(task, TaskState.DISPATCHED)
        task.dispatched_to = lease
        task.estimate_ns = estimate_ns
        lease.load_ns += estimate_ns
        lease.in_flight[task.id] = task
        if not lease.outgoing:
            self.unsent.append(lease)
        function = task.function
        numbers = self.functions.get(lease.worker)
        number = numbers.get(function.id) if numbers is not None else None
        if number is None:
            number = self.define(lease.worker, function)
        lease.outgoing.append(
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

    def define(self, worker: bytes, function: Function) -> int:
        """Send a function to a worker that has not seen it; returns its number there."""
        numbers = self.functions.setdefault(worker, {})
        number = numbers[function.id] = len(numbers) + 1
        self._send((worker, encode(DefineFunction(number, function.name, function.blob))))
        return number

    def push(self, lease: Lease, time_ns: int) -> None:
        """Send what was assigned to a lease."""
        tasks, lease.outgoing = lease.outgoing, []
        if not tasks:
            return
        lease.batch += 1
        context, lease.context = lease.context, None
        self._send((lease.worker, (_PUSH_TAG, lease.number, lease.batch, time_ns, context, tasks, lease.heard)))
        self.emitter.tasks_dispatched(
            time_ns,
            lease.worker,
            lease.number,
            lease.batch,
            lease.shape.name_number,
            len(tasks),
            len(lease.shape.queue),
            len(lease.in_flight),
            lease.reason,
            tasks[0][0],
        )
        lease.reason = DispatchReason.PIPELINED

    def push_all(self, time_ns: int) -> None:
        """Send everything assigned: this process is about to wait or to run user code."""
        unsent, self.unsent = self.unsent, []
        for lease in unsent:
            self.push(lease, time_ns)

    def push_due(self, time_ns: int) -> None:
        """Send what may not wait for company any longer: this process has received something and waits on."""
        for lease in self.unsent:
            if is_push_due(lease):
                self.push(lease, time_ns)
        self.unsent = [lease for lease in self.unsent if lease.outgoing]

    def _demand(self, shape: Shape, time_ns: int) -> None:
        waiting = len(shape.queue)
        if waiting and shape.keeping:
            waiting = max(0, waiting + len(shape.keeping) - sum(not lease.in_flight for lease in shape.leases))
        # Told in powers of two: a loop of submissions must not become a loop of messages.
        if waiting.bit_length() != shape.wanted.bit_length():
            shape.wanted = waiting
            self._send((NODE, encode(LeaseRequest(shape.number, waiting, waiting))))
            self.emitter.lease_requested(time_ns, self.ownership.worker, shape.name_number, waiting, waiting)

    def refused(self, message: ShapeRefused) -> None:
        """The node will never run tasks of this shape (again): those that wait fail now, later ones when they come."""
        shape = self._numbers[message.shape]
        shape.refusal = (message.kind, message.detail)
        self._refuse_queued(shape)

    def _refuse_queued(self, shape: Shape) -> None:
        assert shape.refusal is not None
        shape.wanted = 0
        queue, shape.queue = shape.queue, deque()
        for task in queue:
            if task.state is TaskState.QUEUED:
                self.verdicts.refused(task, *shape.refusal)

    # --- leases -----------------------------------------------------------------------------------------------------

    def granted(self, message: LeaseGranted, now: float, time_ns: int) -> None:
        """The node gave this process a worker."""
        shape = self._numbers[message.shape]
        context = {"devices": message.devices, "resources": shape.resources, "job": self.job}
        if shape.inherited is not None:
            context |= shape.inherited
        lease = Lease(message.lease, shape, message.worker, context, now)
        self.leases[lease.id] = lease
        self.by_worker.setdefault(message.worker, []).append(lease)
        self.paths[message.worker] = message.path
        shape.leases.append(lease)
        shape.wanted = max(0, shape.wanted - 1)
        # At once: the node may ask for it back in the same breath, and a grant that runs nothing would go on for ever.
        if shape.unsorted:
            shape.sort()
        self._fill(lease, shape.queue, now, time_ns)
        self.active.add(shape)

    def environment_failed(self, number: int, error: str) -> None:
        """What workers of this shape must be cannot be made: its tasks fail."""
        for task in self._give_up(number):
            self.verdicts.environment_failed(task, error)

    def too_deep(self, number: int, detail: str) -> None:
        """Every process waits for others, and this one for tasks that will get none: those fail."""
        for task in self._give_up(number):
            self.verdicts.too_deep(task, detail)

    def _give_up(self, number: int) -> Iterator[Task]:
        """Workers of this shape are not wanted any more; what is queued for them, looked at one by one: the end of one
        task may be that of another."""
        shape = self._numbers[number]
        shape.wanted = 0
        queue, shape.queue = shape.queue, deque()
        for task in queue:
            if task.state is TaskState.QUEUED:
                yield task

    def reclaim(self, identifier: int, time_ns: int) -> None:
        """Others wait for this worker: give it back now, or as soon as it has nothing to do."""
        lease = self.leases.get(identifier)
        if lease is not None:
            lease.reclaimed = True
            if not lease.in_flight:
                self._give_back(lease, Reason.RECLAIMED_FOR_OTHERS)

    def _give_back(self, lease: Lease, reason: Reason) -> None:
        self._send((NODE, encode(LeaseReturn(lease.id, lease.tasks, int(reason), lease.retire))))
        self._drop(lease)
        # What the reclaimed lease could have run must be asked for again.
        self.active.add(lease.shape)

    def give_back_idle(self) -> None:
        """Return every lease that has nothing to do."""
        for lease in list(self.leases.values()):
            if not lease.in_flight:
                self._give_back(lease, Reason.IDLE_TIMEOUT)

    def _drop(self, lease: Lease) -> None:
        self.leases.pop(lease.id, None)
        if lease in lease.shape.leases:
            lease.shape.leases.remove(lease)
        leases = self.by_worker.get(lease.worker)
        if leases is not None and lease in leases:
            leases.remove(lease)
            if not leases:
                del self.by_worker[lease.worker]

    def tick(self, now: float, time_ns: int) -> float | None:
        """Return idle leases, recall what waits behind a slow task. Returns when to come again (seconds), or None."""
        again: float | None = self._end_pauses(now) if self.paused else None
        for lease in list(self.leases.values()):
            if lease.in_flight:
                if len(lease.in_flight) > 1 and not lease.recalled and not lease.blocked:
                    late = now - lease.progress_at
                    if late >= self._patience:
                        self._recall_from(lease, late, time_ns)
                    again = self._recall if again is None else min(again, self._recall)
            elif lease.shape.queue:
                # Left for a task that pauses, or that has just paused.
                self.active.add(lease.shape)
                again = self._linger if again is None else min(again, self._linger)
            elif now - lease.idle_since >= self._linger:
                self._give_back(lease, Reason.IDLE_TIMEOUT)
            else:
                again = self._linger if again is None else min(again, self._linger)
        if self.active:
            self.run(now, time_ns)
        return again

    def _recall_from(self, lease: Lease, late_seconds: float, time_ns: int) -> None:
        self.push(lease, time_ns)
        lease.recalled = True
        running = next(iter(lease.in_flight.values()))
        function, late_ns = running.function, int(late_seconds * 1e9)
        lease.suspect = Suspect(running.id, late_ns, function, function.mean_ns)
        function.mean_ns = max(function.mean_ns, late_ns)
        self._send((lease.worker, encode(Recall([]))))

    def _judge_recall(self, lease: Lease, suspect: Suspect, run_ns: int) -> None:
        """The task that was suspected has run for ``run_ns``: that decides how soon the next recall comes."""
        lease.suspect = None
        if run_ns >= suspect.late_ns >> 1:
            self._patience = self._recall
            return
        self._patience = min(2 * self._patience, RECALL_PATIENCE_MAX * self._recall)
        suspect.function.mean_ns = min(suspect.function.mean_ns, suspect.mean_ns or run_ns or 1)

    def returned(self, worker: bytes, identifiers: list[bytes], reason: int, time_ns: int) -> None:
        """A worker gave back tasks it had not started: they go to the front of the queue, oldest first."""
        for lease in self.by_worker.get(worker, ()):
            lease.recalled = False
            lease.heard += bool(identifiers)
            if reason == Reason.BLOCKED_IN_GET:
                lease.blocked = True
        for identifier in reversed(identifiers):
            task = self.ownership.tasks.get(identifier)
            if task is None or task.state is not TaskState.DISPATCHED or type(task.dispatched_to) is not Lease:
                continue
            lease = task.dispatched_to
            lease.forget(task)
            if lease.suspect is not None and lease.suspect.task == identifier:
                # It had not even begun.
                self._judge_recall(lease, lease.suspect, 0)
            self.emitter.task_recalled(time_ns, task.id, worker, lease.number, reason)
            self.requeue(task)
            if not lease.in_flight and lease.reclaimed:
                self._give_back(lease, Reason.RECLAIMED_FOR_OTHERS)

    def argument_lost(self, worker: bytes, task: Task, argument: bytes, detail: str, time_ns: int) -> None:
        """A worker gave a task back whose argument it cannot read: it waits until that is there again."""
        lease = task.dispatched_to
        lease.forget(task)
        self.emitter.argument_lost(
            time_ns, task.id, task.attempt, worker, lease.number, argument, self.emitter.intern(detail)
        )
        if task.cancelled:
            self.verdicts.cancelled(task)
        elif self.lineage.gave_back(task, argument, detail):
            task.dispatched_to = None
            advance(task, TaskState.QUEUED)
            if not self.lineage.waits_again(task):
                task.shape.put_back(task)
        self.active.add(lease.shape)
        if not lease.in_flight and lease.reclaimed:
            self._give_back(lease, Reason.RECLAIMED_FOR_OTHERS)

    def requeue_later(self, task: Task, seconds: float) -> None:
        """A task goes back to its queue after a pause, for which its worker is not given to younger ones."""
        holder = task.dispatched_to
        if holder is not None:
            holder.forget(task)
        if task.cancelled:
            self.verdicts.cancelled(task)
            return
        task.dispatched_to = None
        advance(task, TaskState.QUEUED)
        self.paused.append((None, seconds, task))
        if seconds <= KEPT_PAUSE_SECONDS_MAX:
            task.shape.keeping.append(task)

    def _end_pauses(self, now: float) -> float | None:
        """Back in line with those whose pause is over. Returns how long the next one lasts, None if none is left."""
        paused, self.paused = self.paused, []
        for until, seconds, task in paused:
            due = now + seconds if until is None else until
            if task.state is TaskState.QUEUED and due > now:
                self.paused.append((due, seconds, task))
                continue
            if task in task.shape.keeping:
                task.shape.keeping.remove(task)
                self.active.add(task.shape)
            if task.state is TaskState.QUEUED:
                self.enqueue(task)
        return min((due - now for due, _, _ in self.paused if due is not None), default=None)

    def requeue(self, task: Task) -> None:
        """A task goes back in line, among others that came back and before all that no worker had."""
        if task.cancelled:
            self.verdicts.cancelled(task)
            return
        task.dispatched_to = None
        advance(task, TaskState.QUEUED)
        task.shape.put_back(task)
        self.active.add(task.shape)

    # --- results ------------------------------------------------------------------------------------------------------

    def done(self, worker: bytes, results: list[tuple[Any, ...]], now: float, time_ns: int) -> None:
        """Results of one worker, in the order its tasks ended."""
        tasks, ownership = self.ownership.tasks, self.ownership
        run_first, run_count, run_bytes, run_last = b"", 0, 0, b""
        for identifier, attempt, outcome, values, extra, run_ns in results:
            task = tasks.get(identifier)
            if task is None or task.attempt != attempt or task.state is not TaskState.DISPATCHED:
                if extra is not None:
                    for group in extra.get("contained", ()):
                        ownership.refuse(group, worker)
                continue
            holder = task.dispatched_to
            holder.forget(task)
            if type(holder) is Lease:
                holder.tasks += 1
                function = task.function
                mean = function.mean_ns
                function.mean_ns = (mean + ((run_ns - mean) >> 3) if mean else run_ns) or 1
                if extra is not None and extra.get("retire"):
                    holder.retire = True
            if extra is not None and extra.get("kept"):
                ownership.register(extra["kept"], worker)
            if outcome == 0:
                contained = extra.get("contained") if extra is not None else None
                size = 0
                stored = task.returns < 0
                if attempt:
                    self.lineage.made_again(task, values, contained, worker)
                    size = sum(len(value) if type(value) is bytes else value or 0 for value in values)
                    stored = True
                else:
                    for index, entry in enumerate(task.entries):
                        value = values[index]
                        if type(value) is bytes:
                            size += len(value)
                        else:
                            size += value
                            stored = True
                            self.lineage.place(entry.id, worker)
                        ownership.fulfil(entry, value, False, contained[index] if contained else ())
                if stored:
                    self.lineage.keep(task, worker)
                # Only now: a result may refer to what only the task's arguments kept alive.
                ownership.finish(task, TaskState.FINISHED)
                if attempt == 0:
                    for group in contained or ():
                        ownership.arrive(group, worker)
                    if not run_count:
                        run_first = identifier
                    elif identifier != _successor(run_last):
                        self.emitter.tasks_finished(time_ns, run_first, run_count, run_bytes)
                        run_first, run_count, run_bytes = identifier, 0, 0
                    run_count += 1
                    run_bytes += size
                    run_last = identifier
                else:
                    self.emitter.task_finished(time_ns, identifier, attempt, 0, size, 0)
                    self.verdicts.forget(identifier)
            else:
                if extra is not None and "made" in extra:
                    self._partly_made(task, extra, worker)
                self.verdicts.failed(task, outcome, values[0], extra, worker, time_ns)
        if run_count:
            self.emitter.tasks_finished(time_ns, run_first, run_count, run_bytes)
        for lease in list(self.by_worker.get(worker, ())):
            lease.progress_at = now
            lease.blocked = False
            suspect = lease.suspect
            if suspect is not None and suspect.task not in lease.in_flight:
                run_ns = next((result[5] for result in results if result[0] == suspect.task), 0)
                self._judge_recall(lease, suspect, run_ns)
            if not lease.in_flight:
                lease.idle_since = now
                if lease.retire or lease.reclaimed or lease.shape.spread:
                    self._give_back(lease, Reason.RECLAIMED_FOR_OTHERS if lease.reclaimed else Reason.NONE)
                    continue
            if lease.shape.queue:
                self.active.add(lease.shape)

    def _partly_made(self, task: Task, extra: dict[str, Any], worker: bytes) -> None:
        """A generator of several values raised: those that it had yielded count, unless it runs again."""
        made, contained = extra["made"], extra.get("contained") or ()
        if self.verdicts.repeats(task, extra):
            for group in contained:
                self.ownership.refuse(group, worker)
            return
        missing = [None] * (len(task.entries) - len(made))
        self.lineage.made_again(task, [*made, *missing], contained and [*contained, *missing], worker)

    def worker_died(self, worker: bytes) -> list[Task]:
        """A worker is gone: its leases end. Returns what was in flight there, in the order it was pushed."""
        in_flight: list[Task] = []
        for lease in list(self.by_worker.get(worker, ())):
            in_flight += lease.in_flight.values()
            lease.in_flight.clear()
            lease.outgoing.clear()
            self._drop(lease)
            self.active.add(lease.shape)
        self.functions.pop(worker, None)
        self.paths.pop(worker, None)
        return in_flight

    def cut_off(self, worker: bytes, unsent: set[bytes]) -> list[int]:
        """The connection to a worker broke: its leases get nothing more. What is ``unsent`` goes back in line."""
        leases = self.by_worker.get(worker, ())
        for lease in leases:
            lease.retire = True
            back = unsent | {wired[0] for wired in lease.outgoing}
            lease.outgoing.clear()
            for task in [task for task in reversed(lease.in_flight.values()) if task.id in back]:
                self.verdicts.requeue(task)
        return [lease.id for lease in leases]

    def take_unsent(self, worker: bytes) -> set[bytes]:
        """Take back what waits to be routed to a worker: pushes, and what the functions in them are. Their tasks."""
        outbox = self.ownership.outbox
        pushes = [message for to, message in outbox if to == worker and message[0] == _PUSH_TAG]
        outbox[:] = [pair for pair in outbox if pair[0] != worker or pair[1][0] not in (_PUSH_TAG, _DEFINE_TAG)]
        return {wired[0] for message in pushes for wired in message[5]}

    # --- cancellation -----------------------------------------------------------------------------------------------

    def cancel(self, task: Task, force: bool, recursive: bool, time_ns: int) -> None:
        """End a task: now if it has not started, else by telling (or killing) its worker.

        Nothing happens to the creation of an actor that is under way: an actor ends with its handles.
        """
        if task.state is TaskState.DISPATCHED and type(task.dispatched_to) is not Lease:
            return
        self.emitter.task_cancel_requested(time_ns, task.id, force, recursive)
        task.cancelled = True
        if task.state is not TaskState.DISPATCHED:
            self.verdicts.cancelled(task)
            if task.shape is not None and task in task.shape.keeping:
                task.shape.keeping.remove(task)
                self.active.add(task.shape)
            return
        lease = task.dispatched_to
        self.push(lease, time_ns)
        if force:
            self._send((NODE, encode(KillWorker(lease.worker, lease.id))))
        else:
            self._send((lease.worker, encode(CancelTask(task.id, recursive))))

    def check_invariants(self) -> None:
        """Raise AssertionError if a queue or a lease contradicts the tasks. For simulation and tests."""
        for lease in self.leases.values():
            assert lease.load_ns == sum(task.estimate_ns for task in lease.in_flight.values())
            for task in lease.in_flight.values():
                assert task.state is TaskState.DISPATCHED and task.dispatched_to is lease
            assert lease in lease.shape.leases
        for shape in self.shapes.values():
            queued = [task.id for task in shape.queue if task.state is TaskState.QUEUED]
            assert len(queued) == len(set(queued)), "a task is queued twice"
            back = [task.id for task in shape.queue if task.estimate_ns]
            assert back == [task.id for task in islice(shape.queue, len(back))], "what came back is not first"
            assert shape.unsorted or back == sorted(back), "those that came back are not in order"


def _is_kept_free(lease: Lease, task: Task) -> bool:
    """Whether this worker is not for ``task``, because an older one of its shape pauses that it may wait for."""
    older = [each.id for each in lease.shape.keeping if each.id < task.id]
    if not older:
        return False
    oldest = min(older)
    free = [
        each
        for each in lease.shape.leases
        if not (each.blocked or each.recalled or each.reclaimed or each.retire)
        and max(each.in_flight, default=b"") < oldest
    ]
    return lease in free and len(free) <= len(older)


def _number_of(shape: Shape) -> int:
    return shape.number


def _successor(task: bytes) -> bytes:
    sequence = int.from_bytes(task[8:TASK_ID_BYTES], "big") + 1
    return task[:8] + sequence.to_bytes(8, "big")
