"""Figure 11b: actors whose node is killed, with and without checkpoints: how many calls are executed again.

All actors count their calls and write each execution down. Killed actors start again on other nodes and repeat their
calls since the last checkpoint, or all of them. Both kinds run beside each other, so that one load is the other's.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import obsray
from benchmarks.paper.cluster import cluster
from benchmarks.paper.executions import Execution, note, noted, rate
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Mark, Point, Result, Row, Series, significant

NODES = 4
CALL_SECONDS = 0.05
BIN_SECONDS = 0.5
WITH, WITHOUT = "with checkpoints", "without"


class Counter:
    """Its state is the number of its calls."""

    def __init__(self, number: int, path: str) -> None:
        self.number, self.path, self.calls = number, path, 0

    def where(self) -> str:
        return str(obsray.get_runtime_context().get_node_id())

    def call(self, call: int) -> int:
        time.sleep(CALL_SECONDS)
        note(self.path, self.number, call)
        self.calls += 1
        return self.calls

    def __obsray_save__(self) -> int:
        return self.calls

    def __obsray_restore__(self, calls: int) -> None:
        self.calls = calls


RemoteCounter: Any = obsray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Counter)


class Outcome:
    """One run: every execution, when the node was killed, how many actors were there, and who they were."""

    def __init__(self, executions: list[Execution], killed_at: float, began: float, victims: set[int]) -> None:
        self.executions, self.killed_at, self.began, self.victims = executions, killed_at, began, victims

    @property
    def again(self) -> int:
        return sum(each.again for each in self.executions)

    @property
    def recovery_seconds(self) -> float:
        """From the kill until every killed actor executed a call that is new."""
        firsts = [
            min(each.at for each in self.executions if each.who == who and each.at > self.killed_at and not each.again)
            for who in self.victims
        ]
        return max(firsts) - self.killed_at

    @property
    def rate_before(self) -> float:
        """Calls a second until the kill."""
        return sum(each.at < self.killed_at for each in self.executions) / (self.killed_at - self.began)


def run_actors(run: Run, count: int, calls: int, kill_after: float, every: int) -> dict[str, Outcome]:
    """``count`` actors of each kind make all their calls; a node is killed after ``kill_after`` seconds."""
    described: list[dict[str, Any]] = [{"num_cpus": 1}]
    described += [{"num_cpus": 1, "resources": {"seat": 2 * count}} for _ in range(NODES)]
    with tempfile.TemporaryDirectory() as folder, cluster(described) as (made, nodes):
        path = Path(folder) / "executions"
        seated = RemoteCounter.options(resources={"seat": 1}, scheduling_strategy="SPREAD")
        saving = RemoteCounter.options(resources={"seat": 1}, scheduling_strategy="SPREAD", checkpoint_every=every)
        # Nodes take turns, so each gets some of both kinds.
        some = [(saving if saves(number) else seated).remote(number, str(path)) for number in range(2 * count)]
        places = obsray.get([actor.where.remote() for actor in some])
        victim = max(nodes[1:], key=lambda node: (_fewest_of_a_kind(places, node.node_id), node.node_id))
        victims = {number for number, place in enumerate(places) if place == victim.node_id}
        began = time.monotonic()
        refs = [[actor.call.remote(number) for number in range(calls)] for actor in some]
        ready, _ = obsray.wait([each[-1] for each in refs], num_returns=2 * count, timeout=kill_after)
        assert not ready, "an actor was done before a node was killed"
        made.remove_node(victim, allow_graceful=False)
        killed_at = time.monotonic()
        answers = [obsray.get(each) for each in refs]
        assert answers == [list(range(1, calls + 1))] * 2 * count, "a call had no effect, or more than one"
        assert victim.node_id not in obsray.get([actor.where.remote() for actor in some])
        executions = noted(path)
    assert len({(each.who, each.what) for each in executions}) == 2 * count * calls
    outcomes = {}
    for name in (WITH, WITHOUT):
        own = [each for each in executions if saves(each.who) is (name is WITH)]
        killed = {who for who in victims if saves(who) is (name is WITH)}
        assert killed, f"no actor {name} was on the node that was killed"
        outcomes[name] = outcome = Outcome(own, killed_at, began, killed)
        run.say(
            f"{name}: {len(outcome.victims)} of {count} actors killed, {outcome.again} calls executed again, "
            f"{outcome.recovery_seconds:.1f} s"
        )
    return outcomes


def saves(number: int) -> bool:
    """Which of the two kinds an actor is."""
    return number // NODES % 2 == 0


def _fewest_of_a_kind(places: list[str], node: str) -> int:
    there = [saves(number) for number, place in enumerate(places) if place == node]
    return min(there.count(True), there.count(False))


def body(run: Run) -> Result:
    count, calls, kill_after, every = run.pick((20, 300, 7.0, 50), (4, 40, 1.0, 10))
    return result(run_actors(run, count, calls, kill_after, every), count, every)


def result(outcomes: dict[str, Outcome], count: int, every: int) -> Result:
    charts = []
    for name, outcome in outcomes.items():
        began, seconds = outcome.began, outcome.executions[-1].at - outcome.began
        curves = {
            "for the first time": [each.at for each in outcome.executions if not each.again],
            "again": [each.at for each in outcome.executions if each.again],
        }
        charts.append(
            Chart(
                f"actor-recovery-{'checkpoints' if name == WITH else 'none'}",
                f"Figure 11b: calls executed, {name}",
                Axis("time (s)"),
                Axis("calls/s"),
                [
                    Series(
                        title, [Point(at, [value]) for at, value in rate(times, began, seconds, BIN_SECONDS).items()]
                    )
                    for title, times in curves.items()
                ],
                [Mark(outcome.killed_at - began, "a node is killed")],
            )
        )
    some, all_ = outcomes[WITH], outcomes[WITHOUT]
    lost, others = len(some.victims), len(all_.victims)
    factor = (all_.again / others) / max(1, some.again / lost)
    overhead = 100 * (1 - some.rate_before / all_.rate_before)
    rows = [
        Row("actors, of them on the node that is killed", "2000, 400", f"{2 * count}, {lost + others}"),
        Row(f"calls executed again, {WITH} (every {every} calls)", "500", f"{some.again} by {lost}"),
        Row(f"calls executed again, {WITHOUT}", "10,000", f"{all_.again} by {others}"),
        Row(f"until all killed actors did something new, {WITH}", "–", f"{some.recovery_seconds:.1f} s"),
        Row(f"the same, {WITHOUT}", "70 s (200 – 270 s)", f"{all_.recovery_seconds:.1f} s"),
        Row("calls a second before the kill, with and without", "“minimal overhead”",
            f"{significant(some.rate_before)}, {significant(all_.rate_before)}"),
    ]  # fmt: skip
    # The call that ran when the node was killed may be written down although its effect was not kept.
    bound = lost * (every + 1)
    claims = [
        Claim(
            f"at most as many calls are repeated as lie between checkpoints ({lost} × {every})",
            f"{some.again}",
            some.again <= bound,
        ),
        Claim(
            "without checkpoints, several times as many",
            f"{significant(factor)} × for each actor",
            factor >= 2,
        ),
        Claim("the checkpoints cost little", f"{overhead:+.1f} % fewer calls a second", overhead < 10),
    ]
    return Result(charts, rows, claims)
