"""``obsray sim --scale``: what decisions cost in clusters of 10 to 10,000 nodes."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from obsray.cli.sessions import Problem
from obsray.testing.scale import ControlCost, Cost, measure, measure_control
from obsray.testing.scale_charts import draw, processes

NODES = (10, 100, 1_000, 10_000)
DECISIONS = 400
ROUNDS = 3


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray sim --scale``."""
    directory = Path(options.draw) if options.draw else None
    if directory is not None and not directory.is_dir():
        raise Problem(f"{directory} is no directory", "Give one that is there: obsray sim --scale --draw docs")
    # The CPU's time, and the best of some rounds: what else runs on this machine must not count.
    costs = [_best([measure(nodes, DECISIONS, time.process_time) for _ in range(ROUNDS)]) for nodes in NODES]
    control = [measure_control(nodes, 4 * DECISIONS, time.process_time) for nodes in NODES]
    if options.json:
        print(json.dumps({"nodes": [asdict(c) for c in costs], "control": [asdict(c) for c in control]}, indent=2))
    else:
        print(_text(costs, control))
    if directory is not None:
        for path in draw(directory, costs, control):
            print(f"wrote {path}")
    return 0


def _best(rounds: list[Cost]) -> Cost:
    return min(rounds, key=lambda cost: cost.seconds)


def _text(costs: list[Cost], control: list[ControlCost]) -> str:
    lines = [
        "   nodes  decisions/s     µs per    µs per   decisions/s  control store",
        "          of one node   decision    report        of all      processes",
    ]
    for cost, store in zip(costs, control, strict=True):
        own, of_all = f"{cost.per_second:11,.0f}  {1e6 / cost.per_second:9.0f}", cost.nodes * cost.per_second
        hearing = 1e6 * cost.report_seconds
        lines.append(f"{cost.nodes:8,}  {own}  {hearing:8.0f}  {of_all:12,.0f}  {processes(store):13,}")
    growth = (costs[-1].seconds / costs[0].seconds, costs[-1].nodes / costs[0].nodes)
    lines.append(f"a decision costs {growth[0]:.1f} times as much with {growth[1]:,.0f} times as many nodes")
    return "\n".join(lines)
