"""Every example runs and prints what it is about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"

#: Example -> the first lines it prints.
PRINTS = {
    "map_reduce.py": ["is: 10", "better: 8", "than: 8", "the: 6", "to: 5", "of: 3", "although: 3", "be: 3", "unless: 2"]
}


def test_no_example_is_forgotten():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTS)


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_an_example_prints_what_it_should(name):
    ended = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[: len(PRINTS[name])] == PRINTS[name]
