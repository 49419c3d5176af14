"""``python -m benchmarks``: run, print the tables, and after a full run write them into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import machine, table
from benchmarks.runner import ROOT, run_all
from benchmarks.suite import BENCHMARKS
from benchmarks.targets import TARGETS

DOCUMENT = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
RIVALS = ROOT / ".benchmarks" / "rivals" / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="benchmarks, separated by commas: " + ", ".join(BENCHMARKS))
    parser.add_argument("--against", default=",".join(TARGETS), help="targets, separated by commas (default: all)")
    parser.add_argument("--rounds", type=int, default=0, help="default: 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="smaller samples, one round; not written to the docs")
    parser.add_argument("--cpus", type=int, default=2, help="num_cpus for every library (default: 2)")
    parser.add_argument("--rivals", default=str(RIVALS), help="Python of the environment with Ray and Dask")
    parser.add_argument("--write", action="store_true", help="write the docs although not everything was run")
    options = parser.parse_args()

    names = options.only.split(",") if options.only else list(BENCHMARKS)
    targets = options.against.split(",")
    unknown = [name for name in names if name not in BENCHMARKS] + [name for name in targets if name not in TARGETS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if any(TARGETS[target].rival for target in targets) and not Path(options.rivals).exists():
        parser.error(f"{options.rivals} does not exist: `make rivals` installs the libraries to compare with")
    rounds = options.rounds or (1 if options.quick else 5)

    facts = machine.describe(options.cpus)
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = RESULTS / time.strftime("%Y%m%dT%H%M%S.jsonl")
    samples = run_all(
        names,
        targets,
        rounds,
        quick=options.quick,
        cpus=options.cpus,
        rivals=options.rivals,
        results=results,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    outcome = table.Outcome(samples)
    section = table.markdown(outcome, facts, rounds)
    print(section)
    print(f"raw samples: {results.relative_to(ROOT)}")
    complete = set(names) == set(BENCHMARKS) and set(targets) == set(TARGETS) and not options.quick
    if complete or options.write:
        DOCUMENT.write_text(table.replace_section(DOCUMENT.read_text(), section))
        print(f"written: {DOCUMENT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
