"""A recorded job run again on paper: the same graph and durations, on as many workers and as fast as one likes.

A context's program is a list of actions: so much computing, then a submission or a wait. Tasks run when their arguments
are there and what they ask for is free, first come, first served; calls of an actor in a line of its own. Each task
keeps the latency that its start had beyond what it waited for. Tasks of large jobs are bundled: ``TASKS_MAX`` at most.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from obsray.telemetry.answers.graph import EPSILON_NS, Graph
from obsray.telemetry.answers.holders import amounts
from obsray.telemetry.columns import Array
from obsray.telemetry.events import TaskType, WaitKind
from obsray.telemetry.tables import NS

#: Tasks that are replayed one by one; of more, neighbours that are alike become one.
TASKS_MAX = 10_000
_FREE_MAX = 1e12


@dataclass(frozen=True)
class Change:
    """What is different in a replay. Factors say how many times faster; ``workers`` how many times as much of
    everything, infinity included."""

    workers: float = 1.0
    functions: dict[str, float] = field(default_factory=dict)
    network: float = 1.0
    driver: float = 1.0
    no_stragglers: bool = False

    def described(self) -> str:
        """The change in words."""
        said = []
        if self.workers != 1:
            said.append("unlimited workers" if self.workers == float("inf") else f"{self.workers:g} x workers")
        said += [f"{name} {factor:g} x faster" for name, factor in self.functions.items()]
        if self.network != 1:
            said.append(f"network {self.network:g} x faster")
        if self.driver != 1:
            said.append(f"driver {self.driver:g} x faster")
        if self.no_stragglers:
            said.append("no stragglers (runs of a function capped at its 95th percentile)")
        return ", ".join(said) or "nothing changed"


class Model:
    """A job as the replay sees it. Times are seconds from its first submission."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.base = int(graph.submitted.min())
        self.finish, self.last_context = graph.finish()
        self.actual_seconds = (self.finish - self.base) / NS
        self._bundle()
        self._durations()
        self._programs()
        self._places()

    # --- what is replayed -----------------------------------------------------------------------------------

    def _bundle(self) -> None:
        """``head``: the task that stands for each task."""
        graph = self.graph
        self.head = np.arange(graph.count)
        every = -(-graph.count // TASKS_MAX)
        if every < 2:
            return
        plain = np.ones(graph.count, np.bool_)
        plain[graph.argument_of.ravel()] = False
        plain[graph.context[graph.context < graph.count]] = False
        plain[graph.wait_context[graph.wait_context < graph.count]] = False
        plain &= ~graph.is_call
        rows = np.flatnonzero(plain)
        shape = graph.view.task_table["shape"][graph.row[rows]].astype(np.int64)
        rows = rows[np.lexsort((graph.submitted[rows], shape, graph.name[rows], graph.context[rows]))]
        shape = graph.view.task_table["shape"][graph.row[rows]].astype(np.int64)
        new = np.ones(len(rows), np.bool_)
        alike = (graph.name[rows][1:] == graph.name[rows][:-1]) & (graph.context[rows][1:] == graph.context[rows][:-1])
        # What was submitted before a wait and what after it are not one.
        near = np.diff(graph.submitted[rows]) < NS // 10
        new[1:] = ~(alike & near & (shape[1:] == shape[:-1]))
        starts = np.flatnonzero(new)
        within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
        self.head[rows] = rows[np.arange(len(rows)) - within % every]

    def _durations(self) -> None:
        graph = self.graph
        self.run = graph.seconds("run_seconds")
        self.fetch = graph.seconds("fetch_seconds")
        self.other = graph.seconds("deserialize_seconds") + graph.seconds("store_seconds")
        self.latency = np.maximum(graph.start - graph.bound_at, 0) / NS
        count = graph.count
        self.sums = {
            name: np.bincount(self.head, getattr(self, name), count) for name in ("run", "fetch", "other", "latency")
        }

    def _programs(self) -> None:
        """For each context its actions: (seconds of computing before it, what, of which)."""
        graph = self.graph
        contexts = len(graph.drivers) + graph.count
        standing = np.flatnonzero(self.head == np.arange(graph.count))
        context = np.concatenate([graph.context[standing], graph.wait_context])
        at = np.concatenate([graph.submitted[standing], graph.wait_start])
        until = np.concatenate([graph.submitted[standing], graph.wait_end])
        what = np.concatenate([standing, -1 - np.arange(len(graph.wait_end))])
        order = np.lexsort((until, at, context))
        self.program: dict[int, list[tuple[float, int]]] = {}
        self.tail: dict[int, float] = {}
        edges = np.searchsorted(context[order], np.arange(contexts + 1))
        self.awaited = self._awaited_sets()
        begins = np.concatenate([graph.start, np.full(len(graph.drivers), self.base)])
        ends = np.concatenate([graph.end, np.full(len(graph.drivers), self.finish)])
        for number in np.flatnonzero(np.diff(edges)).tolist():
            mine = order[edges[number] : edges[number + 1]]
            before = np.concatenate([[begins[number]], np.maximum.accumulate(until[mine])[:-1]])
            gaps = np.maximum(at[mine] - before, 0) / NS
            self.program[number] = list(zip(gaps.tolist(), what[mine].tolist(), strict=True))
            self.tail[number] = float(max(0, ends[number] - int(until[mine].max())) / NS)

    def _awaited_sets(self) -> list[tuple[list[int], int, float]]:
        """For each wait: the tasks it is about, how many of them end it, and how long their news took."""
        graph = self.graph
        order = np.lexsort((graph.submitted, graph.context))
        edges = np.searchsorted(graph.context[order], np.arange(graph.count + len(graph.drivers) + 1))
        found = []
        for number in range(len(graph.wait_end)):
            context = int(graph.wait_context[number])
            mine = order[edges[context] : edges[context + 1]]
            start, end = int(graph.wait_start[number]), int(graph.wait_end[number])
            open_ = mine[(graph.end[mine] >= start - EPSILON_NS) & (graph.submitted[mine] <= start + EPSILON_NS)]
            count = int(graph.wait_count[number])
            if graph.wait_kind[number] == WaitKind.GET:
                first = int(graph.wait_first[number])
                after = (
                    open_[np.searchsorted(graph.submitted[open_], graph.submitted[first]) :] if first >= 0 else open_
                )
                chosen = after[:count]
                if not len(chosen) or int(graph.end[chosen].max()) > end + EPSILON_NS:
                    chosen = open_[graph.end[open_] <= end + EPSILON_NS]
                if first >= 0 and first not in chosen:
                    chosen = np.append(chosen, first)
                need = len(chosen)
            else:
                chosen, need = open_, min(count, len(open_))
            last = np.sort(graph.end[chosen])[need - 1] if need else end
            heads = np.unique(self.head[chosen]).tolist() if need else []
            if graph.wait_kind[number] == WaitKind.GET:
                need = len(heads)
            found.append((heads, min(need, len(heads)), float(max(0, end - int(last)) / NS)))
        return found

    def _places(self) -> None:
        """What each task takes while it runs, what there is of it, and when workers were there."""
        graph, view = self.graph, self.graph.view
        table = view.task_table
        totals: dict[str, float] = {}
        for amounts_ in view.samples.resources_of.values():
            for name, known in amounts_.items():
                totals[name] = totals.get(name, 0.0) + known["total"]
        if not totals:
            totals = {name: float(n) for name, n in (view.store.session().get("resources") or {}).items()}
        codes = table["shape"][graph.row]
        shapes = {code: amounts(view.store.texts[code]) for code in np.unique(codes).tolist()}
        self.need: list[dict[str, float]] = []
        self.capacity = dict(totals)
        actors: dict[bytes, int] = {}
        for number, code in enumerate(codes.tolist()):
            if graph.is_call[number]:
                actor = "actor " + table["actor"][graph.row[number]].tobytes().hex()
                actors[actor.encode()] = actors.get(actor.encode(), 0) + 1
                self.need.append({actor: 1.0})
                self.capacity[actor] = 1.0
            else:
                self.need.append({name: value for name, value in shapes[code].items() if name in totals})
        self._concurrency()
        self._processes()
        for row in view.actor_table.rows.values():
            for name, value in amounts(row["shape"]).items():
                # An actor keeps what it was given; while it lives tasks have that much less.
                if name in self.capacity and row["placed_at_ns"] and (row["died_at_ns"] or self.finish) >= self.finish:
                    self.capacity[name] = max(self.capacity[name] - value, 1.0 if name == "CPU" else 0.0)
        for number, need in enumerate(self.need):
            self.need[number] = {n: min(v, self.capacity.get(n, v)) for n, v in need.items()}

    def _processes(self) -> None:
        """How many processes there were when the job began, how long one takes to start, and which tasks keep theirs:
        constructors of actors."""
        graph, view = self.graph, self.graph.view
        table = view.task_table
        self.stays: Array = table["type"][graph.row] == TaskType.ACTOR_CREATION
        rows = [row for row in view.process_table.rows.values() if row["kind"] == "worker" and row["registered_at_ns"]]
        self.processes = sum(row["registered_at_ns"] <= self.base for row in rows)
        later = [row for row in rows if row["starting_at_ns"] and row["registered_at_ns"] > self.base]
        #: When the processes are there that were starting when the job began.
        self.coming = [
            (row["registered_at_ns"] - self.base) / NS for row in later if row["starting_at_ns"] <= self.base
        ]
        took = [(row["registered_at_ns"] - row["starting_at_ns"]) / NS for row in later]
        self.process_seconds = float(np.median(took)) if took else 0.0

    def _concurrency(self) -> None:
        """Actors run as many calls at a time as they were seen to."""
        graph = self.graph
        calls = np.flatnonzero(graph.is_call)
        if not len(calls):
            return
        names = np.array([next(iter(self.need[number])) for number in calls.tolist()])
        for name in np.unique(names).tolist():
            mine = calls[names == name]
            times = np.concatenate([graph.start[mine], graph.end[mine]])
            change = np.concatenate([np.ones(len(mine)), -np.ones(len(mine))])
            order = np.lexsort((change, times))
            self.capacity[name] = float(max(1, np.cumsum(change[order]).max()))

    # --- a replay -------------------------------------------------------------------------------------------

    def seconds(self, change: Change) -> float:
        """How long the job takes with a change, from its first submission to its end."""
        return _Replay(self, change).run()

    def changed(self, change: Change) -> tuple[Array, Array]:
        """Run and fetch seconds of each task (of a bundle, its sum) with a change."""
        graph, run = self.graph, self.run
        if change.no_stragglers:
            run = run.copy()
            for code in np.unique(graph.name).tolist():
                mine = graph.name == code
                run[mine] = np.minimum(run[mine], np.percentile(run[mine], 95))
        for name, factor in change.functions.items():
            code = graph.view.store.texts.find(name)
            if code is None or not (graph.name == code).any():
                known = ", ".join(sorted({graph.name_of(n) for n in np.unique(graph.name, return_index=True)[1]}))
                raise ValueError(f"no task of this job is called {name!r}; there are: {known}")
            run = np.where(graph.name == code, run / factor, run)
        sums = np.bincount(self.head, run, graph.count)
        return sums, self.sums["fetch"] / change.network


class _Replay:
    """One replay: a clock, what is free, who waits."""

    def __init__(self, model: Model, change: Change) -> None:
        self.model, self.change = model, change
        run, fetch = model.changed(change)
        self.fixed = (fetch + model.sums["other"]).tolist()
        self.run_seconds = run.tolist()
        self.run_before = model.sums["run"].tolist()
        self.latency = model.sums["latency"].tolist()
        self.processes = model.processes
        self.starting = 0
        self.is_call = model.graph.is_call.tolist()
        self.stays = model.stays.tolist()
        many = change.workers
        self.free = {
            name: amount if name.startswith("actor ") else min(amount * many, _FREE_MAX)
            for name, amount in model.capacity.items()
        }
        count = model.graph.count
        self.missing = np.bincount(model.head[model.graph.argument_of[:, 1]], minlength=count).tolist()
        self.feeds: dict[int, list[int]] = {}
        for producer, consumer in model.head[model.graph.argument_of].tolist():
            self.feeds.setdefault(producer, []).append(consumer)
        self.queues: dict[str, deque[tuple[int, int]]] = {}
        # As the scheduler has it, a demand is of one owner and one shape, and who holds least comes first.
        self.keys = [
            f"{context}|" + "|".join(f"{n}:{v}" for n, v in sorted(need.items()))
            for context, need in zip(model.graph.context.tolist(), model.need, strict=True)
        ]
        self.held: dict[str, int] = {}
        self.done = [False] * count
        self.submitted = [False] * count
        self.step: dict[int, int] = {}
        self.waiters: dict[int, list[int]] = {}
        self.wanted: dict[int, list[int]] = {}
        self.heap: list[tuple[float, int, int, int]] = []
        self.order = 0
        self.now = 0.0
        self.last = 0.0

    def run(self) -> float:
        count = self.model.graph.count
        for seconds in self.model.coming:
            self.starting += 1
            self._at(seconds, 3, 0)
        for number in range(len(self.model.graph.drivers)):
            self._advance(count + number)
        while self.heap:
            self.now, _, what, which = heapq.heappop(self.heap)
            if what == 0:
                self._act(which)
            elif what == 1:
                self._ended(which)
            elif what == 2:
                self._started(which)
            else:
                self.starting -= 1
                self.processes += 1
                self._place()
        return self.last

    def _at(self, seconds: float, what: int, which: int) -> None:
        self.order += 1
        heapq.heappush(self.heap, (self.now + seconds, self.order, what, which))

    # --- contexts: 0 an action is due --------------------------------------------------------------------------

    def _speed(self, context: int) -> float:
        """By how much computing in a context is shorter."""
        if context >= self.model.graph.count:
            return 1.0 / self.change.driver
        before = self.run_before[context]
        return self.run_seconds[context] / before if before > 0 else 1.0

    def _advance(self, context: int) -> None:
        """The computing before a context's next action begins."""
        step, program = self.step.get(context, 0), self.model.program.get(context, [])
        if step < len(program):
            self._at(program[step][0] * self._speed(context), 0, context)
        elif context < self.model.graph.count:
            self._at(self.model.tail.get(context, 0.0) * self._speed(context), 1, context)
        else:
            self.last = max(self.last, self.now)

    def _act(self, context: int) -> None:
        step = self.step.get(context, 0)
        what = self.model.program[context][step][1]
        self.step[context] = step + 1
        if what >= 0:
            self.submitted[what] = True
            if not self.missing[what]:
                self._ready(what)
            self._advance(context)
            return
        tasks, need, _ = self.model.awaited[-1 - what]
        open_ = [task for task in tasks if not self.done[task]]
        left = need - (len(tasks) - len(open_))
        if left <= 0:
            self._advance(context)
            return
        if context < self.model.graph.count:
            self._give(context, only="CPU")
        self.wanted[context] = [left, -1 - what]
        for task in open_:
            self.waiters.setdefault(task, []).append(context)

    # --- tasks: 3 a process is there, 2 a task begins, 1 it ends ---------------------------------------------

    def _ready(self, task: int) -> None:
        key = self.keys[task]
        self.order += 1
        queue = self.queues.setdefault(key, deque())
        queue.append((self.order, task))
        if len(queue) == 1:
            self._place()

    def _place(self) -> None:
        """Give what is free to whoever has waited longest and fits."""
        while True:
            best, least = None, (0, 0)
            for key, queue in self.queues.items():
                turn = self.held.get(key, 0), queue[0][0]
                if (best is None or turn < least) and self._fits(queue[0][1]):
                    best, least = queue, turn
            if best is None:
                return
            if not self.is_call[best[0][1]]:
                if not self.processes:
                    for _ in range(self._wanted_processes() - self.starting):
                        self.starting += 1
                        self._at(self.model.process_seconds, 3, 0)
                    # Calls of actors need none.
                    best = next((q for q in self.queues.values() if self._called(q[0][1])), None)
                    if best is None:
                        return
                else:
                    self.processes -= 1
            _, task = best.popleft()
            key = self.keys[task]
            if not best:
                del self.queues[key]
            self.held[key] = self.held.get(key, 0) + 1
            for name, amount in self.model.need[task].items():
                self.free[name] -= amount
            self._at(self.latency[task], 2, task)

    def _wanted_processes(self) -> int:
        """How many processes would have work now."""
        wanted, cpus = 0, self.free.get("CPU", 0.0)
        for queue in self.queues.values():
            if not self.is_call[queue[0][1]] and self._fits(queue[0][1]):
                each = self.model.need[queue[0][1]].get("CPU", 0.0)
                wanted += min(len(queue), int(cpus / each)) if each else len(queue)
        return max(wanted, 1)

    def _called(self, task: int) -> bool:
        return bool(self.is_call[task]) and self._fits(task)

    def _fits(self, task: int) -> bool:
        return all(self.free.get(name, 0.0) >= amount - 1e-9 for name, amount in self.model.need[task].items())

    def _started(self, task: int) -> None:
        if task in self.model.program:
            self._advance(task)
        else:
            self._at(self.fixed[task] + self.run_seconds[task], 1, task)

    def _give(self, task: int, only: str = "") -> None:
        for name, amount in self.model.need[task].items():
            if not only or name == only:
                self.free[name] = self.free.get(name, 0.0) + amount
        self._place()

    def _ended(self, task: int) -> None:
        self.done[task] = True
        self.last = max(self.last, self.now)
        self.held[self.keys[task]] -= 1
        if not self.is_call[task] and not self.stays[task]:
            self.processes += 1
        self._give(task)
        for consumer in self.feeds.get(task, ()):
            self.missing[consumer] -= 1
            if not self.missing[consumer] and self.submitted[consumer]:
                self._ready(consumer)
        for context in self.waiters.pop(task, ()):
            wanted = self.wanted.get(context)
            if wanted is None:
                continue
            wanted[0] -= 1
            if wanted[0] == 0:
                del self.wanted[context]
                if context < self.model.graph.count and "CPU" in self.model.need[context]:
                    # It goes on at once, as the scheduler has it: its CPU may be taken twice for a while.
                    self.free["CPU"] -= self.model.need[context]["CPU"]
                news = self.model.awaited[wanted[1]][2]
                step, program = self.step.get(context, 0), self.model.program.get(context, [])
                speed = self._speed(context)
                if step < len(program):
                    self._at(news + program[step][0] * speed, 0, context)
                elif context < self.model.graph.count:
                    self._at(news + self.model.tail.get(context, 0.0) * speed, 1, context)
                else:
                    self.last = max(self.last, self.now + news)
