"""``obsray sim``: run scenarios of the simulator, replay a seed, say what decisions cost."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from obsray.cli import output
from obsray.cli.sessions import Problem
from obsray.dashboard import units
from obsray.testing.campaign import Outcome, attempt, campaign
from obsray.testing.run_log import lines
from obsray.testing.scenarios import Scenario, ScenarioError, read_scenario
from obsray.testing.simulator import MACHINES, Result, SimulationFailed, Simulator

LINES_TOLD = 40
#: Who waits for longer is told how far it is, this often.
TELL_SECONDS = 5.0
#: Where a source tree keeps its scenarios.
SCENARIOS = Path(__file__).resolve().parents[2] / "tests" / "simulation" / "scenarios"


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray sim``."""
    if options.seed < 0:
        raise Problem(f"--seed {options.seed}: must be >= 0", "A seed names a run: 0, 1, 2, ...")
    if options.scale:
        from obsray.cli import scale

        return scale.run(options)
    if options.draw:
        raise Problem("--draw is for --scale", "obsray sim --scale --draw DIR")
    if options.list or options.scenario is None:
        return _list(options)
    if options.runs < 1:
        raise Problem(f"--runs {options.runs}: there is nothing to run")
    if options.jobs is not None and options.jobs < 1:
        raise Problem(f"--jobs {options.jobs}: nobody would run anything")
    scenarios = find_all(options.scenario)
    about = _id(options.about)
    if options.log or (len(scenarios) == 1 and options.runs == 1 and not options.twice):
        if len(scenarios) > 1 or options.runs > 1:
            raise Problem("--log is for one run", "Name one scenario and one seed.")
        return _one(options, scenarios[0], about)
    return _many(options, scenarios)


# --- one run ---------------------------------------------------------------------------------------------------------


def _one(options: argparse.Namespace, scenario: Scenario, about: bytes) -> int:
    began = time.perf_counter()
    simulator = Simulator(scenario, options.seed, options.thorough, time.perf_counter_ns)
    simulator.on_progress = Progress(began).of_run
    try:
        result = simulator.run()
    except SimulationFailed as failed:
        if options.log:
            _print_log(simulator, about)
        elif not options.thorough:
            print("it failed; it is run again with a look after each step, to name the first bad one", file=sys.stderr)
            failed = _exactly(scenario, options.seed, failed)
        if not options.log and failed.run is not None:
            print(f"the last {LINES_TOLD} lines of what happened (--log: all of it):", file=sys.stderr)
            for line in list(lines(failed.run, about))[-LINES_TOLD:]:
                print(units.plain(line), file=sys.stderr)
        _complain(str(failed))
        return 1
    seconds = time.perf_counter() - began
    if options.log:
        _print_log(simulator, about)
    return _tell(options, [scenario], [Outcome(scenario.name, options.seed, seconds, result)], seconds)


def _exactly(scenario: Scenario, seed: int, first: SimulationFailed) -> SimulationFailed:
    try:
        Simulator(scenario, seed, thorough=True).run()
    except SimulationFailed as exact:
        return exact
    return first


def _print_log(simulator: Simulator, about: bytes) -> None:
    for line in lines(simulator, about):
        print(units.plain(line))


# --- many runs -------------------------------------------------------------------------------------------------------


def _many(options: argparse.Namespace, scenarios: list[Scenario]) -> int:
    pairs = [(scenario, options.seed + number) for scenario in scenarios for number in range(options.runs)]
    jobs = min(options.jobs or len(os.sched_getaffinity(0)), len(pairs))
    began = time.perf_counter()
    outcomes: list[Outcome] = []
    progress = Progress(began, len(pairs))
    for outcome in _outcomes(options, pairs, jobs):
        outcomes.append(outcome)
        if outcome.failure:
            _complain(f"{outcome.scenario}, seed {outcome.seed}: {outcome.failure}")
            if not options.keep_going:
                break
        progress.of_runs(outcomes)
    return _tell(options, scenarios, outcomes, time.perf_counter() - began)


def _outcomes(options: argparse.Namespace, pairs: list[tuple[Scenario, int]], jobs: int) -> Iterator[Outcome]:
    if jobs > 1:
        yield from campaign(pairs, jobs, options.twice, options.thorough)
    else:
        for scenario, seed in pairs:
            yield attempt(scenario, seed, options.twice, options.thorough, time.perf_counter_ns)


