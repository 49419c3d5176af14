"""Table 4: simulations of different length, in rounds with a barrier or one after the other as CPUs become free.

n CPUs run 3 n simulations. The barrier starts n, waits for all, and again; without it each that ends is followed by the
next. On one and two CPUs they compute (a pendulum); on more they only take the time, as machines of their own would.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import obsray
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Result, Row, Series, between, series_of, significant

ROUNDS = 3
MEAN_STEPS = 1_000
#: What a step takes where nothing is computed.
STEP_SECONDS = 50e-6
BARRIER, FREE = "rounds with a barrier", "each when a CPU is free"
PAPER = {1: "22.6 K, 22.3 K", 16: "208 K, 290 K", 256: "2.16 M, 4.03 M"}


@obsray.remote
def waits(steps: int) -> int:
    time.sleep(steps * STEP_SECONDS)
    return steps


@obsray.remote
def pendulum(steps: int) -> int:
    """A pendulum with a motor that always pushes the way it swings."""
    angle, speed, done = math.pi, 0.01, 0
    for _ in range(steps):
        push = 2.0 if speed > 0 else -2.0
        speed = max(-8.0, min(8.0, speed + (15.0 * math.sin(angle) + 3.0 * push) * 0.05))
        angle += speed * 0.05
        done += math.isfinite(angle)
    return done


def lengths(count: int, variation: float, chance: random.Random) -> list[int]:
    """Steps of each simulation; ``variation``: standard deviation over mean (gamma distributed)."""
    if not variation:
        return [MEAN_STEPS] * count
    shape = variation**-2
    return [max(20, round(chance.gammavariate(shape, MEAN_STEPS / shape))) for _ in range(count)]


def with_barrier(task: Any, steps: list[int], cpus: int) -> int:
    done = 0
    for start in range(0, len(steps), cpus):
        done += sum(obsray.get([task.remote(each) for each in steps[start : start + cpus]]))
    return done


def one_by_one(task: Any, steps: list[int], cpus: int) -> int:
    """Whenever one ends, the next is started."""
    ahead = iter(steps)
    running = [task.remote(each) for _, each in zip(range(cpus), ahead, strict=False)]
    done = 0
    while running:
        (ready, *_), running = obsray.wait(running)
        done += obsray.get(ready)
        if (following := next(ahead, None)) is not None:
            running.append(task.remote(following))
    return done


def steps_per_second(way: Callable[[Any, list[int], int], int], task: Any, steps: list[int], cpus: int) -> float:
    began = time.perf_counter()
    done = way(task, steps, cpus)
    seconds = time.perf_counter() - began
    assert done == sum(steps), "a simulation is missing or ran twice"
    return done / seconds


def body(run: Run) -> Result:
    chance = random.Random(4)
    counts, variations = run.pick([1, 2, 4, 8, 16, 32], [1, 4]), run.pick([0.0, 0.25, 0.5, 1.0], [0.0, 1.0])
    repetitions = run.pick(9, 2)
    waiting: dict[str, dict[float, list[float]]] = {name: defaultdict(list) for name in (BARRIER, FREE)}
    computed: dict[str, dict[float, list[float]]] = {name: defaultdict(list) for name in (BARRIER, FREE)}
    gains: dict[float, list[float]] = defaultdict(list)
    ways = {BARRIER: with_barrier, FREE: one_by_one}
    for cpus in counts:
        obsray.init(num_cpus=cpus, include_dashboard=False)
        try:
            with_barrier(waits, [1] * 2 * cpus, cpus)
            for _ in range(repetitions):
                steps = lengths(ROUNDS * cpus, 1.0, chance)
                for name, way in ways.items():
                    waiting[name][cpus].append(steps_per_second(way, waits, steps, cpus))
                    if cpus <= 2:
                        many = [10 * each for each in steps]
                        computed[name][cpus].append(steps_per_second(way, pendulum, many, cpus))
                if cpus != counts[-1]:
                    continue
                for variation in variations:
                    steps = lengths(ROUNDS * cpus, variation, chance)
                    rates = {name: steps_per_second(way, waits, steps, cpus) for name, way in ways.items()}
                    gains[variation].append(rates[FREE] / rates[BARRIER])
        finally:
            obsray.shutdown()
        run.say(f"{cpus} CPUs: " + ", ".join(f"{name} {between(some[cpus], '/s')}" for name, some in waiting.items()))
    return result(waiting, computed, gains)


def result(
    waiting: dict[str, dict[float, list[float]]],
    computed: dict[str, dict[float, list[float]]],
    gains: dict[float, list[float]],
) -> Result:
    lines: dict[str, Series] = {name: series_of(name, some) for name, some in waiting.items()}
    most = {cpus: [cpus / STEP_SECONDS] for cpus in waiting[FREE]}
    last = int(max(most))
    gain = series_of(f"{last} CPUs", gains)
    charts = [
        Chart(
            "simulation-rate",
            "Table 4: simulated steps per second",
            Axis("CPUs", log=True),
            Axis("steps/s", log=True),
            [*lines.values(), series_of("without any waiting", most, True)],
        ),
        Chart(
            "simulation-gain",
            "Table 4: what it is worth to have no barrier",
            Axis("standard deviation of the lengths (share of their mean)"),
            Axis("steps/s without : with barrier (×)"),
            [gain],
        ),
    ]
    ratios = {int(cpus): lines[FREE].at(cpus) / lines[BARRIER].at(cpus) for cpus in most}
    shown = [cpus for cpus in (1, 16, last) if cpus in ratios]
    rows = [
        Row(f"steps/s with {cpus} CPUs: barrier, free", PAPER.get(cpus, "–"),
            f"{significant(lines[BARRIER].at(cpus))}, {significant(lines[FREE].at(cpus))}")
        for cpus in shown
    ]  # fmt: skip
    rows += [
        Row("free : barrier, most CPUs", "1.87 × (256; computed)", f"{significant(ratios[last])} × ({last})"),
        *(
            Row(f"steps/s of a pendulum that is computed, {cpus:g} CPUs: barrier, free", "–",
                f"{between(computed[BARRIER][cpus])}, {between(computed[FREE][cpus])}")
            for cpus in computed[FREE]
        ),
    ]  # fmt: skip
    claims = [
        Claim("on one CPU both are the same", f"{significant(ratios[1])} ×", 0.85 <= ratios[1] <= 1.15),
        Claim("with more CPUs the barrier costs more", f"{significant(ratios[last])} × on {last}", ratios[last] > 1.3),
        Claim(
            "the more the lengths differ, the more it is worth",
            ", ".join(f"{variation:g}: {significant(gain.at(variation))} ×" for variation in gains),
            gain.at(max(gains)) > gain.at(min(gains)),
        ),
    ]  # fmt: skip
    return Result(charts, rows, claims)
