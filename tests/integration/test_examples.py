"""Every example runs and prints what it is about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"

#: Example -> the first lines it prints.
PRINTS = {
    "map_reduce.py": [
        "is: 10", "better: 8", "than: 8", "the: 6", "to: 5", "of: 3", "although: 3", "be: 3", "unless: 2",
    ],
    "parameter_server.py": [
        "4 workers, 2 shards, 120 rounds: 480 gradients of 8 weights",
        "learned: -2.50 -1.50 -0.50 0.50 1.50 2.50 3.50 4.50",
    ],
    "reinforcement_learning.py": ["60 updates from 240 rollouts of 50 steps"],
    "ring_allreduce.py": ["3 copies of 50000 weights are equal bit by bit after 5 rounds"],
    "serving.py": [
        "version 1 answered 300 requests of 6 clients in batches",
        "version 2 answered 300 requests of 6 clients in batches",
    ],
    "streaming_pipeline.py": ["40 batches went through three stages, at most 4 of them ahead of their consumer"],
    "tree_aggregation.py": [
        "64 histograms became one in 3 levels of at most 4 each",
        "22 merges are on the timeline, the flat one among them",
    ],
}  # fmt: skip


def test_no_example_is_forgotten():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(PRINTS)
    assert all(f"[{name}]({name})" in (EXAMPLES / "README.md").read_text() for name in names)


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_an_example_prints_what_it_should(name):
    ended = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[: len(PRINTS[name])] == PRINTS[name]
