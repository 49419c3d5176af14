"""The benchmarks. One function each; it takes the API module under test and returns a number.

To add one, write a function ``(api, run) -> float | Measured`` and decorate it. ``api`` has ``remote``, ``get`` and
whatever else ``needs`` names, as in the Ray API. Fetch the results and check them: a benchmark whose work was not
done is an error. A function that runs remotely is module-level, because some targets pickle it by name.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

GROUPS = ("start", "tasks", "objects", "actors", "scale", "telemetry")


@dataclass(frozen=True, slots=True)
class Measured:
    """A value, what the machine allows for the same work (0 if unknown), and numbers worth keeping beside it."""

    value: float
    limit: float = 0.0
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """How long to measure, and on what."""

    quick: bool
    #: The library is so slow that it gets the counts of a quick run; rates do not depend on them.
    slow: bool
    cpus: int
    #: What ``import`` needs to name for the library under test.
    imports: str
    #: Iterations of ``spin`` that take a millisecond on this machine.
    spins_per_ms: int
    #: Starts the runtime; only the benchmarks of the group "start" call it.
    start: Callable[[], Any]
    #: Unique memory of all processes of this sample, in bytes.
    unique_bytes: Callable[[], int]
    #: CPU time that the collector of obsray's telemetry has used, in seconds.
    collector_seconds: Callable[[], float] = lambda: 0.0

    def count(self, full: int, quick: int) -> int:
        """A number of operations, smaller in a quick run."""
        return quick if self.quick or self.slow else full

    @property
    def seconds(self) -> float:
        """How long to repeat something."""
        return 0.5 if self.quick else 1.5

    def rate(self, body: Callable[[], object]) -> float:
        """Calls of ``body`` per second, one after the other, after a tenth of the time as warm-up."""
        for seconds in (self.seconds / 10, self.seconds):
            calls = 0
            started = now = time.perf_counter()
            while now - started < seconds:
                body()
                calls += 1
                now = time.perf_counter()
        return calls / (now - started)

    def median_seconds(self, body: Callable[[], object]) -> float:
        """Median duration of ``body`` over as many calls as fit, at least one."""
        seconds: list[float] = []
        while sum(seconds) < self.seconds:
            started = time.perf_counter()
            body()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``better`` is "higher" or "lower". ``only`` names the targets it is for, if not all."""

    name: str
    title: str
    unit: str
    group: str
    better: str
    needs: frozenset[str]
    only: frozenset[str]
    body: Callable[[Any, Run], float | Measured]


BENCHMARKS: dict[str, Benchmark] = {}

Body = Callable[[Any, Run], "float | Measured"]


def benchmark(
    title: str, *, unit: str, group: str, better: str = "higher", needs: str = "", only: str = ""
) -> Callable[[Body], Body]:
    """Register a benchmark under its function's name. ``needs`` and ``only`` are words separated by spaces."""

    def register(body: Body) -> Body:
        name = body.__name__
        BENCHMARKS[name] = Benchmark(
            name, title, unit, group, better, frozenset(needs.split()), frozenset(only.split()), body
        )
        return body

    return register


# --- what runs remotely ----------------------------------------------------------------------------------


def one() -> int:
    return 1


def spin(count: int) -> int:
    for _ in range(count):
        pass
    return 1


def wait_for_file(path: str) -> int:
    """Occupies a worker until the file exists."""
    import os

    while not os.path.exists(path):
        time.sleep(0.001)
    return 1


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self) -> int:
        self.total += 1
        return self.total


class AsyncCounter:
    def __init__(self) -> None:
        self.total = 0

    async def add(self) -> int:
        self.total += 1
        return self.total


def count_up(items: int) -> Iterator[int]:
    # Not `yield from`: Ray's workers cannot take it from a range.
    for number in range(items):  # noqa: UP028
        yield number


def expect(got: object, wanted: object) -> None:
    """The work was done: anything else makes the sample an error."""
    if got != wanted:
        raise AssertionError(f"expected {wanted!r}, got {got!r}")


