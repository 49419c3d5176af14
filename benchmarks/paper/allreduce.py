"""Figure 12: a ring allreduce made of tasks, by size, and what it costs if each task is scheduled late.

As in the paper the ring consists of tasks: in each of 2 (N - 1) rounds every member adds (or takes over) the part that
its neighbour's task of the round before returned. Delay is added to each of them before it begins. Beside it stand
``obsray.util.collective``, whose members talk to each other without tasks, and a ring of plain processes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np

import obsray
from benchmarks.paper import bare_ring, scales
from benchmarks.paper.cluster import cluster, side
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Result, Row, between, series_of, significant
from obsray.util import collective

KB, MB = 10**3, 10**6
MEMBERS = 4
ROUNDS = 2 * (MEMBERS - 1)
TOTAL = MEMBERS * (MEMBERS - 1) / 2
PAPER = "~200 ms (16 nodes, 25 Gbit/s)"
TASKS, COLLECTIVE, BARE = "ring of tasks", "obsray.util.collective", "plain processes over TCP"


class Member:
    """One copy of the array: member ``rank`` begins with an array full of its rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        collective.init_collective_group(MEMBERS, rank, group_name="ring")

    def load(self, size: int) -> None:
        self.parts = np.array_split(np.full(size // 8, float(self.rank)), MEMBERS)

    def first(self) -> np.ndarray:
        """The part that goes to the neighbour first."""
        return self.parts[self.rank]

    def step(self, number: int, incoming: np.ndarray, delay: float) -> np.ndarray | None:
        """Round ``number``, after ``delay`` seconds: what goes on to the neighbour, if there is another round."""
        if delay:
            time.sleep(delay)
        index = (self.rank - number - 1) % MEMBERS
        if number < MEMBERS - 1:
            self.parts[index] += incoming
        else:
            self.parts[index][:] = incoming
        return self.parts[index] if number < ROUNDS - 1 else None

    def check(self) -> bool:
        return all(part[0] == TOTAL and part[-1] == TOTAL and len(part) for part in self.parts)

    def allreduce(self, size: int) -> tuple[float, float, bool]:
        """When the collective began and ended here, and whether the sum is right."""
        array = np.full(size // 8, float(self.rank))
        collective.barrier("ring")
        began = time.monotonic()
        collective.allreduce(array, "ring")
        return began, time.monotonic(), bool(array[0] == TOTAL and array[-1] == TOTAL)


RemoteMember: Any = obsray.remote(num_cpus=0)(Member)


def task_ring(members: list[Any], size: int, delay: float) -> float:
    """Seconds from the first call to the last answer of one allreduce."""
    obsray.get([member.load.remote(size) for member in members])
    began = time.perf_counter()
    flowing = [member.first.remote() for member in members]
    for number in range(ROUNDS):
        # Each member takes what its left neighbour gave.
        flowing = [member.step.remote(number, flowing[rank - 1], delay) for rank, member in enumerate(members)]
    assert obsray.get(flowing) == [None] * MEMBERS
    seconds = time.perf_counter() - began
    assert all(obsray.get([member.check.remote() for member in members])), "the ring gave another sum"
    return seconds


def collective_ring(members: list[Any], size: int) -> float:
    ends = obsray.get([member.allreduce.remote(size) for member in members])
    assert all(right for _, _, right in ends), "the collective gave another sum"
    return float(max(end for _, end, _ in ends) - min(begin for begin, _, _ in ends))


def body(run: Run) -> Result:
    sizes = run.pick([100 * KB, MB, 10 * MB, 100 * MB], [100 * KB, MB])
    delays = [0.0, 1.0, 5.0, 10.0]
    repetitions = run.pick(5, 2)
    times: dict[str, dict[float, list[float]]] = {name: defaultdict(list) for name in (TASKS, COLLECTIVE, BARE)}
    delayed: dict[int, dict[float, list[float]]] = {
        size: defaultdict(list) for size in run.pick([100 * KB, MB, 10 * MB], [100 * KB])
    }
    for size in sizes:
        # The first one opens windows and touches pages.
        times[BARE][size] = [1e3 * seconds for seconds in bare_ring.times(MEMBERS, size, repetitions + 1)[1:]]
    nodes = [{"num_cpus": 1, "resources": {side(rank): 1}} for rank in range(MEMBERS)]
    with cluster(nodes):
        members = [RemoteMember.options(resources={side(rank): 0.1}).remote(rank) for rank in range(MEMBERS)]
        for size in sizes:
            task_ring(members, size, 0), collective_ring(members, size)
            for _ in range(repetitions):
                times[TASKS][size].append(1e3 * task_ring(members, size, 0))
                times[COLLECTIVE][size].append(1e3 * collective_ring(members, size))
            run.say(
                f"{size / MB:g} MB: "
                + ", ".join(f"{name} {between(some[size], ' ms')}" for name, some in times.items())
            )
        for size, some in delayed.items():
            task_ring(members, size, 0)
            for _ in range(repetitions):
                for delay in delays:
                    some[delay].append(1e3 * task_ring(members, size, delay / 1e3))
            run.say(
                f"{size / MB:g} MB, delayed: " + ", ".join(f"+{delay:g} ms {between(some[delay])}" for delay in delays)
            )
    return result(times, delayed)


def written(size: float) -> str:
    return scales.written(size, "bytes")


def result(times: dict[str, dict[float, list[float]]], delayed: dict[int, dict[float, list[float]]]) -> Result:
    by_size = [series_of(name, some) for name, some in times.items()]
    by_delay = {size: series_of(written(size), some) for size, some in delayed.items()}
    small = min(by_delay)
    longest = max(delayed[small])
    expected = {delay: [by_delay[small].at(0) + ROUNDS * delay] for delay in delayed[small]}
    slope = (by_delay[small].at(longest) - by_delay[small].at(0)) / longest
    charts = [
        Chart(
            "allreduce-size",
            f"Figure 12a: allreduce among {MEMBERS} members, each on a node",
            Axis("size of the array (bytes)", log=True, values="bytes"),
            Axis("time of one allreduce (ms)", log=True),
            by_size,
        ),
        Chart(
            "allreduce-delay",
            "Figure 12b: allreduce of tasks that are scheduled late",
            Axis("delay added to each task (ms)"),
            Axis("time of one allreduce (ms)"),
            [*by_delay.values(), series_of(f"{written(small)} + {ROUNDS} rounds × delay", expected, True)],
        ),
    ]
    sizes, at = sorted(times[TASKS]), {series.title: series for series in by_size}
    large, least = sizes[-1], sizes[0]
    rows = [
        Row(f"{name}, {written(large)}", PAPER if name == TASKS else "–", between(some[large], " ms"))
        for name, some in times.items()
    ]
    rows.append(Row("tasks in one allreduce", "32 rounds × 16", f"{ROUNDS} rounds × {MEMBERS}"))
    factors = {delay: by_delay[small].at(delay) / by_delay[small].at(0) for delay in (1.0, 5.0, 10.0)}
    rows += [
        Row(f"slower with {delay:g} ms a task, {written(small)}", "~2 × with a few ms", f"{significant(factor)} ×")
        for delay, factor in factors.items()
    ]
    ratio = at[TASKS].at(least) / at[BARE].at(least)
    ratios = {name: at[name].at(large) / at[BARE].at(large) for name in (COLLECTIVE, TASKS)}
    claims = [
        Claim(
            f"each ms of delay costs 2 (N - 1) = {ROUNDS} ms",
            f"{significant(slope)} ms per ms",
            0.8 * ROUNDS <= slope <= 1.4 * ROUNDS,
        ),
        Claim("a few ms make it 2 × slower", f"{significant(factors[5.0])} × with 5 ms", factors[5.0] >= 2),
        Claim("small arrays: the ring without tasks wins", f"tasks take {significant(ratio)} × as long", ratio > 1),
        Claim(
            "large arrays: at least as fast as the message-passing ring",
            f"collective takes {significant(ratios[COLLECTIVE])} ×, tasks {significant(ratios[TASKS])} × as long",
            min(ratios.values()) <= 1.0,
        ),
    ]
    return Result(charts, rows, claims)
