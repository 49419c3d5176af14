"""How much processor time a job took: its driver's, and that of everything on its machine. No replay is shorter.

Processes are sampled about once a second. What lies between two samples is spread evenly, what lies beyond them is
taken to have gone on in the same way, for a little more than the time from one sample to the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray.telemetry.answers.graph import CAPACITY, SLOT, Graph
from obsray.telemetry.explain import duration
from obsray.telemetry.store import joined
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.answers.replay import Change, Replay
    from obsray.telemetry.answers.replay_model import Model
    from obsray.telemetry.columns import Array

#: Samples have to cover this share of a job.
COVERED = 0.5
#: So far beyond its samples a process is taken to have gone on.
_BEYOND_NS = 3 * NS // 2
#: Whoever is on a processor for this share of the time is what a job waits for.
BUSY = 0.8
#: With a change short tasks and whoever hands them out may use so much of what processors have before they get in each
#: other's way. In the run, where their waiting is part of what was recorded, so much times processes per processor.
SHARED, SHARED_BEFORE = 0.4, 0.5
#: So much of a driver's time between waits may be unknown before nothing is said of faster drivers.
RESTING = 0.2


class ProcessorTime:
    """Seconds of processors within a job; 0 where too little of it was sampled.

    ``driver``: of its busiest driver. ``machine``: of all processes of its only node, divided by how many processors
    there are (``processors``, 0: not told): how long it takes at least. ``known``: whether enough was sampled.
    """

    def __init__(self, graph: Graph) -> None:
        view = graph.view
        self.driver = self.machine = 0.0
        self.known, self.processors = False, 0
        begin, (end, _) = int(graph.submitted.min()), graph.finish()
        self.seconds = (end - begin) / NS
        samples = joined(view.store.select("process_sample"), "process_sample")
        if not len(samples) or end <= begin:
            return
        who = samples["worker"]
        order = np.lexsort((samples["time_ns"], who.view("<u8")))
        edges = np.flatnonzero(np.append(True, np.diff(who.view("<u8")[order]) != 0))
        total, known = 0.0, False
        for mine in np.split(order, edges[1:]):
            process = who[mine[0]].tobytes()
            times, used = samples["time_ns"][mine].astype(np.int64), samples["cpu_seconds_total"][mine]
            born = (view.process_table.rows.get(process) or {}).get("starting_at_ns") or 0
            if born and born < times[0]:
                times, used = np.append(born, times), np.append(0.0, used)
            seconds, covered = _within(times, used, begin, end)
            total += seconds
            if process in graph.drivers and covered >= COVERED * (end - begin):
                known, self.driver = True, max(self.driver, min(seconds, self.seconds))
        processors = view.store.session().get("processors")
        if known and isinstance(processors, int) and processors > 0 and len(view.cluster_table.nodes) <= 1:
            self.machine = min(total / processors, self.seconds)
            self.processors = processors
        self.known = known


def _within(times: Array, used: Array, begin: int, end: int) -> tuple[float, int]:
    """Seconds that a process used between two instants, and how many nanoseconds of that its samples cover."""
    low, high = max(begin, int(times[0])), min(end, int(times[-1]))
    if high <= low:
        return 0.0, 0
    seconds = float(np.diff(np.interp([low - begin, high - begin], times - begin, used))[0])
    from_, until = max(begin, low - _BEYOND_NS), min(end, high + _BEYOND_NS)
    if times[0] > begin and used[0] == 0.0:
        from_ = low  # it was not there before
    return max(seconds, 0.0) * (until - from_) / (high - low), high - low


def floor(model: Model, least: ProcessorTime, change: Change) -> tuple[float, str]:
    """The seconds of processors that a change leaves: of the driver, or of all there are."""
    graph = model.graph
    run, _ = model.changed(change)
    before = np.maximum(model.run, 1e-9)
    cpu = model.summed(np.minimum(graph.seconds("cpu_seconds"), model.run_each))
    saved = float((cpu * np.maximum(1 - run / before, 0)).sum()) / max(least.processors, 1)
    driver = least.driver / change.driver
    machine = least.machine - saved - (least.driver - driver) / max(least.processors, 1)
    return (machine, "cpus") if machine > driver else (driver, "driver")


def handing_out(model: Model, least: ProcessorTime, change: Change) -> str:
    """Why nothing can be told of other workers and drivers where handing out tasks is what takes the time; else ""."""
    graph, handing = model.graph, model.handing
    lined_up = np.flatnonzero(((graph.bound == SLOT) | (graph.bound == CAPACITY)) & ~graph.is_call)
    if 2 * len(lined_up) < graph.count:
        return ""
    if 2 * int(handing.chosen[lined_up].sum()) > len(lined_up):
        if change.driver == 1 or handing.drivers.resting <= RESTING:
            return ""
        return (
            f"what the driver did for {handing.drivers.resting:.0%} of its time between waits is not known: its "
            "program did not compute"
        )
    waited = np.maximum(graph.start - graph.bound_at, 0)[lined_up].mean() / NS
    worked = (graph.end - graph.start)[lined_up].mean() / NS
    if waited <= worked or (change.workers > 1 and least.driver > BUSY * least.seconds):
        return ""
    of_drivers = graph.context[lined_up] >= graph.count
    whose = (
        "the driver" if of_drivers.all() else "tasks that submit others" if not of_drivers.any() else "whoever submits"
    )
    unknown = (
        ", and what the driver computes for each is not known: its stack was looked at too rarely while it waited "
        "(profile_hz)"
        if not handing.drivers.known and of_drivers.any()
        else ""
    )
    return (
        f"a free worker got its next task after {duration(waited)} and ran it for {duration(worked)}: how fast tasks "
        f"are handed out decides, and that is work of {whose}{unknown}; put more work into each task, or run it with "
        "as many workers and compare"
    )


def crowded(replay: Replay, seconds: float) -> str:
    """Why a replay of short tasks says little because more processes compute than there are processors; else "".

    Whoever waits for a processor sends its next batch later, and others wait for that: measured, replays that know of
    the sharing alone were up to 40 % off. Not where the driver takes the time, with and without the change.
    """
    model, change = replay.model, replay.change
    handing, actual = model.handing, model.actual_seconds
    known = model.graph.view.store.session().get("processors")
    if not known or not (handing.any or change.workers < 1):
        return ""
    workers = model.cpus() * max(change.workers, 1.0)
    if workers + len(replay.lines_of) <= model.processors:
        return ""
    of_driver = max((line.seconds for line in replay.lines_of.values()), default=0.0)
    if of_driver >= BUSY * max(actual, seconds):
        return ""
    computed = model.computed_seconds + sum(line.seconds for line in replay.lines_of.values())
    would, did = computed / model.processors / seconds, computed / model.processors / actual
    rivals = max(1.0, (model.cpus() + len(replay.lines_of)) / model.processors)
    slowed = rivals > 1 and did * rivals > SHARED_BEFORE
    if not slowed and would <= SHARED:
        return ""
    beyond = f"and more at a time than there are CPUs ({model.processors})"
    if slowed:
        return (
            f"in this run tasks and driver computed for {did:.0%} of what CPUs have, {beyond}: how long each waited "
            "for one is not known, nor how long it would with other workers"
        )
    return (
        f"tasks and driver would compute for {would:.0%} of what CPUs have, {beyond}: how long each then waits for one "
        "is not known"
    )
