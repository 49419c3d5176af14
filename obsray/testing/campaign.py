"""Many runs, on as many processors as there are: each seed of some scenarios once, or twice with equal logs."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from obsray.testing.scenarios import Scenario
from obsray.testing.simulator import Result, SimulationFailed, Simulator, simulate

#: Runs make much that lives until their end: looking for what does not costs more than it finds.
GARBAGE_THRESHOLD = 50_000
#: Runs that one process is given at a time.
SHARE = 8


@dataclass(frozen=True)
class Outcome:
    """What became of one seed. ``failure`` is empty if all invariants held, and both runs were equal."""

    scenario: str
    seed: int
    seconds: float
    result: Result | None
    failure: str = ""


def attempt(
    scenario: Scenario,
    seed: int,
    twice: bool = False,
    thorough: bool = False,
    clock_ns: Callable[[], int] | None = None,
) -> Outcome:
    """Run one seed. ``twice``: once more, without looking at anything, which must be the same run."""
    began = time.perf_counter()
    result, failure = None, ""
    try:
        result = simulate(scenario, seed, thorough, clock_ns)
        if twice and (again := Simulator(scenario, seed, looks=False).run().digest) != result.digest:
            failure = (
                f"two runs of one seed differ: {result.digest} and {again}\n"
                f"  replay it: obsray sim --seed {seed} --scenario {scenario.name} --twice"
            )
    except SimulationFailed as failed:
        failure = str(failed)
    return Outcome(scenario.name, seed, time.perf_counter() - began, result, failure)


def campaign(
    pairs: Iterable[tuple[Scenario, int]], processes: int = 1, twice: bool = False, thorough: bool = False
) -> Iterator[Outcome]:
    """Run them all, in this order, and tell what became of each as soon as the ones before it are told."""
    if processes <= 1:
        for scenario, seed in pairs:
            yield attempt(scenario, seed, twice, thorough, time.perf_counter_ns)
        return
    work = [(scenario, seed, twice, thorough) for scenario, seed in pairs]
    # Not forked: a fork would begin with whatever threads and locks this process has.
    with ProcessPoolExecutor(processes, get_context("spawn"), _prepare) as pool:
        share = max(1, min(SHARE, len(work) // (4 * processes)))
        yield from pool.map(_attempt, work, chunksize=share)


def _prepare() -> None:
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


def _attempt(work: tuple[Scenario, int, bool, bool]) -> Outcome:
    return attempt(*work, time.perf_counter_ns)
