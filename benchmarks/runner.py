"""Alternates fresh processes, one per group of benchmarks, target and round, and collects their lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.suite import BENCHMARKS, GROUPS, spin
from benchmarks.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_SECONDS_MAX = 180.0

Sample = dict[str, Any]


def calibrate_spin() -> int:
    """Iterations of ``spin`` in a millisecond: the fastest of several tries, as others may use the machine too."""
    count = 100_000
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        spin(count)
        best = min(best, time.perf_counter() - started)
    return int(count * 0.001 / best)


def plan(names: Sequence[str], targets: Sequence[str], rounds: int) -> Iterator[tuple[int, str, list[str]]]:
    """(round, target, benchmark names) in the order to run; the target that begins changes from round to round."""
    for number in range(rounds):
        turn = number % len(targets)
        for group in GROUPS:
            for target in [*targets[turn:], *targets[:turn]]:
                chosen = [name for name in names if BENCHMARKS[name].group == group and wanted(name, target)]
                if chosen:
                    yield number, target, chosen


def wanted(name: str, target: str) -> bool:
    """Whether this benchmark is run on this target: it offers what is needed and is not spared."""
    benchmark = BENCHMARKS[name]
    if benchmark.only and target not in benchmark.only:
        return False
    return name not in TARGETS[target].spared and benchmark.needs <= TARGETS[target].offers


def run_all(
    names: Sequence[str],
    targets: Sequence[str],
    rounds: int,
    *,
    quick: bool,
    cpus: int,
    rivals: str,
    results: Path,
    say: Callable[[str], None],
) -> list[Sample]:
    """Run the plan; every sample goes to ``results`` as one line of JSON as soon as it is known."""
    spins_per_ms = calibrate_spin()
    samples: list[Sample] = []
    steps = list(plan(names, targets, rounds))
    with open(results, "w", buffering=1) as file:
        for step, (number, target, chosen) in enumerate(steps, 1):
            started = time.monotonic()
            arguments = ["--cpus", str(cpus), "--spins-per-ms", str(spins_per_ms), *(["--quick"] if quick else [])]
            lines = run_sample(TARGETS[target], chosen, arguments, rivals)
            for line in lines:
                sample = {"round": number, "target": target, **line}
                samples.append(sample)
                file.write(json.dumps(sample) + "\n")
            seconds = time.monotonic() - started
            say(f"[{step}/{len(steps)}] round {number + 1} {target}: {summary(lines)} ({seconds:.1f} s)")
    return samples


def run_sample(target: Target, names: Sequence[str], arguments: Sequence[str], rivals: str) -> list[Sample]:
    """The lines one sample process wrote; a benchmark it did not get to has an error that says why."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, **target.environment, processes.MARK: mark}
    environment["PYTHONPATH"] = str(ROOT)
    python = rivals if target.rival else sys.executable
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "lines"
        output.touch()
        command = [python, "-m", "benchmarks.sample", "--target", target.name, "--output", str(output)]
        command += ["--benchmarks", ",".join(names), *arguments]
        ending, complaint = execute(command, environment, Path(directory))
        lines: list[Sample] = [json.loads(line) for line in output.read_text().splitlines()]
    leftovers = processes.end_leftovers(mark)
    reached = {line.get("benchmark") for line in lines}
    lines += [{"benchmark": name, "error": f"{ending}: {complaint}"} for name in names if name not in reached]
    lines.append({"ending": ending, "leftover_processes": leftovers})
    return lines


def execute(command: Sequence[str], environment: dict[str, str], directory: Path) -> tuple[str, str]:
    """Run the command to its end or its time limit: how it ended, and the last thing it said."""
    with open(directory / "said", "w+") as said:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(SAMPLE_SECONDS_MAX)
            ending = "ended" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ending = f"no end after {SAMPLE_SECONDS_MAX:.0f} s"
        except BaseException:
            process.kill()
            processes.end_leftovers(environment[processes.MARK], patience_seconds=0)
            raise
        said.seek(0)
        words = [line.strip() for line in said.read().splitlines() if line.strip()]
    return ending, words[-1][:200] if words else "said nothing"


def summary(lines: Sequence[Sample]) -> str:
    """One sample's values, short."""
    words = []
    for line in lines:
        if "value" in line:
            words.append(f"{line['benchmark']} {line['value']:.4g} {BENCHMARKS[line['benchmark']].unit}")
        elif "error" in line:
            words.append(f"{line['benchmark']} FAILED ({line['error']})")
    return ", ".join(words) or "nothing to measure"
