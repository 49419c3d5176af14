"""How far off replays are: programs run with few and with more workers, and each duration as the other one predicts it.

``python -m benchmarks.replays [--workers 1 2] [--longer 1] [PROGRAM ...]`` prints a line for each program: how
long it took with so many workers, how far off the unchanged replay is, and what the first run predicts for the second.
The programs mostly sleep, so that more workers than CPUs mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import os
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
from obsray.cluster_utils import Cluster
from obsray.telemetry import questions, session_file

#: Has programs sleep so many times as long.
LONGER = "BENCHMARK_LONGER"
#: How long one program may take.
PATIENCE_SECONDS = 120.0


def nap(seconds: float) -> None:
    """Sleep, longer if one wishes."""
    time.sleep(seconds * float(os.environ.get(LONGER, "1")))


def map_reduce() -> None:
    """Results in parts, each of which goes to another task."""

    @obsray.remote(num_returns=6)
    def mapper(number: int) -> tuple[Any, ...]:
        nap(0.05 + 0.01 * (number % 5))
        return tuple(np.arange(number, number + 1000) for _ in range(6))

    @obsray.remote
    def reducer(*chunks: Any) -> int:
        nap(0.08)
        return int(sum(chunk.sum() for chunk in chunks))

    mapped: list[Any] = [mapper.remote(number) for number in range(20)]
    obsray.get([reducer.remote(*[parts[at] for parts in mapped]) for at in range(6)])


def parameter_server() -> None:
    """Actors whose calls depend on each other, first in rounds and then whenever one is done."""

    class Server:
        def push(self, *gradients: Any) -> Any:
            nap(0.004)
            return sum(gradients)

    class Worker:
        def gradient(self, weights: Any, number: int) -> Any:
            nap(0.02 + 0.004 * (number % 6))
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
            nap(0.01)
            yield number

    @obsray.remote
    def stage(value: int) -> int:
        nap(0.02)
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
        nap(0.01 * (1 + number % 3))
        return number

    @obsray.remote
    def branch(depth: int, number: int) -> int:
        nap(0.005)
        inner: Any = branch if depth else leaf
        if depth:
            return int(sum(obsray.get([inner.remote(depth - 1, 2 * number + at) for at in range(2)])))
        return int(sum(obsray.get([inner.remote(3 * number + at) for at in range(4)])))

    obsray.get([branch.remote(2, number) for number in range(3)])


def skewed() -> None:
    """Few tasks are much longer than the others, and one waits for all."""

    @obsray.remote
    def work(seed: int) -> int:
        nap(min(random.Random(seed).paretovariate(1.6) * 0.01, 0.5))
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
            nap(0.01)
            return value

    wide: Any = obsray.remote(num_cpus=0, max_concurrency=8)(Model)
    threads: Any = obsray.remote(num_cpus=0, max_concurrency=4)(Cleaner)
    models, cleaner = [wide.remote() for _ in range(2)], threads.remote()
    answers: list[Any] = []
    for number in range(200):
        nap(0.003)
        answers.append(models[number % 2].infer.remote(cleaner.clean.remote(number)))
    obsray.get(answers)


def retried() -> None:
    """Attempts that fail, always the same ones."""
    begun = tempfile.mkdtemp()

    @obsray.remote(max_retries=3, retry_exceptions=True)
    def flaky(number: int) -> int:
        nap(0.02)
        mark = Path(begun) / str(number)
        if number % 4 == 0 and not mark.exists():
            mark.touch()
            raise ValueError("again")
        return number

    @obsray.remote
    def collect(*values: int) -> int:
        nap(0.01)
        return sum(values)

    flakes = [flaky.remote(number) for number in range(60)]
    obsray.get(collect.remote(*[collect.remote(*flakes[at::6]) for at in range(6)]))


def polled() -> None:
    """A driver that looks now and then."""

    @obsray.remote
    def work(number: int) -> int:
        nap(0.02 + 0.1 * (number % 7 == 0))
        return number

    left: list[Any] = [work.remote(number) for number in range(50)]
    while left:
        _, left = obsray.wait(left, num_returns=len(left), timeout=0.1)


def flood() -> None:
    """Very many tasks that do nothing, submitted by one driver."""

    @obsray.remote
    def nothing(number: int) -> int:
        return number

    obsray.get([nothing.remote(number) for number in range(100_000)])


def milliseconds() -> None:
    """Many tasks of a millisecond."""

    @obsray.remote
    def short(number: int) -> int:
        nap(0.001)
        return number

    obsray.get([short.remote(number) for number in range(4000)])


def short_naps() -> None:
    """Many tasks of a third of a millisecond."""

    @obsray.remote
    def short(number: int) -> int:
        nap(0.0003)
        return number

    obsray.get([short.remote(number) for number in range(10_000)])


def compute(seconds: float) -> None:
    """Be on a processor for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def computing() -> None:
    """Many tasks that compute for a millisecond."""

    @obsray.remote
    def short(number: int) -> int:
        compute(0.001)
        return number

    obsray.get([short.remote(number) for number in range(4000)])


