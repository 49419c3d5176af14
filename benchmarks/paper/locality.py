"""Figure 8a: what it is worth that a task goes to the node where its argument lies.

Two nodes; each task reads one array that a task on one of them made. Either the scheduler places it, or it goes to a
node drawn by lot, as a call of an actor does, which is where it is wherever its arguments are.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np

import obsray
from benchmarks.paper.cluster import cluster, side
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Result, Row, between, series_of, significant
from obsray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

KB, MB = 10**3, 10**6
#: What fits into a store beside each other.
STORE_BYTES = 2 * 10**9
#: No task is moved for the sake of less; what has up to 100 KiB travels in the message.
NEAR_BYTES_MIN = 1 << 20
AWARE, UNAWARE = "placed by locality", "placed by lot"


@obsray.remote(num_cpus=0)
def make(size: int, seed: int) -> np.ndarray:
    return np.full(size // 8, seed, dtype=np.int64)


@obsray.remote
def use(array: np.ndarray) -> int:
    """The answer needs both ends of the array."""
    return int(array[0]) + int(array[-1])


def objects(size: int, count: int, chance: random.Random) -> list[tuple[int, Any]]:
    """(seed, reference) of arrays that lie on either node, half of them on each, in mixed order."""
    made = []
    for number in range(count):
        seed = chance.randrange(10**6)
        made.append((seed, make.options(resources={side(number % 2): 0.001}).remote(size, seed)))
    # Not fetched: reading one here would bring it to the head's node.
    obsray.wait([ref for _, ref in made], num_returns=count, fetch_local=False)
    chance.shuffle(made)
    return made


def latencies(task: Any, made: list[tuple[int, Any]]) -> list[float]:
    """Seconds from the call to its answer, one task at a time; ``task`` says which function to call."""
    found = []
    for seed, ref in made:
        remote = task()
        began = time.perf_counter()
        answer = obsray.get(remote.remote(ref))
        found.append(time.perf_counter() - began)
        assert answer == 2 * seed, f"a task read {answer / 2}, not {seed}"
    return found


def body(run: Run) -> Result:
    sizes = run.pick([100 * KB, MB, 2 * MB, 10 * MB, 50 * MB, 100 * MB], [100 * KB, 10 * MB])
    repetitions, count = run.pick(5, 2), run.pick(20, 4)
    chance = random.Random(8)
    aware: dict[float, list[float]] = defaultdict(list)
    unaware: dict[float, list[float]] = defaultdict(list)
    nodes = [{"num_cpus": 1, "object_store_memory": STORE_BYTES, "resources": {side(number): 1}} for number in range(2)]
    with cluster(nodes) as (_, started):
        anywhere = [
            use.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=True)) for node in started
        ]
        latencies(lambda: use, objects(KB, 20, chance))
        for size in sizes:
            # Arrays of one round must fit, each on both nodes.
            tasks = max(4, min(count, int(0.6 * STORE_BYTES) // size))
            for _ in range(repetitions):
                aware[size].append(1e3 * statistics.mean(latencies(lambda: use, objects(size, tasks, chance))))
                drawn = latencies(lambda: chance.choice(anywhere), objects(size, tasks, chance))
                unaware[size].append(1e3 * statistics.mean(drawn))
            run.say(
                f"{size / MB:g} MB: {AWARE} {between(aware[size], ' ms')}, {UNAWARE} {between(unaware[size], ' ms')}"
            )
    return result(series_of(AWARE, aware), series_of(UNAWARE, unaware), sizes)


def result(aware: Any, unaware: Any, sizes: list[int]) -> Result:
    chart = Chart(
        "locality",
        "Figure 8a: mean latency of a task that reads one array",
        Axis("size of the array (bytes)", log=True, values="bytes"),
        Axis("mean latency (ms)", log=True),
        [aware, unaware],
    )
    large = [size for size in sizes if size >= NEAR_BYTES_MIN]
    flat = max(aware.at(size) for size in large) / min(aware.at(size) for size in large)
    worst = {size: unaware.at(size) / aware.at(size) for size in large if size >= 10 * MB}
    rows = [
        Row(f"latency by lot : by locality, {size // MB} MB", "10 – 100 ×", f"{significant(ratio)} ×")
        for size, ratio in worst.items()
    ]
    claims = [
        Claim(
            "with locality, latency does not depend on the size (from 1 MiB)",
            f"varies by {significant(flat)} ×, sizes by {max(large) / min(large):.0f} ×",
            flat < 4,
        ),
        Claim(
            "without it, 1 to 2 orders of magnitude slower for the largest arrays",
            f"{significant(max(worst.values()))} ×",
            max(worst.values()) >= 5,
        ),
    ]
    return Result([chart], rows, claims)