# --- start -----------------------------------------------------------------------------------------------


@benchmark("import", unit="s", group="start", better="lower")
def import_seconds(api: Any, run: Run) -> float:
    program = f"import time; t = time.perf_counter(); import {run.imports}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    return statistics.median(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3))


@benchmark("init to first result", unit="s", group="start", better="lower")
def init_seconds(api: Any, run: Run) -> float:
    started = time.perf_counter()
    run.start()
    expect(api.get(api.remote(one).remote()), 1)
    return time.perf_counter() - started


@benchmark("idle memory, unique, all processes", unit="MB", group="start", better="lower")
def idle_megabytes(api: Any, run: Run) -> float:
    # Processes that start in the background (a dashboard, more workers) shall be there when it is measured.
    time.sleep(3.0)
    return run.unique_bytes() / 1e6


# --- tasks -----------------------------------------------------------------------------------------------


@benchmark("task round trip, sync", unit="/s", group="tasks")
def tasks_sync(api: Any, run: Run) -> float:
    task = api.remote(one)
    return run.rate(lambda: expect(api.get(task.remote()), 1))


def work_1ms(api: Any, run: Run) -> Callable[[], object]:
    """A batch of tasks of a millisecond, submitted and got."""
    task, count = api.remote(spin), run.count(1_000, 300)
    return lambda: expect(sum(api.get([task.remote(run.spins_per_ms) for _ in range(count)])), count)


def work_async(api: Any, run: Run) -> Callable[[], object]:
    """A batch of no-ops, submitted and got."""
    task, count = api.remote(one), run.count(10_000, 2_000)
    return lambda: expect(sum(api.get([task.remote() for _ in range(count)])), count)


#: Batches that are also measured with and without telemetry in turns (``benchmarks.turns``).
WORK: dict[str, Callable[[Any, Run], Callable[[], object]]] = {"1ms": work_1ms, "async": work_async}


# Before the floods, whose events the collector goes on sorting for a while.
@benchmark("tasks of 1 ms, async", unit="/s", group="tasks")
def tasks_1ms(api: Any, run: Run) -> float:
    expect(sum(api.get([api.remote(spin).remote(run.spins_per_ms) for _ in range(50)])), 50)
    return run.count(1_000, 300) / run.median_seconds(work_1ms(api, run))


@benchmark("tasks, async: submit 10 k no-ops, one get", unit="/s", group="tasks")
def tasks_async(api: Any, run: Run) -> float:
    expect(sum(api.get([api.remote(one).remote() for _ in range(run.count(1_000, 200))])), run.count(1_000, 200))
    return run.count(10_000, 2_000) / run.median_seconds(work_async(api, run))


@benchmark("CPU of the collector for a no-op task", unit="µs", group="tasks", better="lower", only="obsray")
def collector_us(api: Any, run: Run) -> Measured:
    task = api.remote(one)
    count = run.count(100_000, 20_000)
    before, started = run.collector_seconds(), time.perf_counter()
    expect(sum(api.get([task.remote() for _ in range(count)])), count)
    seconds = time.perf_counter() - started
    # It is done when its time hardly moves any more: what it records of itself once a second goes on.
    used, last, deadline = 0.0, -1.0, time.perf_counter() + 30
    while used - last > 0.05 and time.perf_counter() < deadline:
        last = used
        time.sleep(1.0)
        used = run.collector_seconds() - before
    return Measured(
        used / count * 1e6, details={"share_of_a_processor": used / seconds, "tasks_per_second": count / seconds}
    )


@benchmark("submit 1 k, then wait one by one", unit="/s", group="tasks", needs="wait")
def wait_1k(api: Any, run: Run) -> float:
    task = api.remote(one)

    def take_all() -> None:
        pending = [task.remote() for _ in range(1_000)]
        taken = 0
        while pending:
            ready, pending = api.wait(pending, num_returns=1)
            taken += len(ready)
        expect(taken, 1_000)

    expect(sum(api.get([task.remote() for _ in range(100)])), 100)
    return 1 / run.median_seconds(take_all)


