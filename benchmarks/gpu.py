"""``python -m benchmarks.gpu``: what watching a GPU costs and finds, on a machine that has one.

A small transformer is trained with torch: all steps in one task (``task``), each step a task of its own (``tasks``),
each step a call of an actor (``actor``); with ``gpu_telemetry`` off, kernels and full in turn, each in a session of its
own and in alternating order. Printed: milliseconds a step, microseconds a launch, what was recorded and lost, which
share of the kernels has a task; and the kernel time of a step here against torch.profiler's, which may differ by 2 %.

``--session DIR`` analyses a session that is over instead, anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LEVELS = ("off", "kernels", "full")
WAYS = ("task", "tasks", "actor")
#: How far kernel time may be from what torch.profiler says.
DIFFERENCE_MAX = 0.02
WARM_UP_STEPS = 20
LAUNCHES = 20_000
SESSION_SECONDS_MAX = 600.0
#: What torch.profiler shows of a GPU besides kernels: copies, fills, and ranges of code.
_NO_KERNELS = ("Memcpy", "Memset", "Optimizer.", "ProfilerStep")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Found:
    """What a session knows of its GPU work."""

    kernels: int
    kernel_seconds: float
    copies: int
    raw_bytes: int
    records_lost: int
    attributed_share: float
    #: Kernel seconds of each task that had any, longest first.
    by_task: tuple[float, ...]
    refused: tuple[str, ...]


def analyse(directory: Path) -> Found:
    """What is known of the GPU work of a session, live or over."""
    from obsray.telemetry.store import Store
    from obsray.telemetry.views import Views

    store = Store.open(directory)
    views = Views(store)
    views.refresh()
    summary, table = views.gpu_summary(), views.gpu_table
    tasks = sorted(table.tasks["kernel_seconds"][: table.index.count].tolist(), reverse=True)
    return Found(
        kernels=summary["kernels"],
        kernel_seconds=sum(tasks) + summary["unattributed_seconds"],
        copies=int(table.tasks["copies"][: table.index.count].sum()),
        raw_bytes=sum(row["raw_bytes"] for row in store.rows("gpu_capture_sample")),
        records_lost=summary["records_lost"],
        attributed_share=1.0 - summary["unattributed_share"],
        by_task=tuple(tasks),
        refused=tuple(row["error"] for row in store.rows("gpu_capture_refused")),
    )


def lacking() -> list[str]:
    """What this machine lacks for a run, each with what to do."""
    try:
        import torch
    except ImportError:
        return ["torch is not installed: pip install torch (a build for CUDA)"]
    if not torch.cuda.is_available():
        why = "this build of torch is not for CUDA" if torch.version.cuda is None else "torch finds no GPU"
        return [f"no GPU: {why}; a machine with an NVIDIA GPU and its driver is needed"]
    from obsray.gpu import cupti

    if not any(_loads(path) for path in cupti.find()):
        return ["no libcupti: pip install nvidia-cuda-cupti (torch's own wheels for CUDA bring it)"]
    return []


def _loads(path: str) -> bool:
    from obsray.gpu.cupti import Cupti, CuptiError

    try:
        Cupti(path)
    except CuptiError:
        return False
    return True


# --- what is run, in workers ------------------------------------------------------------------------------------------


class Training:
    """A transformer of 2 layers, d = 128, with batches of 16 x 32."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(1)
        layer = torch.nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
        self.model = torch.nn.Sequential(
            torch.nn.Embedding(1000, 128), torch.nn.TransformerEncoder(layer, 2), torch.nn.Linear(128, 1000)
        ).cuda()
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.batch = torch.randint(0, 1000, (16, 32), device="cuda")

    def step(self) -> float:
        """One step; returns its seconds, from the start to the end of the last kernel."""
        import torch

        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(self.batch)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 1000), self.batch.reshape(-1))
        loss.backward()
        self.optimizer.step()
        torch.cuda.synchronize()
        return time.perf_counter() - began


_KEPT: list[Training] = []


def train(steps: int) -> list[float]:
    """So many steps with the model of this process; the seconds of each."""
    if not _KEPT:
        _KEPT.append(Training())
        for _ in range(WARM_UP_STEPS):
            _KEPT[0].step()
    return [_KEPT[0].step() for _ in range(steps)]