def short_computing() -> None:
    """Many tasks that compute for a third of a millisecond."""

    @obsray.remote
    def short(number: int) -> int:
        compute(0.0003)
        return number

    obsray.get([short.remote(number) for number in range(10_000)])


def round_trips() -> None:
    """A driver that waits for each task before it submits the next."""

    @obsray.remote
    def short(number: int) -> int:
        if number % 2:
            nap(0.001)
        return number

    for number in range(1500):
        obsray.get(short.remote(number))


def tree() -> None:
    """A tree of nested tasks of uneven depth: each waits for those below it."""

    @obsray.remote
    def fibonacci(number: int) -> int:
        nap(0.01)
        if number < 2:
            return number
        return int(sum(obsray.get([fibonacci.remote(number - 1), fibonacci.remote(number - 2)])))

    obsray.get(fibonacci.remote(7))


def few_parents() -> None:
    """Long tasks that spread short ones, one round after the other."""

    @obsray.remote
    def part(number: int) -> int:
        nap(0.02)
        return number

    @obsray.remote
    def rounds(number: int) -> int:
        total = 0
        for _ in range(4):
            nap(0.03)
            total += sum(obsray.get([part.remote(at) for at in range(6)]))
        return total

    obsray.get([rounds.remote(number) for number in range(3)])


def spreading() -> None:
    """Parents that each spread parts, wait for all, and have something left to do."""

    @obsray.remote
    def part(number: int) -> int:
        nap(0.1)
        return number

    @obsray.remote
    def parent(number: int) -> int:
        nap(0.05)
        total = sum(obsray.get([part.remote(at) for at in range(8)]))
        nap(0.1)
        return int(total)

    obsray.get([parent.remote(number) for number in range(8)])


def one_by_one() -> None:
    """Parents that ask for one child after the other, and each child for one of its own."""

    @obsray.remote
    def inner(number: int) -> int:
        nap(0.04)
        return number

    @obsray.remote
    def middle(number: int) -> int:
        nap(0.03)
        return int(obsray.get(inner.remote(number)))

    @obsray.remote
    def outer(number: int) -> int:
        return sum(obsray.get(middle.remote(at)) for at in range(4))

    obsray.get([outer.remote(number) for number in range(16)])


def windowed() -> None:
    """Parents that keep a few children under way and take whichever is done."""

    @obsray.remote
    def child(number: int) -> int:
        nap(0.03 + 0.02 * (number % 4))
        return number

    @obsray.remote
    def parent(number: int) -> int:
        under_way: list[Any] = []
        for at in range(12):
            under_way.append(child.remote(at))
            if len(under_way) >= 3:
                _, under_way = obsray.wait(under_way, num_returns=1)
        return len(obsray.get(under_way))

    obsray.get([parent.remote(number) for number in range(6)])


def deep() -> None:
    """Trees of tasks three levels deep, with work before and after each wait."""

    @obsray.remote
    def node(depth: int) -> int:
        nap(0.05)
        if not depth:
            return 1
        total = sum(obsray.get([node.remote(depth - 1) for _ in range(3)]))
        nap(0.03)
        return int(total)

    obsray.get([node.remote(3) for _ in range(2)])


def tasks_ask_actors() -> None:
    """Tasks that ask actors, which ask another one."""

    class Store:
        def read(self, key: int) -> int:
            nap(0.005)
            return key

    class Front:
        def __init__(self, store: Any) -> None:
            self.store = store

        def answer(self, key: int) -> int:
            nap(0.01)
            return int(obsray.get(self.store.read.remote(key)))

    store: Any = obsray.remote(num_cpus=0)(Store).remote()
    fronts: list[Any] = [obsray.remote(num_cpus=0)(Front).remote(store) for _ in range(4)]

    @obsray.remote
    def ask(number: int) -> int:
        total = 0
        for at in range(3):
            nap(0.05)
            total += obsray.get(fronts[(number + at) % 4].answer.remote(at))
        return total

    obsray.get([ask.remote(number) for number in range(40)])


def actors_with_tasks() -> None:
    """Actors that spread their work over tasks."""

    @obsray.remote
    def part(number: int) -> int:
        nap(0.06)
        return number

    class Spreader:
        def work(self, number: int) -> int:
            nap(0.01)
            return sum(obsray.get([part.remote(at) for at in range(6)]))

    spreaders: list[Any] = [obsray.remote(num_cpus=0)(Spreader).remote() for _ in range(4)]
    obsray.get([spreaders[number % 4].work.remote(number) for number in range(16)])