@benchmark("streaming generator: items read one by one", unit="/s", group="tasks", needs="streams")
def stream_items(api: Any, run: Run) -> float:
    task = api.remote(count_up)
    count = run.count(5_000, 1_000)

    def read(items: int) -> None:
        stream = task.options(num_returns="streaming").remote(items)
        expect(sum(api.get(reference) for reference in stream), sum(range(items)))

    read(count // 10)
    return count / run.median_seconds(lambda: read(count))


# --- objects ---------------------------------------------------------------------------------------------


@benchmark("put, small", unit="/s", group="objects", needs="put")
def put_small(api: Any, run: Run) -> float:
    return run.rate(lambda: api.put(0))


@benchmark("get, small", unit="/s", group="objects", needs="put")
def get_small(api: Any, run: Run) -> float:
    reference = api.put(7)
    return run.rate(lambda: expect(api.get(reference), 7))


def put_gigabytes(api: Any, run: Run, megabytes: int) -> Measured:
    """GB/s of putting an array again and again, next to copying it into shared memory that is already mapped."""
    import mmap

    import numpy as np

    source = np.arange(megabytes * 1_000_000 // 8, dtype=np.int64)
    with mmap.mmap(-1, source.nbytes) as room, memoryview(room) as shared:
        copy = np.frombuffer(shared, dtype=np.int64)
        copy[:] = source
        copy_seconds = run.median_seconds(functools.partial(np.copyto, copy, source))
        del copy

    def put() -> None:
        # The reference dies at once, so the next put may use the same pages again.
        api.put(source)

    # Freeing lags behind, so it takes more than one put until freed pages come round again.
    for _ in range(3):
        put()
    seconds = run.median_seconds(put)
    back = api.get(api.put(source))
    expect((back.nbytes, int(back[-1])), (source.nbytes, int(source[-1])))
    return Measured(source.nbytes / seconds / 1e9, source.nbytes / copy_seconds / 1e9)


@benchmark("put a 64 MB array", unit="GB/s", group="objects", needs="put")
def put_64mb(api: Any, run: Run) -> Measured:
    return put_gigabytes(api, run, 64)


@benchmark("put an 800 MB array", unit="GB/s", group="objects", needs="put")
def put_800mb(api: Any, run: Run) -> Measured:
    return put_gigabytes(api, run, 800)


# --- actors ----------------------------------------------------------------------------------------------


@benchmark("actor calls, sync", unit="/s", group="actors", needs="actors")
def actor_sync(api: Any, run: Run) -> float:
    counter = api.remote(Counter).remote()
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        expect(api.get(counter.add.remote()), calls)

    rate = run.rate(call)
    api.kill(counter)
    return rate


def call_rate(api: Any, run: Run, counter_class: type, last: Callable[[list[int]], int]) -> float:
    """Calls per second of one actor that are submitted and fetched together; ``last`` finds the last one's answer."""
    counter = api.remote(counter_class).remote()
    count = run.count(5_000, 1_000)
    done = 0

    def submit(calls: int) -> None:
        nonlocal done
        done += calls
        expect(last(api.get([counter.add.remote() for _ in range(calls)])), done)

    submit(count // 10)
    seconds = run.median_seconds(lambda: submit(count))
    api.kill(counter)
    return count / seconds


@benchmark("actor calls, async: submit 5 k, one get", unit="/s", group="actors", needs="actors")
def actor_async(api: Any, run: Run) -> float:
    return call_rate(api, run, Counter, lambda answers: answers[-1])


@benchmark("async actor calls: submit 5 k, one get", unit="/s", group="actors", needs="async")
def async_actor(api: Any, run: Run) -> float:
    return call_rate(api, run, AsyncCounter, max)


@benchmark("actor creation to first answer, one after the other", unit="/s", group="actors", needs="actors")
def actor_creation(api: Any, run: Run) -> float:
    factory = api.remote(Counter)

    def create() -> None:
        counter = factory.remote()
        expect(api.get(counter.add.remote()), 1)
        api.kill(counter)

    create()
    count = run.count(5, 2)
    started = time.perf_counter()
    for _ in range(count):
        create()
    return count / (time.perf_counter() - started)


# --- scale: cost must grow linearly ----------------------------------------------------------------------


def drain_rate(api: Any, run: Run, count: int, directory: str) -> float:
    """Tasks per second of a queue of ``count`` no-ops that piled up behind tasks occupying every CPU."""
    import os

    gate = os.path.join(directory, f"gate-{count}-{time.monotonic_ns()}")
    guards = [api.remote(wait_for_file).remote(gate) for _ in range(run.cpus)]
    task = api.remote(one)
    queued = [task.remote() for _ in range(count)]
    started = time.perf_counter()
    with open(gate, "w"):
        pass
    expect(sum(api.get(queued)), count)
    seconds = time.perf_counter() - started
    expect(sum(api.get(guards)), run.cpus)
    os.unlink(gate)
    return count / seconds


def drain_ratio(api: Any, run: Run, large: int) -> Measured:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        drain_rate(api, run, 1_000, directory)
        small_rate = statistics.median(drain_rate(api, run, 1_000, directory) for _ in range(3))
        large_rate = drain_rate(api, run, large, directory)
    return Measured(large_rate / small_rate, details={"rate_small": small_rate, "rate_large": large_rate})


@benchmark("drain rate, 10 k queued / 1 k queued", unit="x", group="scale")
def drain_10k(api: Any, run: Run) -> Measured:
    return drain_ratio(api, run, 10_000)


@benchmark("drain rate, 100 k queued / 1 k queued", unit="x", group="scale", only="obsray obsray-quiet pool executor")
def drain_100k(api: Any, run: Run) -> Measured:
    return drain_ratio(api, run, 100_000)


@benchmark("time of one get, 10 k refs / 1 k refs", unit="x", group="scale", better="lower", needs="put")
def get_10k(api: Any, run: Run) -> Measured:
    references = [api.put(number) for number in range(10_000)]
    expect(sum(api.get(references)), sum(range(10_000)))
    small = run.median_seconds(lambda: expect(len(api.get(references[:1_000])), 1_000))
    large = run.median_seconds(lambda: expect(len(api.get(references)), 10_000))
    return Measured(large / small, details={"seconds_small": small, "seconds_large": large})


@benchmark("time of one wait for all, 10 k refs / 1 k refs", unit="x", group="scale", better="lower", needs="put wait")
def wait_10k(api: Any, run: Run) -> Measured:
    references = [api.put(number) for number in range(10_000)]

    def wait(count: int) -> None:
        ready, pending = api.wait(references[:count], num_returns=count)
        expect((len(ready), len(pending)), (count, 0))

    small = run.median_seconds(lambda: wait(1_000))
    large = run.median_seconds(lambda: wait(10_000))
    return Measured(large / small, details={"seconds_small": small, "seconds_large": large})


# --- telemetry -------------------------------------------------------------------------------------------


@benchmark("tasks of 1 ms, telemetry on : off in turns", unit="x", group="telemetry", only="obsray")
def telemetry_1ms(api: Any, run: Run) -> Measured:
    return in_turns(api, run, "1ms", 1, 8)


@benchmark("no-ops, telemetry on : off in turns", unit="x", group="telemetry", only="obsray")
def telemetry_async(api: Any, run: Run) -> Measured:
    return in_turns(api, run, "async", 8, 8)


def in_turns(api: Any, run: Run, work: str, batches: int, fours: int) -> Measured:
    """Median ratio of the rates with and without telemetry."""
    from benchmarks import turns  # imports this module

    found = turns.ratios(api, run, work, batches, 2 if run.quick else fours)
    return Measured(statistics.median(found), details=turns.spread(found))
