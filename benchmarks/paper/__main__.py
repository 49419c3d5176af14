"""``python -m benchmarks.paper [EXPERIMENT ...]``: run, draw, and write docs/paper.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, processes
from benchmarks.paper import plot, report
from benchmarks.paper.experiment import EXPERIMENTS
from benchmarks.paper.result import Result
from benchmarks.runner import ROOT

DOCUMENT = ROOT / "docs" / "paper.md"
PICTURES = ROOT / "docs" / "paper"
RESULTS = ROOT / "benchmarks" / "results" / "paper"
#: An experiment that takes longer is ended.
SECONDS_MAX = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all")
    parser.add_argument("--quick", action="store_true", help="a few seconds each; not written to the docs")
    parser.add_argument("--list", action="store_true", help="name the experiments and end")
    parser.add_argument("--results", type=Path, default=None, help=f"JSON and SVG go there (default: {RESULTS})")
    options = parser.parse_args(arguments)
    if options.list:
        print(report.listing())
        return 0
    names = options.experiments or list(EXPERIMENTS)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    results = options.results or RESULTS
    results.mkdir(parents=True, exist_ok=True)

    facts = machine.hardware()
    failed, missed, began = [], [], time.monotonic()
    for number, name in enumerate(names, 1):
        experiment = EXPERIMENTS[name]
        say(f"[{number}/{len(names)}] {name}: {experiment.title} ({experiment.place})")
        found, complaint = run_one(name, options.quick)
        if found is None:
            say(f"  FAILED: {complaint}")
            failed.append(name)
            continue
        missed += keep(name, found, results, write=not options.quick and options.results is None)
    if not options.quick and options.results is None:
        DOCUMENT.write_text(report.replace(DOCUMENT.read_text(), "machine", report.machine_section(facts)))
        say(f"written: {DOCUMENT.relative_to(ROOT)}")
    say(f"{len(names) - len(failed)} experiments in {time.monotonic() - began:.0f} s; results in {results}")
    for claim in missed:
        say(f"  does not hold: {claim}")
    return 1 if failed else 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_one(name: str, quick: bool) -> tuple[dict[str, Any] | None, str]:
    """What the experiment measured, or None and why not. Its processes have ended either way."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, processes.MARK: mark, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "result.json"
        command = [sys.executable, "-m", "benchmarks.paper.sample", name, "--output", str(output)]
        process = subprocess.Popen([*command, *(["--quick"] if quick else [])], env=environment, cwd=ROOT)
        try:
            code = process.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        except BaseException:
            process.kill()
            process.wait()
            processes.end_leftovers(mark, patience_seconds=0)
            raise
        left = processes.end_leftovers(mark)
        if code is None:
            return None, f"no end after {SECONDS_MAX:.0f} s"
        if code != 0:
            return None, f"exit code {code}"
        if left:
            return None, f"{left} processes still ran 5 s after its end and were killed"
        found: dict[str, Any] = json.loads(output.read_text())
        return found, ""


def keep(name: str, found: dict[str, Any], results: Path, write: bool) -> list[str]:
    """Store JSON and charts, print the table, write the docs if asked. Returns claims that do not hold."""
    (results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    result = Result.from_json(found)
    for chart in result.charts:
        picture = plot.svg(chart)
        (results / f"{chart.name}.svg").write_text(picture)
        if write:
            PICTURES.mkdir(exist_ok=True)
            (PICTURES / f"{chart.name}.svg").write_text(picture)
    section = report.section(found, "paper")
    print(section, flush=True)
    if write:
        DOCUMENT.write_text(report.replace(DOCUMENT.read_text(), name, section))
    return [f"{name}: {claim.claim} (here: {claim.measured})" for claim in result.claims if not claim.holds]


if __name__ == "__main__":
    sys.exit(main())
