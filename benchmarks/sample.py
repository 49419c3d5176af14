"""One sample: a fresh process that starts one target and runs one group of benchmarks on it.

Writes one line of JSON per benchmark to the file given, as soon as it is known, and a last line about the runtime.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
import traceback
from typing import Any, TextIO

from benchmarks import processes
from benchmarks.suite import BENCHMARKS, Benchmark, Measured, Run
from benchmarks.targets import TARGETS, Library, load


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--benchmarks", required=True, help="names, separated by commas")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--spins-per-ms", type=int, required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    benchmarks = [BENCHMARKS[name] for name in options.benchmarks.split(",")]
    with open(options.output, "a", buffering=1) as output:
        library = load(TARGETS[options.target])
        context: Any = None

        def start() -> None:
            nonlocal context
            context = library.start(options.cpus)

        run = Run(
            quick=options.quick,
            slow=library.target.slow,
            cpus=options.cpus,
            imports=library.imports,
            spins_per_ms=options.spins_per_ms,
            start=start,
            unique_bytes=lambda: processes.unique_bytes(os.environ[processes.MARK]),
            collector_seconds=lambda: processes.collector_seconds(os.environ[processes.MARK]),
        )
        if benchmarks[0].group != "start":
            start()
            processes.settle(os.environ[processes.MARK])
        for benchmark in benchmarks:
            write(output, {"benchmark": benchmark.name, **measure(benchmark, library, run)})
        write(output, {"runtime": describe(library, context)})
        library.api.shutdown()
    return 0


def write(output: TextIO, line: dict[str, Any]) -> None:
    output.write(json.dumps(line) + "\n")


def measure(benchmark: Benchmark, library: Library, run: Run) -> dict[str, Any]:
    """The benchmark's value, or why there is none."""
    started = time.perf_counter()
    try:
        measured = benchmark.body(library.api, run)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    if not isinstance(measured, Measured):
        measured = Measured(measured)
    seconds = time.perf_counter() - started
    return {"value": measured.value, "limit": measured.limit, "details": measured.details, "seconds": seconds}


def describe(library: Library, context: Any) -> dict[str, Any]:
    """The library's version and, for obsray, what became of the events."""
    target = library.target
    if target.module != "obsray":
        return {"version": importlib.metadata.version(target.distribution) if target.distribution else ""}
    described: dict[str, Any] = {"version": library.api.__version__}
    if target.environment["OBSRAY_TELEMETRY"] == "on" and context is not None:
        from obsray.demo.report import ledger_of

        ledger = ledger_of(context.address_info["session_dir"])
        described["events_recorded"] = ledger.recorded
        # What was recorded and has not arrived counts as lost until it does.
        described["events_lost"] = ledger.lost + max(0, ledger.recorded - ledger.stored - ledger.lost)
    return described


if __name__ == "__main__":
    sys.exit(main())