def launch(count: int) -> float:
    """Seconds a launch of a small kernel in a loop."""
    import torch

    small = torch.zeros(16, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        small.add_(1)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def profile(steps: int) -> tuple[int, float]:
    """Kernels and their seconds in so many steps, as torch.profiler sees them."""
    import torch
    from torch.profiler import ProfilerActivity

    train(0)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        train(steps)
    spans = [
        event.time_range.elapsed_us()
        for event in profiler.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not event.name.startswith(_NO_KERNELS)
        and not getattr(event, "is_user_annotation", False)
    ]
    return len(spans), sum(spans) / 1e6


def one(level: str, way: str, steps: int) -> dict[str, Any]:
    """One session; ``way`` may also be ``profiler``. What was measured, and where its records are."""
    import obsray

    # Workers import this module, whatever this process was started as.
    from benchmarks.gpu import _Actor, launch, profile, train

    result: dict[str, Any] = {"level": level, "way": way, "steps": steps}
    settings = {"gpu_telemetry": level}
    with obsray.init(num_cpus=2, num_gpus=1, include_dashboard=False, _system_config=settings) as context:
        result["directory"] = context["session_dir"]
        # No new process for each task: the model stays where it is.
        on_gpu = obsray.remote(num_gpus=1, max_calls=0)
        if way == "profiler":
            result["profiler"] = obsray.get(on_gpu(profile).remote(steps))
        elif way == "actor":
            actor = obsray.remote(num_gpus=1)(_Actor).remote()
            obsray.get(actor.train.remote(0))
            result["step_seconds"] = [obsray.get(actor.train.remote(1))[0] for _ in range(steps)]
        elif way == "tasks":
            run = on_gpu(train)
            obsray.get(run.remote(0))
            result["step_seconds"] = [obsray.get(run.remote(1))[0] for _ in range(steps)]
        else:
            result["step_seconds"] = obsray.get(on_gpu(train).remote(steps))
            result["launch_seconds"] = obsray.get(on_gpu(launch).remote(LAUNCHES))
    return result


class _Actor:
    def train(self, steps: int) -> list[float]:
        return train(steps)


# --- what comes of it -------------------------------------------------------------------------------------------------


def plan(rounds: int) -> list[tuple[str, str]]:
    """(level, way) of each session, in order: the level that begins changes, and the first round warms up."""
    order = []
    for number in range(rounds):
        turn = number % len(LEVELS)
        order += [(level, way) for way in WAYS for level in [*LEVELS[turn:], *LEVELS[:turn]]]
    return order


def report(results: Sequence[dict[str, Any]], say: Callable[[str], None] = print) -> bool:
    """Print the tables; whether kernel time agrees with torch.profiler's, True also if it was not asked."""
    say("| way | level | ms a step (medians) | µs a launch | kernels | raw MB | lost | have a task |")
    say("|---|---|---|---|---|---|---|---|")
    for way in WAYS:
        for level in LEVELS:
            chosen = [each for each in results if (each["way"], each["level"]) == (way, level)]
            if chosen:
                say(_row(way, level, chosen))
    for each in results:
        for why in each["found"]["refused"]:
            say(f"{each['way']} with {each['level']}: nothing is captured: {why}")
    return _against_profiler(results, say)


def _row(way: str, level: str, chosen: Sequence[dict[str, Any]]) -> str:
    steps = ", ".join(f"{statistics.median(each['step_seconds']) * 1e3:.1f}" for each in chosen)
    launches = ", ".join(f"{each['launch_seconds'] * 1e6:.1f}" for each in chosen if "launch_seconds" in each)
    found = [each["found"] for each in chosen]
    kernels = sum(each["kernels"] for each in found)
    share = sum(each["kernels"] * each["attributed_share"] for each in found) / kernels if kernels else None
    megabytes, lost = sum(each["raw_bytes"] for each in found) / 1e6, sum(each["records_lost"] for each in found)
    said = "" if share is None else f"{share:.2%}"
    return f"| {way} | {level} | {steps} | {launches} | {kernels} | {megabytes:.1f} | {lost} | {said} |"


def _against_profiler(results: Sequence[dict[str, Any]], say: Callable[[str], None]) -> bool:
    alone = [each for each in results if each["way"] == "profiler" and each["level"] == "off"]
    captured = [each for each in results if (each["way"], each["level"]) == ("task", "kernels")]
    ours = [each for each in captured if each["found"]["by_task"]]
    beside = [each for each in results if each["way"] == "profiler" and each["level"] != "off"]
    for each in beside:
        say(f"torch.profiler in a captured task saw {each['profiler'][0]} kernels: the capture gives way to it")
    if not alone or not ours:
        return True
    theirs = alone[-1]["profiler"][1] / alone[-1]["steps"]
    # The longest task is the training; it also warmed up.
    mine = statistics.median(each["found"]["by_task"][0] / (each["steps"] + WARM_UP_STEPS) for each in ours)
    difference = mine / theirs - 1.0
    agrees = bool(abs(difference) <= DIFFERENCE_MAX)
    say(
        f"kernel time of a step: {mine * 1e6:.0f} µs here, {theirs * 1e6:.0f} µs by torch.profiler ({difference:+.1%}; "
        f"{'within' if agrees else 'MORE THAN'} {DIFFERENCE_MAX:.0%})"
    )
    return agrees


def _session(level: str, way: str, steps: int) -> dict[str, Any]:
    """One session in a process of its own. Raises RuntimeError with what it said if it fails."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "benchmarks.gpu", "--one", json.dumps([level, way, steps])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SESSION_SECONDS_MAX, env=environment)
    if done.returncode:
        raise RuntimeError(f"{way} with {level} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["found"] = asdict(analyse(Path(result["directory"])))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 kernel time differs from torch.profiler's, 2 this machine lacks something."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="steps of each session (default: 150)")
    parser.add_argument("--rounds", type=int, default=4, help="sessions of each kind; all but the first count (4)")
    parser.add_argument("--session", type=Path, help="analyse this session, and run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.session is not None:
        print(json.dumps(asdict(analyse(options.session)), indent=1))
        return 0
    missing = lacking()
    if missing:
        print("\n".join(missing), file=sys.stderr)
        return 2
    if options.one:
        print(json.dumps(one(*json.loads(options.one))))
        return 0
    results = []
    for number, (level, way) in enumerate(plan(options.rounds)):
        result = _session(level, way, options.steps)
        if options.rounds == 1 or number >= len(LEVELS) * len(WAYS):
            results.append(result)
        print(f"{way} with {level}: done", file=sys.stderr, flush=True)
    results += [_session(level, "profiler", options.steps) for level in ("off", "kernels")]
    return 0 if report(results) else 1


if __name__ == "__main__":
    sys.exit(main())
