"""Figure 8b: tasks per second over nodes, with a submitter on each of them.

Empty tasks show what a task costs: on one machine they end where its cores do, so the CPU time of a task is shown, too,
which must not grow with the nodes. Tasks that only wait 5 ms stand for machines of their own: their CPUs are not ours.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import obsray
from benchmarks.paper.cluster import cluster, cpu_seconds, processes, side
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Result, Row, between, series_of, significant

#: The paper's example: 5 ms on a core.
TASK_SECONDS = 0.005
CPUS_OF_WAITING = 2
#: Roles that no task may pass through.
BYSTANDERS = ("node", "control store")


@obsray.remote
def nothing() -> None:
    return None


@obsray.remote
def waits() -> None:
    time.sleep(TASK_SECONDS)


@obsray.remote(num_cpus=0)
def submit(task: Any, count: int, begin: float) -> tuple[float, float, int]:
    """Calls ``task`` from this node at the agreed time; when it began and ended, and how many answers came."""
    while (left := begin - time.monotonic()) > 0:
        time.sleep(left)
    began = time.monotonic()
    answers = obsray.get([task.remote() for _ in range(count)])
    return began, time.monotonic(), answers.count(None)


def round_of(task: Any, nodes: int, count: int) -> tuple[float, float]:
    """All nodes' submitters at once: tasks per second, and seconds from the first call to the last answer."""
    begin = time.monotonic() + 0.2
    calls = [submit.options(resources={side(number): 0.001}).remote(task, count, begin) for number in range(nodes)]
    ends = obsray.get(calls)
    assert [answers for _, _, answers in ends] == [count] * nodes, "answers are missing"
    seconds = max(ended for _, ended, _ in ends) - min(began for began, _, _ in ends)
    return nodes * count / seconds, seconds


def measure(
    run: Run, task: Any, sizes: list[int], cpus: int, count: int, seen: Callable[[int, float, float], None]
) -> None:
    """``seen`` is told (nodes, tasks per second, seconds) after each round."""
    for nodes in sizes:
        described = [{"num_cpus": cpus, "resources": {side(number): 1}} for number in range(nodes)]
        with cluster(described):
            round_of(task, nodes, count // 4)
            for _ in range(run.pick(5, 2)):
                seen(nodes, *round_of(task, nodes, count))


def body(run: Run) -> Result:
    cores = len(os.sched_getaffinity(0))
    rates: dict[float, list[float]] = defaultdict(list)
    costs: dict[str, dict[float, list[float]]] = {role: defaultdict(list) for role in ("all", "bystanders")}
    busy: dict[float, list[float]] = defaultdict(list)
    waiting: dict[float, list[float]] = defaultdict(list)
    count = run.pick(10_000, 1_000)
    before: dict[str, float] = {}

    def empty_seen(nodes: int, rate: float, seconds: float) -> None:
        used = cpu_seconds(processes())
        if before:
            spent = {role: used[role] - before.get(role, 0.0) for role in used}
            costs["all"][nodes].append(1e6 * sum(spent.values()) / (nodes * count))
            costs["bystanders"][nodes].append(1e6 * sum(spent[role] for role in BYSTANDERS) / (nodes * count))
            rates[nodes].append(rate)
            busy[nodes].append(100 * sum(spent.values()) / seconds / cores)
        before.clear()
        before.update(used)

    for nodes in run.pick([1, 2, 4], [1, 2]):
        # The first round only tells what was used up to there.
        before.clear()
        measure(run, nothing, [nodes], 1, count, empty_seen)
        run.say(f"{nodes} nodes, empty tasks: {between(rates[nodes], '/s')}, {between(costs['all'][nodes], ' µs CPU')}")
    sizes = run.pick([1, 2, 4, 8], [1, 2])
    length = run.pick(600, 100)
    measure(run, waits, sizes, CPUS_OF_WAITING, length, lambda nodes, rate, _: waiting[nodes].append(rate))
    for nodes in sizes:
        run.say(f"{nodes} nodes, tasks of 5 ms: {between(waiting[nodes], '/s')}")
    return result(rates, costs, busy, waiting)


def result(rates: Any, costs: Any, busy: Any, waiting: Any) -> Result:
    ideal = {nodes: [nodes * CPUS_OF_WAITING / TASK_SECONDS] for nodes in waiting}
    long, most = series_of("tasks that wait 5 ms", waiting), series_of("the most that their CPUs allow", ideal, True)
    empty, cost = series_of("empty tasks", rates), series_of("all processes", costs["all"])
    nodes = Axis("nodes, each with a submitter", log=True)
    charts = [
        Chart("scaling-rate", "Figure 8b: tasks per second", nodes, Axis("tasks/s", log=True), [empty, long, most]),
        Chart(
            "scaling-cost",
            "Figure 8b: what an empty task costs, over nodes",
            nodes,
            Axis("CPU time per task (µs)"),
            [cost, series_of("nodes' own processes and control store", costs["bystanders"])],
        ),
    ]
    low, high = min(waiting), max(waiting)
    share = long.at(high) / long.at(low) / (high / low)
    growth = cost.at(max(rates)) / cost.at(min(rates))
    second = empty.at(sorted(rates)[1]) / empty.at(min(rates))
    full = max(value for values in busy.values() for value in values)
    rows = [
        Row("empty tasks, 1 node", "~18.5 k/s (64 vCPUs; computed)", between(rates[min(rates)], "/s")),
        Row(
            "empty tasks, most per core",
            "~290/s per vCPU (computed)",
            f"{significant(empty.peak / (os.cpu_count() or 1))}/s",
        ),
        Row(
            f"tasks of 5 ms, {high} × {CPUS_OF_WAITING} CPUs", "1.28 M/s (200 × 32 cores)", between(waiting[high], "/s")
        ),
        Row("most CPU in use with empty tasks", "–", f"{full:.0f} % of all cores"),
    ]
    claims = [
        Claim(
            f"throughput grows linearly with nodes ({low} to {high}, tasks of 5 ms)",
            f"{high} nodes do {100 * share:.0f} % of {high} × one node",
            share >= 0.8,
        ),
        Claim(
            "a task costs the same however many nodes there are",
            f"{significant(growth)} × the CPU time on {max(rates):g} nodes",
            growth <= 1.5,
        ),
        Claim(
            "no process is a bottleneck: empty tasks on 2 nodes ≥ 1.5 × on 1, until the cores are full",
            f"{significant(second)} ×, with {full:.0f} % of the cores in use",
            second >= 1.5 or full >= 85,
        ),
    ]
    return Result(charts, rows, claims)
