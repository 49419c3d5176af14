"""How far off replays are: programs run with few and with more workers, and each duration as the other one predicts it.

``python -m benchmarks.replays [--workers 1 2] [PROGRAM ...]`` prints a line for each program: how long it took with so
many workers, how far off the unchanged replay is, and what the first run predicts for the second. The programs mostly
sleep, so that more workers than CPUs mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import obsray
from obsray.telemetry import questions

#: How long one program may take.
PATIENCE_SECONDS = 120.0


def map_reduce() -> None:
    """Results in parts, each of which goes to another task."""

    @obsray.remote(num_returns=6)
    def mapper(number: int) -> tuple[Any, ...]:
        time.sleep(0.05 + 0.01 * (number % 5))
        return tuple(np.arange(number, number + 1000) for _ in range(6))

    @obsray.remote
    def reducer(*chunks: Any) -> int:
        time.sleep(0.08)
        return int(sum(chunk.sum() for chunk in chunks))

    mapped: list[Any] = [mapper.remote(number) for number in range(20)]
    obsray.get([reducer.remote(*[parts[at] for parts in mapped]) for at in range(6)])


def parameter_server() -> None:
    """Actors whose calls depend on each other, first in rounds and then whenever one is done."""

    class Server:
        def push(self, *gradients: Any) -> Any:
            time.sleep(0.004)
            return sum(gradients)

    class Worker:
        def gradient(self, weights: Any, number: int) -> Any:
            time.sleep(0.02 + 0.004 * (number % 6))
            return weights * 0.5

    servers: Any = obsray.remote(num_cpus=0)(Server)
    members: Any = obsray.remote(num_cpus=0)(Worker)
    server, workers = servers.remote(), [members.remote() for _ in range(3)]
    weights: Any = obsray.put(np.ones(2000))
    for number in range(20):
        weights = server.push.remote(*[worker.gradient.remote(weights, number) for worker in workers])
    obsray.get(weights)
    pending: dict[Any, Any] = {worker.gradient.remote(weights, 0): worker for worker in workers}
    for number in range(30):
        ready, _ = obsray.wait(list(pending), num_returns=1)
        worker = pending.pop(ready[0])
        pending[worker.gradient.remote(server.push.remote(ready[0]), number)] = worker
    obsray.get(list(pending))


def streaming() -> None:
    """A generator, two stages behind it, and a bound on what is under way."""

    @obsray.remote(num_returns="streaming")
    def source(items: int) -> Any:
        for number in range(items):
            time.sleep(0.01)
            yield number

    @obsray.remote
    def stage(value: int) -> int:
        time.sleep(0.02)
        return value

    under_way: list[Any] = []
    for item in source.remote(80):
        under_way.append(stage.remote(stage.remote(item)))
        if len(under_way) >= 8:
            _, under_way = obsray.wait(under_way, num_returns=1)
    obsray.get(under_way)


def nested() -> None:
    """Tasks that wait for tasks, three levels deep."""

    @obsray.remote
    def leaf(number: int) -> int:
        time.sleep(0.01 * (1 + number % 3))
        return number

    @obsray.remote
    def branch(depth: int, number: int) -> int:
        time.sleep(0.005)
        inner: Any = branch if depth else leaf
        if depth:
            return int(sum(obsray.get([inner.remote(depth - 1, 2 * number + at) for at in range(2)])))
        return int(sum(obsray.get([inner.remote(3 * number + at) for at in range(4)])))

    obsray.get([branch.remote(2, number) for number in range(3)])


def skewed() -> None:
    """Few tasks are much longer than the others, and one waits for all."""

    @obsray.remote
    def work(seed: int) -> int:
        time.sleep(min(random.Random(seed).paretovariate(1.6) * 0.01, 0.5))
        return seed

    @obsray.remote
    def collect(*values: int) -> int:
        return sum(values)

    obsray.get(collect.remote(*[work.remote(seed) for seed in range(250)]))


def serving() -> None:
    """Actors on an event loop, with threads and one by one, behind a driver that asks again and again."""

    class Model:
        async def infer(self, value: int) -> int:
            await asyncio.sleep(0.02)
            return 2 * value

    class Cleaner:
        def clean(self, value: int) -> int:
            time.sleep(0.01)
            return value

    wide: Any = obsray.remote(num_cpus=0, max_concurrency=8)(Model)
    threads: Any = obsray.remote(num_cpus=0, max_concurrency=4)(Cleaner)
    models, cleaner = [wide.remote() for _ in range(2)], threads.remote()
    answers: list[Any] = []
    for number in range(200):
        time.sleep(0.003)
        answers.append(models[number % 2].infer.remote(cleaner.clean.remote(number)))
    obsray.get(answers)


def retried() -> None:
    """Attempts that fail, always the same ones."""
    begun = tempfile.mkdtemp()

    @obsray.remote(max_retries=3, retry_exceptions=True)
    def flaky(number: int) -> int:
        time.sleep(0.02)
        mark = Path(begun) / str(number)
        if number % 4 == 0 and not mark.exists():
            mark.touch()
            raise ValueError("again")
        return number

    @obsray.remote
    def collect(*values: int) -> int:
        time.sleep(0.01)
        return sum(values)

    flakes = [flaky.remote(number) for number in range(60)]
    obsray.get(collect.remote(*[collect.remote(*flakes[at::6]) for at in range(6)]))


def polled() -> None:
    """A driver that looks now and then."""

    @obsray.remote
    def work(number: int) -> int:
        time.sleep(0.02 + 0.1 * (number % 7 == 0))
        return number

    left: list[Any] = [work.remote(number) for number in range(50)]
    while left:
        _, left = obsray.wait(left, num_returns=len(left), timeout=0.1)


PROGRAMS: dict[str, Callable[[], None]] = {
    program.__name__: program
    for program in (map_reduce, parameter_server, streaming, nested, skewed, serving, retried, polled)
}


def recorded(name: str, workers: int, root: Path) -> Path:
    """The session of a program that ran with so many workers, in a process of its own."""
    # Paths of sockets are short; where they would not fit a session lies elsewhere.
    directory = root / f"{list(PROGRAMS).index(name)}_{workers}"
    command = [sys.executable, "-m", "benchmarks.replays", "--run", name, "--workers", str(workers)]
    subprocess.run([*command, "--directory", str(directory)], check=True, timeout=PATIENCE_SECONDS)
    return next(path for path in directory.glob("*/s_*") if path.is_dir() and not path.is_symlink())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="*", choices=[[], *PROGRAMS], metavar="PROGRAM")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--run", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        obsray.init(num_cpus=options.workers[0], _temp_dir=options.directory, include_dashboard=False)
        PROGRAMS[options.run]()
        obsray.shutdown()
        return
    with tempfile.TemporaryDirectory() as root:
        for name in options.programs or PROGRAMS:
            sessions = {workers: recorded(name, workers, Path(root)) for workers in options.workers}
            found = {workers: questions.what_if(session=path) for workers, path in sessions.items()}
            told = [
                f"{workers} workers {one['actual_seconds']:.2f} s (replay {one['error_ratio']:.1%} off)"
                for workers, one in found.items()
            ]
            first, *others = options.workers
            for other in others:
                change = questions.what_if(workers=other / first, rough=True, session=sessions[first])
                seconds, really = change["scenarios"][0]["seconds"], found[other]["actual_seconds"]
                told.append(f"{first} predict for {other}: {seconds:.2f} s ({seconds / really - 1:+.1%})")
            print(f"{name:16}  {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
