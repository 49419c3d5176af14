"""The tasks of a job as a graph: who submitted what, who waited for what, what each start had to wait for last.

A *context* is a program that submits and waits: a task (by its row) or a driver. Everything is found by sorting and
searching columns; nothing here looks at single tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.ids import TASK_ID_BYTES
from obsray.telemetry.answers.capacity import freed
from obsray.telemetry.events import TaskType, WaitKind
from obsray.telemetry.store import joined
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import FINISHED

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array, Columns
    from obsray.telemetry.views import Views

#: Clocks of two processes that meet: so much earlier than its cause an effect may seem.
EPSILON_NS = 1_000_000
#: What a start waited for last.
SUBMITTED, ARGUMENT, SLOT, CAPACITY, WORKER, RETRY = range(6)


class Graph:
    """The tasks of ``job`` that ran, in the order in which they ended. Times are nanoseconds, int64.

    ``row`` (in the task table), ``name``, ``start``, ``end``, ``submitted``, ``context``: number of the submitting
    task, or ``len + n`` for driver n; ``bound`` (one of the above) with ``bound_at`` and ``bound_by`` (a task, or -1).
    ``argument_of``: pairs (producer, consumer). Waits, sorted by context and end: ``wait_context``, ``wait_start``,
    ``wait_end``, ``wait_kind``, ``wait_count`` and ``wait_for``, the task whose end ended it, or -1.
    """

    def __init__(self, view: Views, job: int) -> None:
        self.view, self.job = view, job
        table = view.task_table
        ran = (table["job"] == job) & (table["started_at"] > 0) & (table["ended_at"] >= table["started_at"])
        rows = np.flatnonzero(ran & (table["state"] >= FINISHED) & (table["submitted_at"] > 0))
        self.row = rows[np.argsort(table["ended_at"][rows], kind="stable")]
        self.count = len(self.row)
        self._number = np.full(len(table) + 1, -1, np.int64)
        self._number[self.row] = np.arange(self.count)
        self.start, self.end = self._of("started_at"), self._of("ended_at")
        self.submitted = np.minimum(self._of("submitted_at"), self.start)
        self.name, self.worker = self._of("name"), self._of("worker")
        self.is_call: Array = table["type"][self.row] == TaskType.ACTOR_CALL
        self._actors()
        self.drivers: list[bytes] = []
        self.context = self._contexts()
        self._waits()
        self._arguments()
        self._bounds()

    def _of(self, name: str) -> Array:
        found: Array = self.view.task_table[name][self.row].astype(np.int64)
        return found

    def seconds(self, name: str) -> Array:
        """A duration of each task, e.g. ``run_seconds``."""
        found: Array = self.view.task_table[name][self.row].astype(np.float64)
        return found

    def numbers(self, tasks: Array) -> Array:
        """The numbers of tasks by their ids, -1 for others."""
        found: Array = self._number[self.view.task_table.index.rows(tasks, create=False)]
        return found

    def name_of(self, number: int) -> str:
        return self.view.store.texts[int(self.name[number])]

    def _actors(self) -> None:
        """``actor``: of calls the number of their actor in ``actors``, -1 of others."""
        calls = np.flatnonzero(self.is_call)
        words = np.ascontiguousarray(self.view.task_table["actor"][self.row[calls]])
        different, back = np.unique(words.view("<u8").reshape(-1, 2), axis=0, return_inverse=True)
        self.actors = [one.tobytes() for one in different]
        self.actor = np.full(self.count, -1, np.int64)
        self.actor[calls] = back.ravel()

    # --- who submitted ------------------------------------------------------------------------------------

    def _contexts(self) -> Array:
        table = self.view.task_table
        found = self.numbers(table["parent"][self.row])
        alone = np.flatnonzero(found < 0)
        ids = np.ascontiguousarray(table["id"][self.row[alone]]).view("<u8").reshape(-1, 2)[:, 0]
        owners, back = np.unique(ids, return_inverse=True)
        self.drivers = [int(owner).to_bytes(8, "little") for owner in owners]
        found[alone] = self.count + back.ravel()
        return found

    # --- who waited ---------------------------------------------------------------------------------------

    def _waits(self) -> None:
        store = self.view.store
        over, begun = (
            joined(store.select("task_unblocked"), "task_unblocked"),
            joined(store.select("task_blocked"), "task_blocked"),
        )
        driver = joined(store.select("process_waited"), "process_waited")
        context = self.numbers(over["task"])
        first, many = self._what_for(over, begun)
        drivers = {process: number for number, process in enumerate(self.drivers)}
        who = np.array([drivers.get(process.tobytes(), -1) for process in driver["process"]], np.int64)
        who = np.where(who >= 0, who + self.count, -1)
        context = np.concatenate([context, who])
        end = np.concatenate([over["time_ns"], driver["time_ns"]]).astype(np.int64)
        lasted = np.concatenate([over["blocked_seconds"], driver["wait_seconds"]]).astype(np.float64)
        start = end - (lasted * NS).astype(np.int64)
        kind = np.concatenate([over["waiting_in"], driver["waiting_in"]]).astype(np.int64)
        first = np.concatenate([first, self._producers(driver["object"])])
        many = np.concatenate([many, driver["objects"].astype(np.int64)])
        kept = np.flatnonzero((context >= 0) & (kind != WaitKind.ALLOCATE))
        order = kept[np.lexsort((end[kept], context[kept]))]
        context, start, end = context[order], start[order], end[order]
        kind, first, many = kind[order], first[order], many[order]
        # A wait that is looked at now and then (a progress bar) is told in pieces, between which nothing is submitted.
        same = np.zeros(len(order), np.bool_)
        same[1:] = (context[1:] == context[:-1]) & (start[1:] - end[:-1] < EPSILON_NS) & (kind[1:] == kind[:-1])
        same[1:] &= ((first[1:] == first[:-1]) | (first[1:] < 0)) & ~self._submitted_between(context, end, start)
        heads = np.flatnonzero(~same)
        tails = np.append(heads[1:], len(order)) - 1 if len(heads) else heads
        self.wait_context, self.wait_start, self.wait_end = context[heads], start[heads], end[tails]
        self.wait_kind, self.wait_first, self.wait_count = kind[heads], first[heads], many[heads]
        self.wait_for = self._awaited()

    def _submitted_between(self, context: Array, end: Array, start: Array) -> Array:
        """Whether a context submitted anything between the end of each wait and the start of the next one."""
        base = int(self.submitted.min(initial=1 << 62)) if self.count else 0
        known = np.sort(keys(self.context, self.submitted, base))
        low = np.searchsorted(known, keys(context[:-1], end[:-1] - EPSILON_NS // 10, base))
        high = np.searchsorted(known, keys(context[1:], start[1:] + EPSILON_NS // 10, base), side="right")
        found: Array = high > low
        return found

    def _what_for(self, over: Columns, begun: Columns) -> tuple[Array, Array]:
        """For each end of a wait what its beginning said: the producer of the first value, and how many."""
        table = self.view.task_table
        rows, known = table.index.rows(over["task"], create=False), table.index.rows(begun["task"], create=False)
        base = int(min(over["time_ns"].min(initial=1 << 62), begun["time_ns"].min(initial=1 << 62)))
        ends, starts = keys(rows, over["time_ns"], base), keys(known, begun["time_ns"], base)
        order = np.argsort(starts, kind="stable")
        at = np.searchsorted(starts[order], ends, side="right") - 1
        if not len(order):
            return np.full(len(over), -1, np.int64), np.ones(len(over), np.int64)
        at = order[np.maximum(at, 0)]
        same = known[at] == rows
        first = np.where(same, self._producers(begun["object"])[at], -1)
        return first, np.where(same, begun["objects"].astype(np.int64)[at], 1)

    def _producers(self, objects: Array) -> Array:
        words = np.ascontiguousarray(objects).view("<u4").reshape(-1, 5)[:, :4]
        return self.numbers(np.ascontiguousarray(words).view(f"V{TASK_ID_BYTES}").ravel())

    def _awaited(self) -> Array:
        """The task whose end ended each wait: of those its context submitted the last; else the first awaited."""
        if not len(self.wait_end) or not self.count:
            return np.full(len(self.wait_end), -1, np.int64)
        base = int(self.start.min())
        order = np.lexsort((self.end, self.context))
        placed = keys(self.context[order], self.end[order], base)
        at = np.searchsorted(placed, keys(self.wait_context, self.wait_end + EPSILON_NS // 4, base), side="right") - 1
        child = order[np.maximum(at, 0)]
        fits = (at >= 0) & (self.context[child] == self.wait_context)
        fits &= self.end[child] >= self.wait_start - EPSILON_NS
        first = self.wait_first
        # Of a task that goes on it was an item.
        other = (first >= 0) & (self.start[np.maximum(first, 0)] <= self.wait_end + EPSILON_NS)
        return np.where(fits, child, np.where(other, first, -1))

    # --- what starts waited for ---------------------------------------------------------------------------

    def _arguments(self) -> None:
        waiting = joined(self.view.store.select("task_arguments_waiting"), "task_arguments_waiting")
        consumer, producer = self.numbers(waiting["task"]), self._producers(waiting["object"])
        kept = (consumer >= 0) & (producer >= 0)
        pairs = np.concatenate([np.stack([producer[kept], consumer[kept]], axis=1), self._births()])
        self.argument_of: Array = np.unique(pairs, axis=0) if len(pairs) else pairs

    def _births(self) -> Array:
        """Calls that were made before their actor was there need its constructor as if it were an argument."""
        made = {
            actor: int(self.numbers(np.frombuffer(bytes.fromhex(row["task_id"]), "V16"))[0])
            for actor, row in self.view.actor_table.rows.items() if row["task_id"]
        }  # fmt: skip
        calls = np.flatnonzero(self.is_call)
        if not made or not len(calls):
            return np.empty((0, 2), np.int64)
        births = np.array([made.get(one, -1) for one in self.actors], np.int64)[self.actor[calls]]
        early = (births >= 0) & (self.submitted[calls] < self.end[np.maximum(births, 0)])
        return np.stack([births[early], calls[early]], axis=1)

    def _bounds(self) -> None:
        nothing = np.full(self.count, -1, np.int64)
        ready_by, ready_at = nothing.copy(), np.zeros(self.count, np.int64)
        producer, consumer = self.argument_of[:, 0], self.argument_of[:, 1]
        order = np.argsort(self.end[producer], kind="stable")
        ready_by[consumer[order]] = producer[order]
        have = ready_by >= 0
        ready_at[have] = np.minimum(self.end[ready_by[have]], self.start[have])
        ready = np.maximum(self.submitted, ready_at)
        slot_by, slot_at = self._before(self.worker, self.start, -1)
        dispatched = np.clip(self._of("dispatched_at"), ready, self.start)
        capacity_by, capacity_at = freed(self, dispatched + EPSILON_NS // 4)
        capacity_at[dispatched - ready < EPSILON_NS // 4] = 0
        born = np.minimum(self._born(), self.start)
        retried = np.minimum(self._of("retried_at"), self.start)
        times = np.stack([self.submitted, ready_at, slot_at, capacity_at, born, retried])
        by = np.stack([nothing, ready_by, slot_by, capacity_by, nothing, nothing])
        times[SLOT][slot_at < ready] = 0
        times[CAPACITY][(capacity_at < ready) | (slot_at >= capacity_at)] = 0
        times[WORKER][born < ready] = 0
        self.bound = times.argmax(axis=0)
        each = np.arange(self.count)
        self.bound_at, self.bound_by = times[self.bound, each], by[self.bound, each]
        #: When everything but a place to run was there, and the task (or -1) that was last to bring it.
        self.ready_at, self.ready_by = ready, np.where(ready_at > self.submitted, ready_by, -1)

    def _before(self, group: Array, instants: Array, grace: int) -> tuple[Array, Array]:
        """For each task the one of the same group that ended last before an instant, and when; -1 and 0 for none."""
        if not self.count:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        base = int(self.start.min()) - EPSILON_NS
        order = np.lexsort((self.end, group))
        placed = keys(group[order], self.end[order], base)
        at = np.searchsorted(placed, keys(group, instants + grace, base), side="right") - 1
        found = order[np.maximum(at, 0)]
        good = (at >= 0) & (group[found] == group) & (self.end[found] <= self.start) & (found != np.arange(self.count))
        return np.where(good, found, -1), np.where(good, np.minimum(self.end[found], self.start), 0)

    def _born(self) -> Array:
        """When the worker of each task had started."""
        processes = self.view.process_table.rows
        ready = np.array(
            [(processes.get(one) or {}).get("registered_at_ns") or 0 for one in self.view.task_table.workers.ids] or [0]
        )
        found: Array = np.where(self.worker >= 0, ready[np.maximum(self.worker, 0)], 0)
        return found

    # --- the whole ----------------------------------------------------------------------------------------

    def finish(self) -> tuple[int, int]:
        """When the job was over, as far as its tasks and waits tell, and in which context: a task or a driver."""
        last_task = int(self.end[-1]) if self.count else 0
        of_drivers = self.wait_context >= self.count
        if of_drivers.any():
            last = int(self.wait_end[of_drivers].max())
            if last >= last_task:
                at = np.flatnonzero(of_drivers)[int(self.wait_end[of_drivers].argmax())]
                return last, int(self.wait_context[at])
        return last_task, self.count - 1


def keys(group: Array, instants: Array, base: int) -> Array:
    """One number that sorts by group and then by time (microseconds)."""
    micros = np.clip((instants.astype(np.int64) - base) // 1000, 0, (1 << 40) - 1)
    found: Array = (group.astype(np.int64) << 40) + micros
    return found


def job_to_look_at(view: Any, job: int | None) -> int:
    """The job that is meant: the given one, or that with most tasks. Raises LookupError."""
    counts = np.bincount(view.task_table["job"]) if len(view.task_table) else np.zeros(1, np.int64)
    if job is not None:
        if job >= len(counts) or not counts[job]:
            known = ", ".join(f"{number:08x}" for number in np.flatnonzero(counts).tolist()) or "none"
            raise LookupError(f"no job {job:08x} has tasks; those that have: {known}")
        return job
    if not counts.any():
        raise LookupError("no task was submitted in this session")
    return int(counts.argmax())
