"""Style and types are tests like any other: ``make test`` is the only command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: A first look at all types takes a minute on an idle machine.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parent.parent


def complaints(*command: str) -> str:
    """What the tool printed if it did not like something."""
    ended = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


def test_ruff_finds_nothing():
    pytest.importorskip("ruff")
    assert complaints("ruff", "check", "--quiet") == ""


def test_files_are_formatted():
    pytest.importorskip("ruff")
    assert complaints("ruff", "format", "--check", "--quiet") == ""


def test_types_hold_in_the_package_and_in_the_benchmarks():
    pytest.importorskip("mypy")
    assert complaints("mypy") == ""
