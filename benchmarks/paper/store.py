"""Figure 9: one client puts objects into the store of its node, by size and by threads; memcpy is the limit."""

from __future__ import annotations

import functools
import mmap
import threading
import time
from collections import defaultdict

import numpy as np

import obsray
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Result, Row, Series, between, series_of, significant

KB, MB = 10**3, 10**6
#: All threads' largest arrays beside each other, twice: what is freed is given back a moment later.
STORE_BYTES = 5 * 10**9
SMALL = KB


@functools.cache
def random_bytes(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)


def puts_per_second(size: int, threads: int, count: int) -> float:
    """``count`` puts of arrays of this size, spread over threads of this process; each is let go at once."""
    array = random_bytes(size)
    last: list[np.ndarray | None] = [None] * threads
    gate = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        gate.wait()
        for _ in range(count // threads):
            ref = obsray.put(array)
        gate.wait()
        last[number] = obsray.get(ref)

    workers = [threading.Thread(target=work, args=[number]) for number in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.perf_counter()
    gate.wait()
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.join()
    for got in last:
        assert got is not None and np.array_equal(array, got), "another array came back"
    return count // threads * threads / seconds


def gets_per_second(size: int, count: int) -> float:
    """Reading one object again and again."""
    array = np.arange(size, dtype=np.uint8)
    ref = obsray.put(array)
    began = time.perf_counter()
    for _ in range(count):
        got = obsray.get(ref)
    seconds = time.perf_counter() - began
    assert np.array_equal(array, got)
    return count / seconds


def copies_per_second(size: int, count: int) -> float:
    """numpy copying the same bytes into shared memory whose pages are there."""
    source = random_bytes(size)
    target = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
    np.copyto(target, source)
    began = time.perf_counter()
    for _ in range(count):
        np.copyto(target, source)
    return count / (time.perf_counter() - began)


def body(run: Run) -> Result:
    sizes = run.pick([KB, 10 * KB, 100 * KB, MB, 10 * MB, 100 * MB, 256 * MB], [KB, MB, 10 * MB])
    counts = run.pick([1, 2, 4, 8], [1, 2])
    amount, most = run.pick((6 * 10**8, 8_000), (40 * MB, 200))
    puts: dict[int, dict[float, list[float]]] = {threads: defaultdict(list) for threads in counts}
    gets: dict[float, list[float]] = defaultdict(list)
    copies: dict[float, list[float]] = defaultdict(list)
    obsray.init(num_cpus=1, object_store_memory=STORE_BYTES, include_dashboard=False)
    try:
        for threads in counts:
            puts_per_second(sizes[-1], threads, 4 * threads)
        for _ in range(run.pick(3, 2)):
            for size in sizes:
                count = max(counts[-1], min(most, amount // size))
                for threads in counts:
                    puts[threads][size].append(puts_per_second(size, threads, count))
                copies[size].append(copies_per_second(size, count))
            gets[SMALL].append(gets_per_second(SMALL, most))
        for size in sizes:
            run.say(f"{size / MB:g} MB: {between([1e-9 * size * rate for rate in puts[1][size]], ' GB/s')}")
    finally:
        obsray.shutdown()
    return result(puts, gets[SMALL], copies)


def result(puts: dict[int, dict[float, list[float]]], gets: list[float], copies: dict[float, list[float]]) -> Result:
    def throughput(title: str, rates: dict[float, list[float]], reference: bool = False) -> Series:
        return series_of(
            title, {size: [1e-9 * size * rate for rate in some] for size, some in rates.items()}, reference
        )

    names = {threads: f"put, {threads} thread{'s' if threads > 1 else ''}" for threads in puts}
    written = {threads: throughput(names[threads], rates) for threads, rates in puts.items()}
    copied = throughput("memcpy, 1 thread", copies, reference=True)
    size = Axis("size of the object (bytes)", log=True, values="bytes")
    charts = [
        Chart(
            "store-throughput", "Figure 9: writing objects", size, Axis("GB/s", log=True), [*written.values(), copied]
        ),
        Chart(
            "store-rate",
            "Figure 9: objects written per second",
            size,
            Axis("puts/s", log=True),
            [series_of(names[threads], rates) for threads, rates in puts.items()],
        ),
    ]
    one, large = written[min(written)], max(copies)
    share = max(point.y / copied.at(point.x) for point in one.points if point.x >= 10 * MB)
    best = max(series.peak for series in written.values())
    small = puts[1][SMALL]
    rows = [
        Row("large objects, best", "> 15 GB/s (16 cores)", f"{significant(best)} GB/s"),
        Row("large objects, 1 thread", "–", f"{significant(one.at(large))} GB/s"),
        Row("memcpy of as many bytes, 1 thread", "–", f"{significant(copied.at(large))} GB/s"),
        Row("puts of 1 KB, 1 thread", "18 k/s", between(small, "/s")),
        Row("time of such a put", "56 µs (computed)", f"{significant(1e6 / series_of('', puts[1]).at(SMALL))} µs"),
        Row("gets of 1 KB, 1 thread", "–", between(gets, "/s")),
    ]
    claims = [
        Claim("large objects are written about as fast as memcpy can", f"{100 * share:.0f} % of memcpy", share >= 0.6),
        Claim("small objects: at least 18 k a second", between(small, "/s"), max(small) >= 18_000),
        Claim(
            "throughput rises with the size until memcpy is all that counts",
            f"{significant(one.at(large) / one.at(SMALL))} × from 1 KB to the largest",
            one.at(large) > 3 * one.at(SMALL),
        ),
    ]
    return Result(charts, rows, claims)