class Progress:
    """Lines on standard error for whoever waits longer than some seconds. ``runs``: how many there will be."""

    def __init__(self, began: float, runs: int = 1) -> None:
        self._began = began
        self._runs = runs
        self._told_at = began

    def of_run(self, simulator: Simulator) -> None:
        """One long run has come so far."""
        if seconds := self._due():
            living = sum(not node.dead for node in simulator.nodes)
            print(
                f"... {seconds:.0f} s: {units.count(simulator.steps)} steps, "
                f"{simulator.agenda.elapsed_ns / 1e9:.2f} s simulated, {units.count(living)} nodes, "
                f"{units.count(simulator.ledger.ended)} attempts ended",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def of_runs(self, outcomes: list[Outcome]) -> None:
        """So many runs are over."""
        if seconds := self._due():
            done, failed = len(outcomes), sum(bool(each.failure) for each in outcomes)
            left = seconds / done * (self._runs - done)
            print(
                f"... {seconds:.0f} s: {units.count(done)} of {units.count(self._runs)} runs, {failed} failed, "
                f"about {left:.0f} s left ({outcomes[-1].scenario})",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def _due(self) -> float:
        now = time.perf_counter()
        if now < self._told_at + TELL_SECONDS:
            return 0.0
        self._told_at = now
        return now - self._began


# --- answers ---------------------------------------------------------------------------------------------------------


def _complain(text: str) -> None:
    for line in text.splitlines():
        print(f"obsray: {units.plain(line)}", file=sys.stderr)


def _tell(options: argparse.Namespace, scenarios: list[Scenario], outcomes: list[Outcome], seconds: float) -> int:
    failed = [each for each in outcomes if each.failure]
    answer = _answer(outcomes, seconds)
    if options.json:
        print(json.dumps(answer, indent=2))
        return 1 if failed else 0
    coloured = output.is_coloured(sys.stdout)
    if len(scenarios) > 1:
        print(output.facts(_by_scenario(outcomes), coloured) + "\n")
    if answer["runs"]:
        print(_text(scenarios, outcomes, answer, coloured))
    if not failed:
        again = ", and each seed run twice was the same run" if options.twice else ""
        print(output.paint(f"all invariants hold{again}", "ok", coloured))
        return 0
    planned = len(scenarios) * options.runs
    stopped = (
        "" if len(outcomes) == planned else f"; {units.count(planned - len(outcomes))} were not run (--keep-going)"
    )
    print(
        output.paint(
            f"{len(failed)} of {units.count(len(outcomes))} runs failed{stopped}; replay them:", "bad", coloured
        )
    )
    for each in failed[:20]:
        print(f"  obsray sim --seed {each.seed} --scenario {each.scenario}")
    return 1


def _by_scenario(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    seconds: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    for each in outcomes:
        seconds[each.scenario] += each.seconds  # type: ignore[assignment]
        failed[each.scenario] += bool(each.failure)
        runs[each.scenario] += 1
    return [
        (name, f"{units.count(count)} seeds, {failed[name]} failed, {seconds[name] / count:.3f} s each")
        for name, count in runs.items()
    ]


def _id(text: str | None) -> bytes:
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        raise Problem(f"--about {text}: an id is hex digits") from None


def find(name: str) -> Scenario:
    """The scenario called ``name``, or the one in that file. Raises Problem."""
    is_file = name.endswith(".toml")
    try:
        scenario = read_scenario(Path(name) if is_file else SCENARIOS / f"{name}.toml")
        # So that the command that replays a failure names the file.
        return replace(scenario, name=name) if is_file else scenario
    except FileNotFoundError:
        raise Problem(f"there is no scenario {name!r}", "'obsray sim' lists those of this source tree.") from None
    except (ScenarioError, OSError) as error:
        raise Problem(str(error)) from None


def find_all(pattern: str) -> list[Scenario]:
    """All scenarios whose names match a shell pattern, or the one that is named. Raises Problem."""
    if not set(pattern) & set("*?["):
        return [find(pattern)]
    names = [path.stem for path in sorted(SCENARIOS.glob("*.toml")) if fnmatch.fnmatchcase(path.stem, pattern)]
    if not names:
        raise Problem(f"no scenario is called like {pattern!r}", "'obsray sim' lists those of this source tree.")
    return [find(name) for name in names]


def _list(options: argparse.Namespace) -> int:
    found = {path.stem: _first_line(path) for path in sorted(SCENARIOS.glob("*.toml"))}
    if options.json:
        print(json.dumps(found, indent=2))
    elif found:
        print(output.facts(list(found.items()), output.is_coloured(sys.stdout)))
        print("\nrun one: obsray sim --scenario NAME --seed N")
    else:
        raise Problem("no source tree is here to have scenarios", "Give a file: obsray sim --scenario mine.toml")
    return 0


def _first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("#").strip()


def _answer(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """Sums over all runs, the runs, and what failed."""
    results: list[Result] = [each.result for each in outcomes if each.result is not None]
    decisions = {kind: sum(result.decisions[kind] for result in results) for kind in MACHINES}
    decide_ns = {kind: sum(result.decide_ns[kind] for result in results) for kind in MACHINES}
    total = sum(decisions.values())
    return {
        "runs": [asdict(result) for result in results],
        "failures": [
            {"scenario": each.scenario, "seed": each.seed, "failure": each.failure} for each in outcomes if each.failure
        ],
        "seconds": seconds,
        "tasks": sum(result.tasks for result in results),
        "attempts": sum(result.attempts for result in results),
        "decisions": total,
        "decisions_per_second": total / max(1e-9, sum(decide_ns.values()) / 1e9),
        "node_decision_microseconds": decide_ns["node"] / max(1, decisions["node"]) / 1000,
        "owner_decision_microseconds": decide_ns["owner"] / max(1, decisions["owner"]) / 1000,
        "decision_microseconds_per_task": sum(decide_ns.values()) / max(1, sum(r.tasks for r in results)) / 1000,
    }


def _text(scenarios: list[Scenario], outcomes: list[Outcome], answer: dict[str, Any], coloured: bool) -> str:
    runs = answer["runs"]
    first, last = runs[0], runs[-1]
    seeds = sorted({each.seed for each in outcomes})
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    name = scenarios[0].name if len(scenarios) == 1 else f"{len(scenarios)} scenarios"
    nodes = max(scenario.nodes for scenario in scenarios)
    total = {key: sum(run[key] for run in runs) for key in ("events", "frames", "deaths", "cancels", "steps")}
    virtual = sum(run["virtual_seconds"] for run in runs)
    pairs = [
        ("scenario", f"{name}, {which}, {units.count(nodes)} {'node' if nodes == 1 else 'nodes'}"),
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
        ("digest", f"{first['digest']} (equal for equal runs)" if len(runs) == 1 else f"{last['digest']} (the last)"),
    ]
    return output.facts(pairs, coloured)
