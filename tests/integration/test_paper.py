"""The paper's experiments run from end to end: their answers are right, and what they write can be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.paper.experiment import EXPERIMENTS
from benchmarks.paper.result import Result

ROOT = Path(__file__).resolve().parent.parent.parent


def paper(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.paper", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.timeout(300)
def test_two_experiments_run_quickly_and_leave_numbers_and_pictures(tmp_path):
    done = paper("locality", "memory", "--quick", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name in ("locality", "memory"):
        facts = json.loads((tmp_path / f"{name}.json").read_text())
        result = Result.from_json(facts)
        assert facts["quick"] and result.rows and result.claims
        for chart in result.charts:
            assert all(value >= 0 for series in chart.series for point in series.points for value in point.values)
            assert ElementTree.fromstring((tmp_path / f"{chart.name}.svg").read_text()) is not None
            assert f"({chart.title})"[1:-1] in done.stdout
    assert "[2/2] memory" in done.stderr


def test_an_experiment_that_does_not_exist_is_said_with_those_that_do():
    done = paper("nonsense")
    assert done.returncode == 2
    assert "unknown: nonsense" in done.stderr and all(name in done.stderr for name in EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_imported(name):
    assert callable(EXPERIMENTS[name].body())
