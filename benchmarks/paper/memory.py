"""Figure 10b: memory of every process while two million tasks go by, and of what is recorded about them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import obsray
from benchmarks.paper.cluster import processes, resident_bytes
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Point, Result, Row, Series, significant

MB = 10**6
#: The cap under which telemetry is kept; the paper's flush has one, too.
CAP_BYTES = 16 << 20
#: Records of a kind are compacted when they are so many; only what is compacted is subject to the cap.
NEWEST_BYTES = 16 << 20
FLUSHED = "none with flushing"
ROLES = ("driver", "node", "control store", "collector", "worker")
#: In the second half of the run a process may grow by this share of what a kept reference costs.
GROWTH_SHARE_MAX = 0.05


@obsray.remote
def nothing(number: int) -> int:
    return number


def folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            # Taken over by the collector meanwhile.
            continue
    return total


def run_tasks(run: Run, total: int, step: int, cap: int | None, keep: bool) -> dict[str, dict[float, float]]:
    """What was in use (bytes, by role, and of recorded telemetry) after so many tasks.

    ``cap``: of stored telemetry. ``keep``: hold every reference until the end.
    """
    settings = {"telemetry_bytes_max": cap} if cap else {}
    context = obsray.init(num_cpus=1, include_dashboard=False, _system_config=settings)
    telemetry = Path(context.address_info["session_dir"]) / "telemetry"
    kept: list[Any] = []
    used: dict[str, dict[float, float]] = defaultdict(dict)
    try:
        obsray.get(nothing.remote(0))
        for done in range(0, total, step):
            refs = [nothing.remote(number) for number in range(done, done + step)]
            assert obsray.get(refs) == list(range(done, done + step)), "a task answered for another"
            if keep:
                kept += refs
            del refs
            for role, amount in resident_bytes(processes()).items():
                used[role][done + step] = amount
            used["telemetry"][done + step] = folder_bytes(telemetry)
            if (done // step) % 10 == 9:
                run.say(
                    f"{done + step:,} tasks, references {'kept' if keep else 'let go'}: "
                    f"driver {used['driver'][done + step] / MB:.0f} MB"
                )
    finally:
        kept.clear()
        obsray.shutdown()
    return used


def body(run: Run) -> Result:
    total, step = run.pick((2_000_000, 25_000), (8_000, 1_000))
    bounded = run_tasks(run, total, step, CAP_BYTES, keep=False)
    unbounded = run_tasks(run, total // 4, step, None, keep=True)
    return result(bounded, unbounded)


def curve(title: str, used: dict[float, float], reference: bool = False) -> Series:
    return Series(title, [Point(done, [amount / MB]) for done, amount in sorted(used.items())], reference)


def growth(used: dict[float, float]) -> float:
    """Bytes that the second half of the tasks added to what is usually in use, per task of a half.

    Usually: what is stored every few seconds makes a saw, whose highest tooth is chance.
    """
    half = max(used) / 2
    first = median(amount for done, amount in used.items() if done <= half)
    return (median(amount for done, amount in used.items() if done > half) - first) / half


def result(bounded: dict[str, dict[float, float]], unbounded: dict[str, dict[float, float]]) -> Result:
    tasks = Axis("tasks done")
    held = curve("driver that keeps every reference", unbounded["driver"], True)
    charts = [
        Chart(
            "memory-processes",
            "Figure 10b: memory of each process",
            tasks,
            Axis("resident memory (MB)"),
            [*(curve(role, bounded[role]) for role in ROLES if role in bounded), held],
        ),
        Chart(
            "memory-telemetry",
            "Figure 10b: what is stored about the tasks",
            tasks,
            Axis("telemetry on disk (MB)"),
            [curve("at most 16 MiB", bounded["telemetry"]), curve("at most 2 GiB (default)", unbounded["telemetry"])],
        ),
    ]
    gained = {role: growth(bounded[role]) for role in ROLES if role in bounded}
    grown = growth(unbounded["driver"])
    stored = unbounded["telemetry"]
    a_task = max(stored.values()) / max(stored)
    most = max(bounded["telemetry"].values())
    rows = [
        Row("tasks, one after the other through one driver", "50 M", f"{max(bounded['driver']) / 1e6:g} M"),
        *(
            Row(f"{role}: growth in the second half", FLUSHED, f"{more:+.1f} bytes a task")
            for role, more in gained.items()
        ),
        Row("without bound", "linear, stalls at capacity", f"{significant(grown)} bytes per reference that is kept"),
        Row("stored about each task", "–", f"{significant(a_task)} bytes"),
        Row("telemetry, most on disk under the cap of 16 MiB", "–", f"{significant(most / MB)} MB"),
    ]
    worst = max(gained, key=lambda role: gained[role])
    claims = [
        Claim(
            "memory of every process is constant while tasks go by",
            f"{worst} grew most: {gained[worst]:+.1f} bytes a task in the second half",
            gained[worst] <= GROWTH_SHARE_MAX * grown,
        ),
        Claim(
            "what is stored is bounded: the cap, and the newest 17 MB of a kind of record",
            f"{significant(most / MB)} MB of {significant((CAP_BYTES + NEWEST_BYTES) / MB)} MB",
            most <= 1.1 * (CAP_BYTES + NEWEST_BYTES),
        ),
        Claim("what is kept grows linearly", f"{significant(grown)} bytes a reference", grown > 50),
    ]
    return Result(charts, rows, claims)
