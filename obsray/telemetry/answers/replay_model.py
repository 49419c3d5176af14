"""A recorded job as a replay sees it: programs of contexts, seconds of tasks, places, and what each wait was about.

Tasks are numbered anew: of large jobs neighbours that are alike are one (``TASKS_MAX``). A context is a number of a
task, or ``count + n`` for driver n. Seconds count from the job's first submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.config import Config
from obsray.telemetry.answers.attempts import Attempts
from obsray.telemetry.answers.graph import EPSILON_NS, SLOT, Graph
from obsray.telemetry.answers.offered import offered
from obsray.telemetry.answers.replay_handing import Handing
from obsray.telemetry.events import TaskType, WaitKind
from obsray.telemetry.queue_time import amounts
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array

#: Tasks that are replayed one by one; of more, neighbours that are alike become one.
TASKS_MAX = 10_000
#: A wait for any of several looks at so many more tasks than it needs, the next to end.
_NEXT = 256

#: First runs of a function in a process are compared with at least so many later ones, and are more by so many seconds.
_LATER_MIN = 4
_FIRST_RUN_MIN = 0.005

#: How a task gets its worker: its owner had it, it has run others before, or nothing yet.
KEPT, WARM, FRESH = range(3)
_FREE_MAX = 1e12

#: Tasks that a wait is about, how many of them end it, how long their news took, and when it gives up.
Wait = tuple[list[int], int, float, float]


class Model:
    """What does not change from one replay to the next. Attributes are by task unless they say otherwise."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.base = int(graph.submitted.min())
        self.finish, self.last_context = graph.finish()
        self.actual_seconds = (self.finish - self.base) / NS
        self.names: Array = graph.name
        self.run_each = graph.seconds("run_seconds")
        self._bundle()
        self._seconds()
        self._places()
        self._processes()
        self._latencies()
        self._awaited()
        self._programs()
        self._beginnings()
        self.tries = self._tries()
        self.handing = Handing(self)
        #: What tasks and their workers compute, all together.
        # All of a call on an event loop counts as on a CPU, so calls are left out.
        other = np.where(self.handing.chosen | graph.is_call, 0.0, graph.seconds("cpu_seconds"))
        self.computed_seconds = float(other.sum() + sum(self.handing.work) + sum(self.handing.cpu))

    # --- which tasks stand for which ------------------------------------------------------------------------

    def _bundle(self) -> None:
        """``number``: of each task of the graph the one that stands for it; ``heads``: which those are."""
        graph = self.graph
        every = -(-graph.count // TASKS_MAX)
        head = np.arange(graph.count)
        if every > 1:
            rows = self._plain()
            table = graph.view.task_table
            shape = table["shape"][graph.row[rows]].astype(np.int64)
            actor = graph.actor[rows]
            order = np.lexsort((graph.submitted[rows], actor, shape, graph.name[rows], graph.context[rows]))
            rows, shape, actor = rows[order], shape[order], actor[order]
            alike = np.diff(graph.submitted[rows]) < NS // 10  # what a wait parts is not one
            for key in (graph.name[rows], graph.context[rows], shape, actor):
                alike &= key[1:] == key[:-1]
            starts = np.flatnonzero(np.concatenate([[True], ~alike])) if len(rows) else np.empty(0, np.int64)
            within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
            head[rows] = rows[np.arange(len(rows)) - within % every]
        self.heads = np.flatnonzero(head == np.arange(graph.count))
        self.count = len(self.heads)
        place = np.empty(graph.count, np.int64)
        place[self.heads] = np.arange(self.count)
        self.number: Array = place[head]
        drivers = np.arange(len(graph.drivers))
        self.context_number: Array = np.concatenate([self.number, self.count + drivers])

    def _plain(self) -> Array:
        """Tasks that nobody in particular waits for and that wait for nobody."""
        graph = self.graph
        plain = np.ones(graph.count, np.bool_)
        plain[graph.argument_of.ravel()] = False
        plain[graph.context[graph.context < graph.count]] = False
        plain[graph.wait_context[graph.wait_context < graph.count]] = False
        return np.flatnonzero(plain)

    def summed(self, seconds: Array) -> Array:
        """Of each task the seconds of all that it stands for."""
        return np.bincount(self.number, seconds, self.count)

    def _seconds(self) -> None:
        graph = self.graph
        other = graph.seconds("deserialize_seconds") + graph.seconds("store_seconds")
        self._first_runs(other)
        self.run = self.summed(self.run_each)
        self.fetch = self.summed(graph.seconds("fetch_seconds"))
        self.other = self.summed(other)
        self.name_of: list[int] = self.names[self.heads].tolist()
        self.latency = self.summed(np.maximum(graph.start - graph.bound_at, 0) / NS)
        self.context: Array = self.context_number[graph.context[self.heads]]
        self.is_call: Array = graph.is_call[self.heads]
        self.actor: Array = np.where(self.is_call, graph.actor[self.heads], -1)
        self.stays: Array = graph.view.task_table["type"][graph.row[self.heads]] == TaskType.ACTOR_CREATION
        pairs = self.number[graph.argument_of] if len(graph.argument_of) else graph.argument_of
        self.missing = np.bincount(pairs[:, 1], minlength=self.count).tolist()
        self.feeds: dict[int, list[int]] = {}
        for producer, consumer in pairs.tolist():
            self.feeds.setdefault(producer, []).append(consumer)

    def _first_runs(self, other: Array) -> None:
        """``first_run_seconds``: by function, what its first run in a process computes beyond later ones: imports, most
        of all. Takes that out of ``other`` and of what the first ones ran."""
        graph = self.graph
        self.first_run_seconds: dict[int, float] = {}
        plain = np.ones(graph.count, np.bool_)
        plain[graph.context[graph.context < graph.count]] = False
        mine = np.flatnonzero(plain & ~graph.is_call)
        if not len(mine):
            return
        cpu = graph.seconds("cpu_seconds")
        order = mine[np.lexsort((graph.start[mine], graph.worker[mine], graph.name[mine]))]
        first = np.append(True, (np.diff(graph.worker[order]) != 0) | (np.diff(graph.name[order]) != 0))
        edges = np.flatnonzero(np.diff(graph.name[order], prepend=-1, append=-1))
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            begun, later = order[low:high][first[low:high]], order[low:high][~first[low:high]]
            # Work that differs from task to task is not that: all first ones stand out.
            if len(later) < _LATER_MIN or cpu[begun].min() <= max(np.percentile(cpu[later], 98), _FIRST_RUN_MIN):
                continue
            more = cpu[begun] - np.median(cpu[later])
            beside = np.clip(other[begun] - np.median(other[later]), 0.0, None)
            other[begun] -= beside
            self.run_each[begun] -= np.clip(more - beside, 0.0, self.run_each[begun])
            self.first_run_seconds[int(graph.name[order[low]])] = float(np.median(more))

    # --- programs of contexts --------------------------------------------------------------------------------

    def _programs(self) -> None:
        """Context -> its actions: seconds of computing before it, and what: a task it submits, or -1 - a wait."""
        graph = self.graph
        context = np.concatenate([self.context, self.context_number[graph.wait_context]])
        at = np.concatenate([graph.submitted[self.heads], graph.wait_start])
        until = np.concatenate([graph.submitted[self.heads], graph.wait_end])
        what = np.concatenate([np.arange(self.count), -1 - np.arange(len(graph.wait_end))])
        order = np.lexsort((until, at, context))
        self.program: dict[int, list[tuple[float, int]]] = {}
        self.tail: dict[int, float] = {}
        contexts = self.count + len(graph.drivers)
        edges = np.searchsorted(context[order], np.arange(contexts + 1))
        begins = np.concatenate([graph.start[self.heads], np.full(len(graph.drivers), self.base)])
        ends = np.concatenate([graph.end[self.heads], np.full(len(graph.drivers), self.finish)])
        for number in np.flatnonzero(np.diff(edges)).tolist():
            mine = order[edges[number] : edges[number + 1]]
            before = np.concatenate([[begins[number]], np.maximum.accumulate(until[mine])[:-1]])
            gaps = np.maximum(at[mine] - before, 0) / NS
            self.program[number] = list(zip(gaps.tolist(), what[mine].tolist(), strict=True))
            self.tail[number] = float(max(0, ends[number] - int(until[mine].max())) / NS)

    def _beginnings(self) -> None:
        """What a process costs a processor at its beginning: until it is there (``process_seconds``), before its first
        task (``first_task_seconds``) and before its first submission (``first_submission_seconds``, beyond what others
        of the same function take; programs are as they would have been without).

        All of these share the processors, however many workers there are.
        """
        graph = self.graph
        fresh = self.first_of_process
        starts = np.array(self._starts, np.int64).reshape(-1, 2)
        tasks = np.stack([graph.bound_at[fresh], graph.start[fresh]], axis=1)
        submissions, computed = self._first_submissions()
        work = _shared(np.concatenate([starts, tasks, submissions]), self.processors) / NS
        of_starts, of_tasks, _ = np.split(work, np.cumsum([len(starts), len(tasks)]))
        self.process_seconds = float(np.median(of_starts)) if len(starts) else 0.0
        self.first_task_seconds = float(np.median(of_tasks)) if len(tasks) else self.usual[WARM]
        self.first_submission_seconds = float(np.median(computed)) if len(computed) else 0.0

    def _first_submissions(self) -> tuple[Array, Array]:
        """From when to when first submissions of processes were slower than others, and how much more these tasks
        computed; takes that out of programs."""
        graph = self.graph
        none = np.empty((0, 2), np.int64)
        makers = [
            number for number, program in self.program.items()
            if number < self.count and self.actor[number] < 0 and program[0][1] >= 0
        ]  # fmt: skip
        if not makers:
            return none, np.empty(0)
        at = np.array(makers)
        worker, name = graph.worker[self.heads[at]], graph.name[self.heads[at]]
        gap = np.array([self.program[number][0][0] for number in makers])
        until = graph.start[self.heads[at]] + (gap * NS).astype(np.int64)
        order = np.lexsort((until, worker))
        first = np.zeros(len(at), np.bool_)
        first[order] = np.diff(worker[order], prepend=-2) != 0
        cpu = graph.seconds("cpu_seconds")[self.heads[at]]
        found, computed = [none], [np.empty(0)]
        for code in np.unique(name).tolist():
            cold, warm = np.flatnonzero((name == code) & first), np.flatnonzero((name == code) & ~first)
            if not len(cold) or not len(warm):
                continue
            usual = float(np.median(gap[warm]))
            longer = np.maximum(gap[cold] - usual, 0.0)
            found.append(np.stack([until[cold] - (longer * NS).astype(np.int64), until[cold]], axis=1))
            computed.append(np.maximum(cpu[cold] - np.median(cpu[warm]), 0.0))
            for one in cold.tolist():
                program = self.program[makers[one]]
                program[0] = (min(program[0][0], usual), program[0][1])
        return np.concatenate(found), np.concatenate(computed)

    def _awaited(self) -> None:
        graph = self.graph
        contexts = graph.count + len(graph.drivers)
        by_end = np.argsort(graph.context, kind="stable")  # tasks are numbered in the order in which they ended
        by_turn = np.lexsort((graph.submitted, graph.context))
        turn = np.empty(graph.count, np.int64)
        turn[by_turn] = np.arange(graph.count)
        edges = np.searchsorted(graph.context[by_end], np.arange(contexts + 1))
        items = self._items()
        self.awaited: list[Wait] = []
        #: Task -> what it hands out that somebody waits for: seconds after its start, and a number for it.
        self.items: dict[int, list[tuple[float, int]]] = {}
        self.item_count = 0
        for number in range(len(graph.wait_end)):
            context, first = int(graph.wait_context[number]), int(graph.wait_first[number])
            end = int(graph.wait_end[number])
            if first in items and int(graph.end[first]) > end + EPSILON_NS // 4:
                self.awaited.append(self._item(first, items[first], end))
                continue
            low, high = int(edges[context]), int(edges[context + 1])
            self.awaited.append(self._wait(number, by_end[low:high], by_turn[:high], turn))

    def _items(self) -> dict[int, Array]:
        """Task -> when it handed out items, for tasks that somebody waited for."""
        graph = self.graph
        streams = np.unique(graph.wait_first[graph.wait_first >= 0])
        if not len(streams):
            return {}
        found: dict[int, list[Array]] = {}
        for columns in graph.view.store.select("task_item_yielded"):
            numbers = graph.numbers(columns["task"])
            for task in np.intersect1d(numbers, streams).tolist():
                found.setdefault(task, []).append(columns["time_ns"][numbers == task].astype(np.int64))
        return {task: np.sort(np.concatenate(times)) for task, times in found.items()}

    def _item(self, task: int, times: Array, end: int) -> Wait:
        """A wait for an item of a task that goes on: the one handed out last before the wait was over."""
        at = int(times[max(int(np.searchsorted(times, end + EPSILON_NS // 4)) - 1, 0)])
        number = self.count + len(self.graph.drivers) + self.item_count
        self.item_count += 1
        after = max(0, at - int(self.graph.start[task])) / NS
        self.items.setdefault(int(self.number[task]), []).append((after, number))
        return [number], 1, max(0, end - at) / NS, np.inf

    def _wait(self, number: int, mine: Array, by_turn: Array, turn: Array) -> Wait:
        """``mine``: what its context submitted, by end; ``by_turn``: by submission, from ``turn`` of the first on."""
        graph = self.graph
        start, end = int(graph.wait_start[number]), int(graph.wait_end[number])
        count, first = int(graph.wait_count[number]), int(graph.wait_first[number])
        ends = graph.end[mine]
        low, high = np.searchsorted(ends, (start - EPSILON_NS, end + EPSILON_NS // 4))
        waits = graph.wait_kind[number] == WaitKind.WAIT

        def meant(tasks: Array) -> Array:
            """What there was to be waited for; ``wait`` is usually given results of one function."""
            found = graph.submitted[tasks] <= start + EPSILON_NS
            if waits and first >= 0:
                found &= graph.name[tasks] == graph.name[first]
            return tasks[found]

        within, limit = meant(mine[low:high]), np.inf
        if not waits:
            chosen = within
            if first >= 0:
                of_it = graph.context[first] == graph.wait_context[number]
                after = by_turn[turn[first] : turn[first] + 2 * count + _NEXT] if of_it else by_turn[:0]
                after = meant(after[graph.end[after] >= start - EPSILON_NS])[:count]
                if len(after) and int(graph.end[after].max()) <= end + EPSILON_NS:
                    chosen = after
                if first not in chosen:
                    chosen = np.append(chosen, first)
            need = len(chosen)
        elif len(within) >= count and graph.is_call[within[-count:]].all():
            # Who hands an actor its next call when the one before is over does so after this one.
            chosen, need = within[-count:], count
        else:
            # Those that were to come when it began; it ends with whichever of them come first.
            chosen = meant(mine[low : high + count + _NEXT])
            chosen = chosen[max(0, len(within) - count) :]
            need = min(count, len(chosen))
            if len(within) < count:
                limit = (end - start) / NS
        if not need:
            return [], 0, max(0, end - start) / NS, np.inf
        last = int(np.sort(graph.end[chosen])[need - 1])
        numbers = np.unique(self.number[chosen]).tolist()
        need = min(need, len(numbers)) if waits else len(numbers)
        return numbers, need, max(0, end - last) / NS, limit

    # --- places ----------------------------------------------------------------------------------------------

    def _places(self) -> None:
        """``shape``: which of ``needs`` a task has; ``hosts``: the nodes where those of a shape may run; ``capacity``:
        of each node."""
        graph, view = self.graph, self.graph.view
        nodes = offered(view)
        marks = [ids.mark_of_node(node) if node else b"" for node in nodes]
        self.capacity = [dict(of_node) for of_node in nodes.values()]
        of_worker = np.array(
            [marks.index(ids.mark_of(worker)) if ids.mark_of(worker) in marks else 0 for worker in
             view.task_table.workers.ids] or [0]
        )  # fmt: skip
        self.node: Array = of_worker[np.maximum(graph.worker[self.heads], 0)]
        self._actors(marks)
        codes, self.shape = np.unique(view.task_table["shape"][graph.row[self.heads]], return_inverse=True)
        left = self.left_by_actors(1.0)
        self.needs: list[dict[str, float]] = []
        self.hosts: list[list[int]] = []
        for number, code in enumerate(codes.tolist()):
            text = view.store.texts[code]
            need = amounts(text)
            seen = np.unique(self.node[self.shape == number]).tolist()
            only_amounts = len(text.split()) == len(need)
            able = [
                at for at, free in enumerate(left)
                if at in seen or (only_amounts and all(free.get(name, 0.0) >= value for name, value in need.items()))
            ]  # fmt: skip
            known = {name for at in able for name in self.capacity[at]}
            # What was lent or is shared by actors may be less than one needs: one at a time, then.
            most = {name: max(left[at].get(name, 0.0) for at in able) for name in known}
            self.needs.append({name: min(value, most[name]) for name, value in need.items() if name in known})
            self.hosts.append(able)
        self.shape_of, self.home, self.stays_of = self.shape.tolist(), self.node.tolist(), self.stays.tolist()

    def _actors(self, marks: list[bytes]) -> None:
        """``by_actors``: what actors hold of each node; ``slots``: how many calls each actor runs at a time."""
        view, graph = self.graph.view, self.graph
        self.by_actors: list[dict[str, float]] = [{} for _ in self.capacity]
        for row in view.actor_table.rows.values():
            if not row["placed_at_ns"] or (row["died_at_ns"] or self.finish) < self.finish:
                continue
            worker = bytes.fromhex(row.get("worker_id") or "")
            at = marks.index(ids.mark_of(worker)) if worker and ids.mark_of(worker) in marks else 0
            for name, value in amounts(row["shape"]).items():
                self.by_actors[at][name] = self.by_actors[at].get(name, 0.0) + value
        actors = int(graph.actor.max(initial=-1)) + 1
        self.slots = np.ones(actors, np.int64).tolist()
        calls = np.flatnonzero(graph.is_call)
        calls = calls[np.argsort(graph.actor[calls], kind="stable")]
        edges = np.searchsorted(graph.actor[calls], np.arange(actors + 1))
        for actor in range(actors):
            mine = calls[edges[actor] : edges[actor + 1]]
            times = np.concatenate([graph.start[mine], graph.end[mine]])
            change = np.concatenate([np.ones(len(mine)), -np.ones(len(mine))])
            running = np.cumsum(change[np.lexsort((change, times))])
            self.slots[actor] = int(max(1, running.max(initial=1)))
        told: dict[bytes, int] = {}
        for row in view.store.rows("actor_concurrency"):
            told[row["actor"]] = told.get(row["actor"], 0) + row["calls"]
        for actor, identifier in enumerate(graph.actors):
            self.slots[actor] = max(self.slots[actor], told.get(identifier, 1))

    def left_by_actors(self, workers: float) -> list[dict[str, float]]:
        """What each node has for tasks, with so many times as much of everything; actors hold what they did."""
        found = []
        for of_node, taken in zip(self.capacity, self.by_actors, strict=True):
            left = {}
            for name, amount in of_node.items():
                there = min(amount * workers, _FREE_MAX)
                left[name] = max(there - taken.get(name, 0.0), min(1.0, there) if name == "CPU" else 0.0)
            found.append(left)
        return found

    def _processes(self) -> None:
        """How many processes there were when the job began, how many more were starting, how long one takes on a
        processor of its own."""
        session = self.graph.view.store.session()
        config = session.get("config") or {}
        self.linger_seconds = float(config.get("lease_linger_seconds", Config().lease_linger_seconds))
        self.processors = max(1, int(session.get("processors") or 1))
        every = self.graph.view.process_table.rows.values()
        rows = [row for row in every if row["kind"] == "worker" and row["registered_at_ns"]]
        self.processes = sum(row["registered_at_ns"] <= self.base for row in rows)
        known = [(row["starting_at_ns"], row["registered_at_ns"]) for row in rows if row["starting_at_ns"]]
        self.coming = sorted((came - self.base) / NS for asked, came in known if asked <= self.base < came)
        #: When processes were asked for and came. Those made with the session share the processors with all that
        #: starts then.
        self._starts = [one for one in known if one[0] > self.base] or [one for one in known if one[1] > self.base]
        self.processes_max = int(config.get("workers_max", Config().workers_max)) * max(1, len(self.capacity))

    def cpus(self) -> float:
        """How many CPUs all nodes have."""
        return sum(of_node.get("CPU", 0.0) for of_node in self.capacity)

    def prestarted(self, workers: float) -> tuple[int, int]:
        """How many processes are there when the job begins, and how many are starting, with so many times the
        workers: there is one for each CPU from the start."""
        if workers == float("inf"):
            return 0, 0
        ready, coming = self.processes, len(self.coming)
        more = round(min(ready + coming, self.cpus()) * (workers - 1))
        if more >= 0:
            return (ready, coming + more) if coming else (ready + more, 0)
        kept = max(0, coming + more)
        return max(0, ready + coming + more - kept), kept

    def _latencies(self) -> None:
        """``kind``: how each task got its worker; ``usual``: how long that takes, by kind."""
        graph = self.graph
        order = np.lexsort((graph.start, graph.worker))
        first = np.zeros(graph.count, np.bool_)
        first[order] = np.diff(graph.worker[order], prepend=-2) != 0
        self.first_of_process = np.flatnonzero(first & ~graph.is_call)
        kind = np.where(graph.bound == SLOT, KEPT, WARM)
        kind[self.first_of_process] = FRESH
        self.kind = kind[self.heads].tolist()
        self.members: list[int] = np.bincount(self.number, minlength=self.count).tolist()
        each = np.maximum(graph.start - graph.bound_at, 0) / NS
        found: list[float] = []
        for one in (KEPT, WARM):
            mine = each[(kind == one) & ~graph.is_call]
            found.append(float(np.median(mine)) if len(mine) else -1.0)
        known = [seconds for seconds in found if seconds >= 0]
        self.usual = [seconds if seconds >= 0 else (known[0] if known else 0.0) for seconds in found]
        self.latency_each: list[float] = self.latency.tolist()

    def latency_of(self, task: int, kind: int) -> float:
        """From when a task is given a worker to its start: what it took, if it got one in the same way."""
        if self.members[task] > 1 or kind == self.kind[task] or (kind == KEPT and self.kind[task] == WARM):
            return self.latency_each[task]
        return self.usual[kind] * self.members[task]

    # --- attempts that failed --------------------------------------------------------------------------------

    def _tries(self) -> dict[int, list[tuple[float, float]]]:
        """Of tasks that were tried again the attempts before the last: their seconds, and the pause that followed."""
        graph = self.graph
        table = graph.view.task_table
        again = table["ended_attempt"][graph.row] > 0
        if not again.any():
            return {}
        number = np.full(len(table) + 1, -1, np.int64)
        number[graph.row[again]] = self.number[np.flatnonzero(again)]
        pauses: dict[tuple[int, int], float] = {}
        for columns in graph.view.store.select("task_retried"):
            rows = table.index.rows(columns["task"], create=False)
            for row, attempt, pause in zip(
                rows.tolist(), columns["attempt"].tolist(), columns["delay_seconds"].tolist(), strict=True
            ):
                pauses[row, attempt] = pause
        attempts = Attempts(graph.view)
        earlier = (number[attempts.row] >= 0) & (attempts.attempt < table["ended_attempt"][attempts.row])
        found: dict[int, list[tuple[float, float]]] = {}
        chosen = np.flatnonzero(earlier)
        for at in chosen[np.lexsort((attempts.attempt[chosen], attempts.row[chosen]))].tolist():
            row, attempt = int(attempts.row[at]), int(attempts.attempt[at])
            seconds = (int(attempts.end[at]) - int(attempts.start[at])) / NS
            found.setdefault(int(number[row]), []).append((seconds, pauses.get((row, attempt), 0.0)))
        return found

    # --- changes ---------------------------------------------------------------------------------------------

    def changed(self, change: Any) -> tuple[Array, Array]:
        """Run and fetch seconds of each task with a change. Raises ValueError for a function that there is not."""
        run, names = self.run_each, self.names
        texts = self.graph.view.store.texts
        if change.no_stragglers:
            run = run.copy()
            order = np.argsort(names, kind="stable")
            edges = np.flatnonzero(np.diff(names[order], prepend=-1, append=-1))
            for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                mine = order[low:high]
                run[mine] = np.minimum(run[mine], np.percentile(run[mine], 95))
        for name, factor in change.functions.items():
            code = texts.find(name)
            if code is None or not (names == code).any():
                known = ", ".join(sorted({texts[one] for one in np.unique(names).tolist()}))
                raise ValueError(f"no task of this job is called {name!r}; there are: {known}")
            run = np.where(names == code, run / factor, run)
        return self.summed(run), self.fetch / change.network


def _shared(intervals: Array, processors: int) -> Array:
    """How much of a processor each piece of computing got, by when it began and ended, if all shared alike."""
    times = np.unique(intervals)
    if not len(times):
        return np.empty(0)
    change = np.zeros(len(times))
    np.add.at(change, np.searchsorted(times, intervals[:, 0]), 1.0)
    np.add.at(change, np.searchsorted(times, intervals[:, 1]), -1.0)
    rate = np.minimum(1.0, processors / np.maximum(np.cumsum(change)[:-1], 1.0))
    got = np.concatenate([[0.0], np.cumsum(rate * np.diff(times))])
    found: Array = np.diff(got[np.searchsorted(times, intervals)], axis=1)[:, 0]
    return found
