"""``python -m benchmarks.soak``: exit code 0 if everything held, 1 if not."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

import obsray
from benchmarks.soak.faults import Faults, add_node
from benchmarks.soak.load import Load
from benchmarks.soak.watch import BOOKS_SECONDS, Finding, Watch, write
from obsray.cluster_utils import Cluster

PROGRESS_SECONDS = 10.0
#: In each fifth of the time the same kinds of faults happen at the same places.
FIFTHS = 5
SETTLE_SECONDS = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run it. Exit codes: 0 all held, 1 something did not, 2 wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the load runs (10)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="who is killed (drawn by lot, and printed)")
    parser.add_argument("--no-faults", action="store_true", help="load alone")
    parser.add_argument("--json", type=Path, help="write all samples there")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error("--minutes must be more than 0")
    print(f"soak: {options.minutes:g} minutes, --seed {options.seed}", flush=True)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "object_store_memory": 256 << 20,
            "_system_config": {"node_dead_seconds": 5.0},
            "include_dashboard": True,
            "dashboard_port": 0,
        },
    )
    try:
        for _ in range(2):
            add_node(cluster)
        obsray.init(address=cluster.address, log_to_driver=False)
        return _soak(cluster, options)
    finally:
        obsray.shutdown()
        cluster.shutdown()


def _soak(cluster: Cluster, options: argparse.Namespace) -> int:
    load = Load()
    load.run(time.monotonic() + 2.0)
    warm = load.done
    began = time.monotonic()
    seconds = 60.0 * options.minutes
    watch = Watch(cluster, lambda: load.done - warm, min(BOOKS_SECONDS, seconds / FIFTHS / 2))
    faults = Faults(cluster, options.seed, seconds / FIFTHS)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            load.run(began + seconds)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work, name="soak-load", daemon=True)
    worker.start()
    if not options.no_faults:
        faults.start()
    while worker.is_alive():
        worker.join(PROGRESS_SECONDS)
        _progress(began, seconds, watch, faults, load)
    watch.stop()
    if not options.no_faults:
        faults.stop()
    findings = [_ended(load, failures), *watch.findings(), *_settled(watch, faults, load)]
    for line in faults.log:
        print(f"  {line}")
    for finding in findings:
        print(f"{'ok  ' if finding.well else 'FAIL'}  {finding.what}: {finding.found}")
    if options.json is not None:
        facts = {"seed": options.seed, "minutes": options.minutes, "faults": faults.log}
        write(options.json, watch, findings, facts)
    well = all(finding.well for finding in findings)
    verdict = "everything held" if well else "something did not hold"
    print(f"soak: {verdict}; again with --minutes {options.minutes:g} --seed {options.seed}")
    return 0 if well else 1


def _progress(began: float, seconds: float, watch: Watch, faults: Faults, load: Load) -> None:
    if not watch.samples:
        return
    newest = watch.samples[-1]
    before = [each for each in watch.samples if each.at <= newest.at - PROGRESS_SECONDS]
    earlier = before[-1] if before else watch.samples[0]
    rate = (newest.done - earlier.done) / max(1e-9, newest.at - earlier.at)
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.count.items())) or "nobody yet"
    book = watch.books[-1] if watch.books else {}
    stuck = time.monotonic() - load.part_since
    print(
        f"{min(time.monotonic() - began, seconds):6.0f} of {seconds:.0f} s  {newest.done:>9,} operations, "
        f"{rate:6.0f}/s  killed: {told}  program {newest.rss_bytes.get('program', 0) / 1e6:.0f} MB, "
        f"{newest.descriptors.get('program', 0)} files  {book.get('events_lost', 0)} events lost"
        + (f"  ({load.part} for {stuck:.1f} s)" if stuck > 2 else ""),
        flush=True,
    )


def _ended(load: Load, failures: list[BaseException]) -> Finding:
    if failures:
        return Finding("every value was right", f"{type(failures[0]).__name__}: {failures[0]}", False)
    slowest = f"the slowest part: {load.slowest[1]} in {load.slowest[0]:.1f} s"
    return Finding("every value was right", f"{load.done:,} operations in {load.rounds} rounds, {slowest}", True)


def _settled(watch: Watch, faults: Faults, load: Load) -> list[Finding]:
    """Once nothing is asked for any more, all that there is must be free, and every task ended."""
    del load.near, load.far
    deadline = time.monotonic() + SETTLE_SECONDS
    available = total = dict[str, float]()
    while time.monotonic() < deadline:
        available, total = obsray.available_resources(), obsray.cluster_resources()
        if available == total:
            break
        time.sleep(0.2)
    book = watch.read_books()
    while time.monotonic() < deadline and book.get("pending"):
        time.sleep(1.0)
        book = watch.read_books()
    missing = {name: total[name] - available.get(name, 0.0) for name in total if available.get(name) != total[name]}
    return [
        Finding("what is available is all that there is", f"missing: {missing}" if missing else "yes", not missing),
        Finding("tasks that never ended", f"{book.get('pending')}", book.get("pending") == 0),
        Finding("faults were injected as planned", faults.error or f"{sum(faults.count.values())}", not faults.error),
    ]


if __name__ == "__main__":
    sys.exit(main())
