"""A recorded job as a replay sees it: programs of contexts, seconds of tasks, places, and what each wait was about.

Tasks are numbered anew: of large jobs neighbours that are alike are one (``TASKS_MAX``). A context is a number of a
task, or ``count + n`` for driver n. Seconds count from the job's first submission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.answers.attempts import Attempts
from obsray.telemetry.answers.graph import EPSILON_NS, Graph
from obsray.telemetry.answers.offered import offered
from obsray.telemetry.events import TaskType, WaitKind
from obsray.telemetry.queue_time import amounts
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array

#: Tasks that are replayed one by one; of more, neighbours that are alike become one.
TASKS_MAX = 10_000
#: A wait for any of several looks at so many more tasks than it needs, the next to end.
_NEXT = 256

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
        self._awaited()
        self._programs()
        self.tries = self._tries()

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
        self.run = self.summed(self.run_each)
        self.fetch = self.summed(graph.seconds("fetch_seconds"))
        self.other = self.summed(graph.seconds("deserialize_seconds") + graph.seconds("store_seconds"))
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
        self.needs: list[dict[str, float]] = []
        self.hosts: list[list[int]] = []
        for number, code in enumerate(codes.tolist()):
            text = view.store.texts[code]
            need = amounts(text)
            seen = np.unique(self.node[self.shape == number]).tolist()
            only_amounts = len(text.split()) == len(need)
            able = [
                at for at, free in enumerate(self.capacity)
                if at in seen or (only_amounts and all(free.get(name, 0.0) >= value for name, value in need.items()))
            ]  # fmt: skip
            known = {name for at in able for name in self.capacity[at]}
            # What was lent or is shared by actors may be less than one needs: one at a time, then.
            most = {name: max(self.capacity[at].get(name, 0.0) for at in able) for name in known}
            self.needs.append({name: min(value, most[name]) for name, value in need.items() if name in known})
            self.hosts.append(able)

    def _actors(self, marks: list[bytes]) -> None:
        """What actors hold tasks do not have; ``slots``: how many calls each actor runs at a time."""
        view, graph = self.graph.view, self.graph
        for row in view.actor_table.rows.values():
            if not row["placed_at_ns"] or (row["died_at_ns"] or self.finish) < self.finish:
                continue
            worker = bytes.fromhex(row.get("worker_id") or "")
            at = marks.index(ids.mark_of(worker)) if worker and ids.mark_of(worker) in marks else 0
            for name, value in amounts(row["shape"]).items():
                if name in self.capacity[at]:
                    least = min(1.0, self.capacity[at][name]) if name == "CPU" else 0.0
                    self.capacity[at][name] = max(self.capacity[at][name] - value, least)
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

    def _processes(self) -> None:
        """How many processes there were when the job began, when those come that were starting, how long one takes."""
        view = self.graph.view
        rows = [row for row in view.process_table.rows.values() if row["kind"] == "worker" and row["registered_at_ns"]]
        self.processes = sum(row["registered_at_ns"] <= self.base for row in rows)
        later = [row for row in rows if row["starting_at_ns"] and row["registered_at_ns"] > self.base]
        self.coming = [
            (row["registered_at_ns"] - self.base) / NS for row in later if row["starting_at_ns"] <= self.base
        ]
        took = [(row["registered_at_ns"] - row["starting_at_ns"]) / NS for row in later]
        self.process_seconds = float(np.median(took)) if took else 0.0

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
