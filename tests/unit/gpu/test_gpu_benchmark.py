"""What ``benchmarks/gpu.py`` makes of a session, on the recorded runs, and what it says where there is no GPU."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from obsray.telemetry.store import Store, joined
from tests.unit.gpu.captures import STEPS
from tests.unit.gpu.test_gpu_streams import collected, played, session

__all__ = ["session"]  # a fixture


def test_a_recorded_run_is_analysed(session: Path) -> None:
    played(session)
    collected(session).close()
    found = gpu.analyse(session)
    kernels = joined(Store.open(session).select("gpu_kernel"), "gpu_kernel")
    assert found.kernels == STEPS * 132 and found.copies == STEPS * 9
    assert found.attributed_share == 1.0 and found.records_lost == 0 and not found.refused
    assert len(found.by_task) == STEPS and list(found.by_task) == sorted(found.by_task, reverse=True)
    total = float(kernels["kernel_seconds"].astype("f8").sum())
    assert sum(found.by_task) == pytest.approx(total) == found.kernel_seconds


def result(level: str, way: str, by_task: tuple[float, ...] = (), **more: Any) -> dict[str, Any]:
    found = gpu.Found(1320, sum(by_task), 9, 1_000_000, 3, 0.75, by_task, ())
    return {
        "level": level,
        "way": way,
        "steps": 10,
        "step_seconds": [0.006, 0.007, 0.008],
        "found": asdict(found),
        **more,
    }


@pytest.mark.parametrize(("theirs", "agrees"), [(0.0100, True), (0.0101, True), (0.0110, False)])
def test_kernel_time_is_compared_with_torch_profilers(theirs: float, agrees: bool) -> None:
    ours = 0.001 * (10 + gpu.WARM_UP_STEPS)
    results = [
        result("kernels", "task", (ours, 0.001), launch_seconds=12.5e-6),
        result("off", "profiler", profiler=(1320, theirs)),
        result("kernels", "profiler", profiler=(1320, theirs)),
    ]
    lines: list[str] = []
    assert gpu.report(results, lines.append) is agrees
    text = "\n".join(lines)
    assert "| task | kernels | 7.0 | 12.5 | 1320 | 1.0 | 3 | 75.00% |" in text
    assert "1000 µs here" in text and ("MORE THAN 2%" in text) is not agrees
    assert "saw 1320 kernels: the capture gives way to it" in text


def test_where_nothing_is_captured_the_report_says_why() -> None:
    refused = result("kernels", "actor")
    refused["found"]["refused"] = ["no libcupti was found"]
    lines: list[str] = []
    assert gpu.report([refused], lines.append)
    assert "actor with kernels: nothing is captured: no libcupti was found" in lines


def test_each_level_begins_in_turn_and_each_way_has_each_level_in_a_round() -> None:
    order = gpu.plan(4)
    size = len(gpu.LEVELS) * len(gpu.WAYS)
    rounds = [order[at : at + size] for at in range(0, len(order), size)]
    assert all(len(set(each)) == size for each in rounds)
    assert [each[0][0] for each in rounds] == ["off", "kernels", "full", "off"]


def test_without_torch_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpu.main([]) == 2
    assert "pip install torch" in capsys.readouterr().err


def test_without_a_gpu_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class Nothing:
        cuda = None

        @staticmethod
        def is_available() -> bool:
            return False

    class Torch:
        cuda, version = Nothing, Nothing

    monkeypatch.setitem(sys.modules, "torch", Torch)
    assert gpu.main([]) == 2
    assert "no GPU: this build of torch is not for CUDA" in capsys.readouterr().err