def actor_pipeline() -> None:
    """Items that pass three actors, each of which works on one at a time."""

    class Stage:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def step(self, value: int) -> int:
            nap(self.seconds)
            return value + 1

    stages = [obsray.remote(num_cpus=0)(Stage).remote(seconds) for seconds in (0.004, 0.01, 0.006)]
    items: list[Any] = []
    for number in range(120):
        item: Any = number
        for stage in stages:
            item = stage.step.remote(item)
        items.append(item)
    obsray.get(items)


def asking_actors() -> None:
    """Async actors that await calls of another actor, and a driver that asks them in turns."""

    class Store:
        async def read(self, key: int) -> int:
            await asyncio.sleep(0.01)
            return key

    class Front:
        def __init__(self, store: Any) -> None:
            self.store = store

        async def answer(self, key: int) -> int:
            first = await self.store.read.remote(key)
            await asyncio.sleep(0.005)
            return int(first + await self.store.read.remote(key + 1))

    store: Any = obsray.remote(num_cpus=0, max_concurrency=4)(Store).remote()
    fronts = [obsray.remote(num_cpus=0, max_concurrency=4)(Front).remote(store) for _ in range(2)]
    for turn in range(10):
        obsray.get([fronts[at % 2].answer.remote(turn + at) for at in range(12)])


def moved() -> None:
    """Large objects that are made and read wherever there is room."""

    @obsray.remote
    def make(number: int) -> Any:
        nap(0.03)
        return np.full(8_000_000, number % 256, np.uint8)

    @obsray.remote
    def join(first: Any, second: Any) -> Any:
        nap(0.03)
        return np.maximum(first, second)

    layer: list[Any] = [make.remote(number) for number in range(32)]
    while len(layer) > 1:
        layer = [join.remote(first, second) for first, second in zip(layer[::2], layer[1::2], strict=True)]
    obsray.get(layer[0])


def spilled() -> None:
    """More than the object store holds."""

    @obsray.remote
    def make(number: int) -> Any:
        nap(0.05)
        return np.full(10_000_000, number % 256, np.uint8)

    @obsray.remote
    def size(block: Any) -> int:
        nap(0.02)
        return int(block.nbytes)

    blocks = [make.remote(number) for number in range(30)]
    obsray.wait(blocks, num_returns=len(blocks))
    obsray.get([size.remote(block) for block in blocks])


PROGRAMS: dict[str, Callable[[], None]] = {
    program.__name__: program
    for program in (
        map_reduce, parameter_server, streaming, nested, skewed, serving, retried, polled,
        flood, milliseconds, short_naps, computing, short_computing, round_trips, tree, few_parents, spreading,
        one_by_one, windowed, deep, tasks_ask_actors, actors_with_tasks, actor_pipeline, asking_actors, moved, spilled,
    )
}  # fmt: skip
#: Programs that run on two nodes, each with so many workers.
ON_TWO_NODES = {"moved"}
#: What the object store holds where that matters.
STORE_BYTES = {"spilled": 100_000_000}


def run(name: str, workers: int, directory: str) -> None:
    """Run a program in this process; its session lies below ``directory``."""
    if name not in ON_TWO_NODES:
        store_bytes = STORE_BYTES.get(name)
        obsray.init(
            num_cpus=workers, _temp_dir=directory, include_dashboard=False, object_store_memory=store_bytes
        )  # fmt: skip
        PROGRAMS[name]()
        obsray.shutdown()
        return
    # Drivers look for the nodes of a cluster where sessions of this user lie.
    Path(directory).mkdir()
    tempfile.tempdir = directory
    with Cluster(True, True, {"num_cpus": workers}) as cluster:
        cluster.add_node(num_cpus=workers)
        PROGRAMS[name]()


def recorded(name: str, workers: int, root: Path) -> Path:
    """The session of a program that ran with so many workers, in a process of its own."""
    # Paths of sockets are short; where they would not fit a session lies elsewhere.
    directory = root / f"{list(PROGRAMS).index(name)}_{workers}"
    command = [sys.executable, "-m", "benchmarks.replays", "--run", name, "--workers", str(workers)]
    subprocess.run([*command, "--directory", str(directory)], check=True, timeout=PATIENCE_SECONDS)
    found = [path for path in directory.glob("*/s_*") if path.is_dir() and not path.is_symlink()]
    # The head has the records of all nodes.
    return next(path for path in found if len(found) == 1 or session_file.read(path).get("head"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="*", choices=[[], *PROGRAMS], metavar="PROGRAM")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--longer", type=float, default=1.0, help="have programs sleep so many times as long")
    parser.add_argument("--run", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.workers[0], options.directory)
        return
    os.environ[LONGER] = str(options.longer)
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
