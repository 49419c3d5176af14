"""``obsray sim``: run scenarios of the simulator, replay a seed, say what decisions cost."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from obsray.cli import output
from obsray.cli.sessions import Problem
from obsray.dashboard import units
from obsray.testing.run_log import lines
from obsray.testing.scenarios import Scenario, ScenarioError, read_scenario
from obsray.testing.simulator import Result, SimulationFailed, Simulator, simulate

LINES_TOLD = 40
#: Where a source tree keeps its scenarios.
SCENARIOS = Path(__file__).resolve().parents[2] / "tests" / "simulation" / "scenarios"


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray sim``."""
    if options.scale:
        from obsray.cli import scale

        return scale.run(options)
    if options.draw:
        raise Problem("--draw is for --scale", "obsray sim --scale --draw DIR")
    if options.list or options.scenario is None:
        return _list(options)
    if options.runs < 1:
        raise Problem(f"--runs {options.runs}: there is nothing to run")
    scenario = find(options.scenario)
    about = _id(options.about)
    results, seconds = [], 0.0
    for seed in range(options.seed, options.seed + options.runs):
        began = time.perf_counter()
        try:
            if options.log:
                results.append(_told(scenario, seed, options.thorough, about))
            else:
                results.append(simulate(scenario, seed, options.thorough, time.perf_counter_ns))
        except SimulationFailed as failed:
            if failed.run is not None and not options.log:
                print(f"the last {LINES_TOLD} lines of what happened (--log: all of it):", file=sys.stderr)
                for line in list(lines(failed.run, about))[-LINES_TOLD:]:
                    print(units.plain(line), file=sys.stderr)
            for line in str(failed).splitlines():
                print(f"obsray: {units.plain(line)}", file=sys.stderr)
            return 1
        seconds += time.perf_counter() - began
    answer = _answer(results, seconds)
    print(json.dumps(answer, indent=2) if options.json else _text(scenario, answer))
    return 0


def _told(scenario: Scenario, seed: int, thorough: bool, about: bytes) -> Result:
    """Run and print all that happened, also if it fails."""
    simulator = Simulator(scenario, seed, thorough, time.perf_counter_ns)
    try:
        return simulator.run()
    finally:
        for line in lines(simulator, about):
            print(units.plain(line))


def _id(text: str | None) -> bytes:
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        raise Problem(f"--about {text}: an id is hex digits") from None


def find(name: str) -> Scenario:
    """The scenario called ``name``, or the one in that file. Raises Problem."""
    path = Path(name) if name.endswith(".toml") else SCENARIOS / f"{name}.toml"
    try:
        return read_scenario(path)
    except FileNotFoundError:
        raise Problem(f"there is no scenario {name!r}", "'obsray sim' lists those of this source tree.") from None
    except (ScenarioError, OSError) as error:
        raise Problem(str(error)) from None


def _list(options: argparse.Namespace) -> int:
    found = {path.stem: _first_line(path) for path in sorted(SCENARIOS.glob("*.toml"))}
    if options.json:
        print(json.dumps(found, indent=2))
    elif found:
        print(output.facts(list(found.items()), output.is_coloured(sys.stdout)))
    else:
        raise Problem("no source tree is here to have scenarios", "Give a file: obsray sim --scenario mine.toml")
    return 0


def _first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("#").strip()


def _answer(results: list[Result], seconds: float) -> dict[str, Any]:
    """Sums over all runs, and the runs."""
    decisions = {kind: sum(result.decisions[kind] for result in results) for kind in ("node", "owner", "control")}
    decide_ns = {kind: sum(result.decide_ns[kind] for result in results) for kind in ("node", "owner", "control")}
    total = sum(decisions.values())
    return {
        "runs": [asdict(result) for result in results],
        "seconds": seconds,
        "tasks": sum(result.tasks for result in results),
        "attempts": sum(result.attempts for result in results),
        "decisions": total,
        "decisions_per_second": total / (sum(decide_ns.values()) / 1e9),
        "node_decision_microseconds": decide_ns["node"] / max(1, decisions["node"]) / 1000,
        "owner_decision_microseconds": decide_ns["owner"] / max(1, decisions["owner"]) / 1000,
        "decision_microseconds_per_task": sum(decide_ns.values()) / max(1, sum(r.tasks for r in results)) / 1000,
    }


def _text(scenario: Scenario, answer: dict[str, Any]) -> str:
    runs = answer["runs"]
    first, last = runs[0], runs[-1]
    seeds = f"seed {first['seed']}" if len(runs) == 1 else f"seeds {first['seed']} to {last['seed']}"
    total = {key: sum(run[key] for run in runs) for key in ("events", "frames", "deaths", "cancels", "steps")}
    virtual = sum(run["virtual_seconds"] for run in runs)
    pairs = [
        ("scenario", f"{scenario.name}, {seeds}"),
        ("tasks", f"{units.count(answer['tasks'])} in {units.count(answer['attempts'])} attempts"),
        ("faults", f"{units.count(total['deaths'])} deaths, {units.count(total['cancels'])} cancels"),
        ("events", f"{units.count(total['events'])} in {units.count(total['frames'])} frames"),
        ("time", f"{virtual:.2f} s simulated in {answer['seconds']:.2f} s, {units.count(total['steps'])} steps"),
        ("decisions", f"{units.count(answer['decisions'])}, {answer['decisions_per_second']:,.0f} per second"),
        (
            "cost",
            f"{answer['node_decision_microseconds']:.1f} µs a decision of the node, "
            f"{answer['owner_decision_microseconds']:.1f} µs of an owner, "
            f"{answer['decision_microseconds_per_task']:.0f} µs a task in all",
        ),
        ("digest", first["digest"] if len(runs) == 1 else f"{last['digest']} (the last)"),
    ]
    return output.facts(pairs, output.is_coloured(sys.stdout)) + "\nall invariants hold"
