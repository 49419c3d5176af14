"""What a record costs from the ring to the store: ``python -m benchmarks.collector [tasks]``.

One driver and two workers record what a task costs (submitted, ended, finished, a share of a dispatch); the collector
drains, folds the metrics and stores in the same process, and its CPU time is taken. Then a view reads all of it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from obsray import ids
from obsray.metrics.exporter import Families
from obsray.telemetry.collector import Collector
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

_CHUNK = 25_000
_BATCH = 32


def record(driver: Ring, workers: list[Ring], first: int, base_ns: int) -> None:
    """What ``_CHUNK`` tasks record."""
    name, shape, nil = driver.intern("f"), driver.intern("f CPU:1"), ids.NIL_TASK
    names = [worker.intern("f") for worker in workers]
    for number in range(first, first + _CHUNK):
        at, task, one = base_ns + number * 10_000, ids.task_id(driver.process, number), number % len(workers)
        driver.task_submitted(at, task, nil, task, nil, name, shape, 1, 0, 0, 0, 3, 0)
        if number % _BATCH == 0:
            driver.tasks_dispatched(at, workers[one].process, 1, number, shape, _BATCH, 0, _BATCH, 1, task)
        workers[one].task_ended(
            at + 200_000, task, 0, 1, number, nil, names[one], at + 50_000, at + 60_000, at + 100_000, 0,
            0.0, 1e-5, 1e-3 * (number % 7), 1e-5, 1e-3, 0.0, 10,
        )  # fmt: skip
        driver.task_finished(at + 300_000, task, 0, 0, 10, 0)


def collect(collector: Collector) -> tuple[int, float]:
    """Drain and store what is new: records and CPU seconds."""
    began, total = time.process_time(), 0
    while count := collector.poll():
        total += count
        if collector.due():
            collector.flush()
    return total, time.process_time() - began


def timed(what: str, call: Callable[[], object]) -> None:
    began = time.perf_counter()
    call()
    print(f"{what:34s} {(time.perf_counter() - began) * 1e3:8.1f} ms")


def main(tasks: int) -> None:
    """Measure with ``tasks`` tasks and print."""
    directory = Path(tempfile.mkdtemp(prefix="obsray-bench-"))
    try:
        (directory / "rings").mkdir()
        driver, *workers = (
            Ring(directory / "rings", bytes([n]) * 8, kind)
            for n, kind in ((1, ProcessKind.DRIVER), (2, ProcessKind.WORKER), (3, ProcessKind.WORKER))
        )
        collector = Collector(directory, 4 << 30)
        collector.folds.append(Families(collector, "bench").update)
        records, seconds, base = 0, 0.0, time.time_ns()
        for first in range(0, tasks, _CHUNK):
            record(driver, workers, first, base)
            count, spent = collect(collector)
            records, seconds = records + count, seconds + spent
        collector.flush()
        stored = collector.writer.catalog.bytes
        print(f"{records:,} records: {seconds / records * 1e9:.0f} ns of CPU and {stored / records:.1f} bytes each")
        view = Views(Store.open(directory))
        timed("a view folds all of it", view.refresh)
        timed("newest 50 tasks", view.tasks)
        timed("50 slowest of one function", lambda: view.tasks([("name", "=", "f")], "-run_seconds"))
        timed("longest queued of the finished", lambda: view.tasks([("state", "=", "FINISHED")], "-queue_seconds"))
        timed("overview", view.overview)
        middle = ids.task_id(driver.process, tasks // 2).hex()
        timed("one task in full", lambda: view.task(middle))
        timed("the story of one task", lambda: view.story(middle))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
