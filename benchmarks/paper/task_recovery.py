"""Figure 11a: chains of tasks while nodes are killed and others come.

Each task waits 100 ms and depends on the one before it in its chain, whose result lies in the store of the node where
it ran. What was on a killed node is computed again, as far as something still depends on it.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import obsray
from benchmarks.paper.cluster import cluster
from benchmarks.paper.executions import Execution, note, noted, rate
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Mark, Point, Result, Row, Series, significant
from obsray.cluster_utils import Cluster, ClusterNode

TASK_SECONDS = 0.1
#: More than travels in a message, so that it lies on one node.
RESULT_ITEMS = 25_000
NODES, CPUS, CHAINS = 4, 2, 16
BIN_SECONDS = 1.0

#: (seconds, nodes that come or go): what happens when.
Plan = list[tuple[float, int]]


@obsray.remote(max_retries=20)
def link(before: np.ndarray | None, chain: int, step: int, path: str) -> np.ndarray:
    """The chain's value so far, plus one."""
    time.sleep(TASK_SECONDS)
    note(path, chain, step)
    return np.full(RESULT_ITEMS, 1 if before is None else before[0] + 1)


class Changes(threading.Thread):
    """Kills and adds nodes as planned; ``happened`` has when, and how many there are from then on."""

    def __init__(self, made: Cluster, nodes: list[ClusterNode], plan: Plan) -> None:
        super().__init__()
        self.made, self.nodes, self.plan = made, nodes, plan
        self.over = threading.Event()
        self.began = time.monotonic()
        self.happened: list[tuple[float, int]] = [(0.0, len(nodes))]
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for at, change in self.plan:
                if self.over.wait(max(0.0, self.began + at - time.monotonic())):
                    return
                if change < 0:
                    self.made.remove_node(self.nodes.pop(), allow_graceful=False)
                else:
                    self.nodes.append(self.made.add_node(num_cpus=CPUS))
                self.happened.append((time.monotonic() - self.began, len(self.nodes)))
        except BaseException as error:
            self.error = error


def body(run: Run) -> Result:
    plan: Plan = run.pick([(6, -1), (10, -1), (14, -1), (19, 1), (22, 1), (25, 1)], [(1.5, -1), (3.0, 1)])
    length = run.pick(115, 12)
    described = [{"num_cpus": 0}, *({"num_cpus": CPUS} for _ in range(NODES))]
    with tempfile.TemporaryDirectory() as folder, cluster(described) as (made, nodes):
        path = Path(folder) / "executions"
        changes = Changes(made, nodes[1:], plan)
        changes.start()
        try:
            # Every reference is held, as in the paper, where nothing is collected.
            chains: list[list[Any]] = [[] for _ in range(CHAINS)]
            for step in range(length):
                for chain, refs in enumerate(chains):
                    refs.append(link.remote(refs[-1] if refs else None, chain, step, str(path)))
            left = [refs[-1] for refs in chains]
            while left:
                _, left = obsray.wait(left, num_returns=len(left), timeout=5, fetch_local=False)
                run.say(f"{len(noted(path))} executions of {CHAINS * length} tasks, {len(changes.nodes)} nodes")
            for refs in chains:
                assert obsray.get(refs[-1])[0] == length, "a chain lost or repeated a task"
        finally:
            changes.over.set()
            changes.join()
        if changes.error is not None:
            raise changes.error
        executions = noted(path)
    assert len({(each.who, each.what) for each in executions}) == CHAINS * length
    return result(executions, changes)


def steps(happened: list[tuple[float, int]], seconds: float) -> list[Point]:
    """What the CPUs that are there allow, as a curve with corners."""
    points, before = [], happened[0][1]
    for at, nodes in [*happened, (seconds, happened[-1][1])]:
        points += [Point(at, [before * CPUS / TASK_SECONDS]), Point(at, [nodes * CPUS / TASK_SECONDS])]
        before = nodes
    return points


def nodes_at(happened: list[tuple[float, int]], at: float) -> int:
    return next(nodes for since, nodes in reversed(happened) if since <= at)


def result(executions: list[Execution], changes: Changes) -> Result:
    began, happened = changes.began, changes.happened
    seconds = executions[-1].at - began
    new = rate([each.at for each in executions if not each.again], began, seconds, BIN_SECONDS)
    again = rate([each.at for each in executions if each.again], began, seconds, BIN_SECONDS)
    marks = [Mark(at, f"{nodes} nodes") for at, nodes in happened[1:]]
    # Only seconds in which nothing changed: those tell what a node does.
    quiet = [at for at in new if all(not -1.6 < change - at < 0.6 for change, _ in happened)]
    each_node = {at: (new[at] + again[at]) / nodes_at(happened, at) for at in quiet}
    charts = [
        Chart(
            "task-recovery",
            "Figure 11a: tasks executed while nodes are killed and come back",
            Axis("time (s)"),
            Axis("tasks/s"),
            [
                Series("for the first time", [Point(at, [value]) for at, value in new.items()]),
                Series("again, because the result was lost", [Point(at, [value]) for at, value in again.items()]),
                Series("what the CPUs allow", steps(happened, seconds), True),
            ],
            marks,
        )
    ]
    repeated, total = sum(each.again for each in executions), len(executions)
    first, last = happened[1][0], happened[-1][0]
    before = [new[at] + again[at] for at in new if 1 < at < first - 0.5] or [0.0]
    after = [new[at] for at in new if last + 1.5 < at < seconds - 1.5] or [0.0]
    back = statistics.median(after) / statistics.median(before) if before != [0.0] else 0.0
    values = list(each_node.values()) or [0.0]
    low, high = (statistics.quantiles(values, n=10)[index] if len(values) > 1 else values[0] for index in (0, -1))
    rows = [
        Row("nodes from then on", "less at 25, 50, 100 s", ", ".join(f"{at:.0f} s: {n}" for at, n in happened[1:])),
        Row("tasks, and executions that were repetitions", "–", f"{total - repeated:,}, {repeated:,}"),
        Row("tasks a second and node (10th to 90th percentile)", "stable", f"{significant(low)} – {significant(high)}"),
        Row("tasks a second before the first and after the last change", "the same",
            f"{significant(statistics.median(before))}, {significant(statistics.median(after))}"),
    ]  # fmt: skip
    claims = [
        Claim("lost results are computed again, and every chain ends with the right value", f"{repeated} again", True),
        Claim("throughput returns to what it was", f"{100 * back:.0f} %", back >= 0.8),
        Claim(
            "the throughput of each node is stable throughout",
            f"median {significant(statistics.median(values))}/s of {CPUS / TASK_SECONDS:g} possible, "
            f"10th percentile {significant(low)}/s",
            low >= 0.6 * statistics.median(values),
        ),
    ]
    return Result(charts, rows, claims)
