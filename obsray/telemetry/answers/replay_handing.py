"""What it takes to hand out short tasks: the work of a driver and of workers for each, beyond the task itself.

A driver pushes tasks shorter than ``pipeline_seconds`` ahead of its workers' answers. So a worker waits for the
next one only while the driver has more results to look at than it can, and how long it waited in the run says nothing
of what it costs. What does is taken from the run: the driver's time on a processor while it waited (it looks at results
and sends tasks meanwhile), and a worker's from one task to the next that was already there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from obsray.config import Config
from obsray.telemetry.answers.graph import SLOT, Graph
from obsray.telemetry.store import joined
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.answers.replay_model import Model
    from obsray.telemetry.columns import Array

#: A driver's time on processors is known from so many looks at it, in its waits and beside them.
_LOOKS_MIN = 5
#: If fewer results come in its waits, what it computes for one matters little.
_HEARD_MIN = 0.2
#: What few tasks take longer is what somebody else had the processor for: left out of means.
_KEPT = 0.99
#: Whose tasks are on a processor for more of their time waits for one in the rest of it.
_COMPUTES = 0.8


class Handing:
    """``short``: of each task whether it is one of those that drivers push ahead; none if what a driver computes for
    them is not known.

    Of each task of the replay: ``work``: what its worker computes for it beyond its code; ``cpu``: its code's time on a
    processor; ``rest``: what it took beyond that; ``idle``: how long its worker waited for it although the driver had
    time; ``apart``: its latency where it did not follow another one.
    """

    def __init__(self, model: Model) -> None:
        graph = model.graph
        config = graph.view.store.session().get("config") or {}
        self.ahead_seconds = float(config.get("pipeline_seconds", Config().pipeline_seconds))
        self.ahead_max = int(config.get("pipeline_tasks_max", Config().pipeline_tasks_max))
        self.drivers = _of_drivers(graph)
        #: By task of the graph.
        self.chosen: Array = self._chosen(model) if self.drivers.known else np.zeros(graph.count, np.bool_)
        chosen = self.chosen
        self.short: list[bool] = chosen[model.heads].tolist()
        self.any = bool(chosen.any())
        none = np.zeros(graph.count)
        work, cpu, rest, idle = self._seconds(graph, chosen) if self.any else (none,) * 4
        self.work: list[float] = model.summed(work).tolist()
        self.cpu: list[float] = model.summed(cpu).tolist()
        self.rest: list[float] = model.summed(rest).tolist()
        self.idle: list[float] = model.summed(idle).tolist()
        alone = np.bincount(model.number, minlength=model.count)[model.number] == 1
        apart = np.where(alone & (graph.bound != SLOT), np.maximum(graph.start - graph.bound_at, 0) / NS, 0.0)
        self.apart: list[float] = model.summed(np.where(chosen, apart, 0.0)).tolist()

    def _chosen(self, model: Model) -> Array:
        graph = model.graph
        by_driver = (graph.context >= graph.count) & ~graph.is_call & ~model.stays[model.number]
        run = graph.seconds("run_seconds")
        found = np.zeros(graph.count, np.bool_)
        for code in np.unique(graph.name[by_driver]).tolist():
            mine = by_driver & (graph.name == code)
            found |= mine & (_mean(run[mine]) <= self.ahead_seconds)
        apart = [*model.program, *model.tries, *model.items]
        found &= ~np.isin(model.number, apart)
        return found

    def _seconds(self, graph: Graph, chosen: Array) -> tuple[Array, Array, Array, Array]:
        """``work``, ``cpu``, ``rest`` and ``idle`` of each task of the graph."""
        arrived = graph._of("arrived_at")
        behind = chosen & (graph.bound == SLOT)
        gap = np.maximum(graph.start - graph.bound_at, 0) / NS
        there = behind & (arrived <= graph.bound_at)
        late = behind & ~there
        after = np.maximum(graph.start - np.maximum(arrived, graph.bound_at), 0) / NS
        share = late.sum() / max(behind.sum(), 1)
        between = _mean(gap[there]) * (1 - share) + _mean(after[late]) * share
        # What it waited for a task while the driver had nothing to do is how long one is on its way.
        away = np.maximum(gap - after, 0)[late].mean() * share * (1.0 - self.drivers.busy) if late.any() else 0.0
        beside = graph.seconds("deserialize_seconds") + graph.seconds("store_seconds")
        run, computed = graph.seconds("run_seconds"), graph.seconds("cpu_seconds")
        work, cpu, rest, idle = np.zeros((4, graph.count))
        for code in np.unique(graph.name[chosen]).tolist():
            mine = chosen & (graph.name == code)
            work[mine] = _mean(beside[mine]) + np.where(behind[mine], between, 0.0)
            on, whole = computed[mine], run[mine]
            if np.array_equal(on, whole):  # too short for its processor time to be looked at
                cpu[mine] = np.minimum(whole, np.percentile(whole, 100 * _KEPT))
            else:
                cpu[mine] = np.minimum(on, whole)
                if np.median(on) < _COMPUTES * np.median(whole):
                    rest[mine] = np.maximum(whole - on, 0.0)
        idle[behind] = away
        return work, cpu, rest, idle

    def ahead(self, run_seconds: float) -> int:
        """How many tasks that take so long a driver has under way with a worker at most."""
        return int(min(self.ahead_max, 1 + self.ahead_seconds / max(run_seconds, 1e-9)))


def _mean(seconds: Array) -> float:
    """The mean of all but the longest few."""
    kept = np.sort(seconds)[: max(1, int(len(seconds) * _KEPT))]
    return float(kept.mean()) if len(kept) else 0.0


class OfDrivers(NamedTuple):
    """What looks at the stacks of drivers tell: what they computed for each result that came in their waits (seconds);
    which shares of their time beside waits their programs computed, and they did nothing; for which share of their
    waits they were on a processor; and whether there were enough looks."""

    heard_seconds: float
    computing: float
    resting: float
    busy: float
    known: bool


def _of_drivers(graph: Graph) -> OfDrivers:
    seen = joined(graph.view.store.select("stack_sampled"), "stack_sampled")
    begin, (end, _) = int(graph.submitted.min()), graph.finish()
    #: Looks, seconds and seconds on a processor: in waits and beside them.
    found, heard, beside_heard, beside_seconds = np.zeros((2, 3)), 0, 0, 0.0
    for number, driver in enumerate(graph.drivers):
        mine = seen["process"] == np.array(driver, seen["process"].dtype)
        until = (seen["time_ns"][mine].astype(np.int64) - begin) / NS
        lasted = np.maximum(seen["seconds"][mine].astype(np.float64), 1e-9)
        its = graph.wait_context == graph.count + number
        waits = np.stack([graph.wait_start[its], graph.wait_end[its]], axis=1)
        ends = np.sort(graph.end[graph.context == graph.count + number])
        of_waits = int((np.searchsorted(ends, waits[:, 1], "right") - np.searchsorted(ends, waits[:, 0])).sum())
        heard, beside_heard = heard + of_waits, beside_heard + len(ends) - of_waits
        beside_seconds += (end - begin - int((waits[:, 1] - waits[:, 0]).sum())) / NS
        known = (waits[np.argsort(waits[:, 0])].ravel() - begin) / NS
        total = np.repeat(np.concatenate([[0.0], np.cumsum(known[1::2] - known[::2])]), 2)[1:-1]
        waited = np.interp(until, known, total) - np.interp(until - lasted, known, total) if len(known) else 0 * until
        within = np.clip(np.minimum(until, (end - begin) / NS) - np.maximum(until - lasted, 0.0), 0.0, lasted)
        of_looks = np.stack([seen[name][mine].astype(np.float64) for name in ("samples", "seconds", "cpu_seconds")])
        waited = np.clip(waited / lasted, 0.0, 1.0)
        found[0] += (of_looks * waited).sum(axis=1)
        found[1] += (of_looks * np.clip(within / lasted - waited, 0.0, 1.0)).sum(axis=1)
    inside, beside = found
    each = float(inside[2]) / heard if heard else 0.0
    busy = min(1.0, float(inside[2] / inside[1])) if inside[1] else 0.0
    # Where next to nothing comes in waits a driver that submits is what takes the time, with all that it does beside.
    alone = heard < _HEARD_MIN * (heard + beside_heard)
    looked = bool(inside[0] >= _LOOKS_MIN and heard > 0)
    if not looked:
        each, busy = 0.0, float(alone)
    if beside[0] < _LOOKS_MIN or beside_seconds <= 0:
        return OfDrivers(each, 1.0, 0.0, busy, looked)
    # What comes beside waits is looked at by another thread than the program's.
    computing = min(1.0, float(beside[2] / beside[1]))
    resting = max(0.0, 1.0 - computing - each * beside_heard / beside_seconds)
    return OfDrivers(each, computing, resting, busy, looked or alone)
