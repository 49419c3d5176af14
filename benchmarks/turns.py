"""What telemetry costs: the same runtime with and without it, in turns of about a second.

One machine is not equally fast for a minute, so two runs that follow each other differ by more than telemetry costs.
Here both runtimes live at the same time, one waits while the other works, and each ratio is of four turns next to each
other (with, without, without, with), which takes out what changes slowly. Between turns both come to rest.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import processes
from benchmarks.suite import WORK, Run
from benchmarks.targets import TARGETS, load

#: Between turns, so that nobody pays for the records of the other's turn.
REST_SECONDS = 0.25


def ratios(api: Any, run: Run, work: str, batches: int, fours: int) -> list[float]:
    """Rate with telemetry (this process's runtime) divided by the rate without, once per four turns."""
    task = WORK[work](api, run)
    with Counterpart(run, work) as other:
        task(), other.seconds(1)  # warm
        found = []
        for number in range(fours):
            spent = {True: 0.0, False: 0.0}
            for own in (True, False, False, True) if number % 2 == 0 else (False, True, True, False):
                time.sleep(REST_SECONDS)
                spent[own] += seconds_of(task, batches) if own else other.seconds(batches)
            found.append(spent[False] / spent[True])
        return found


def seconds_of(task: Callable[[], object], batches: int) -> float:
    """How long so many batches take."""
    started = time.perf_counter()
    for _ in range(batches):
        task()
    return time.perf_counter() - started


class Counterpart:
    """A process with the runtime without telemetry, which works when told to."""

    def __init__(self, run: Run, work: str) -> None:
        environment: Mapping[str, str] = {**os.environ, **TARGETS["obsray-quiet"].environment}
        facts = [str(run.cpus), str(run.spins_per_ms), str(int(run.quick))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.turns", work, *facts],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Counterpart:
        self._answer()
        processes.settle(os.environ[processes.MARK])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def seconds(self, batches: int) -> float:
        """How long so many batches take there."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{batches}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the runtime without telemetry ended with exit code {self.process.wait()}")
        return float(line)


def main() -> int:
    work, cpus, spins_per_ms, quick = sys.argv[1], *map(int, sys.argv[2:5])
    library = load(TARGETS["obsray-quiet"])
    library.start(cpus)
    run = Run(bool(quick), False, cpus, library.imports, spins_per_ms, start=lambda: None, unique_bytes=lambda: 0)
    task = WORK[work](library.api, run)
    task()
    print(0.0, flush=True)
    for line in sys.stdin:
        print(seconds_of(task, int(line)), flush=True)
    library.api.shutdown()
    return 0


def spread(values: list[float]) -> dict[str, float]:
    """The quartiles, and how many values there are."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0], values[0], values[0])
    return {"low": low, "high": high, "turns": 4 * len(values)}


if __name__ == "__main__":
    sys.exit(main())
