"""Whether processes that share the tests run every file, and none twice (``--share-with``, see tests/conftest.py)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import taken


def items(names: list[str]) -> list[Any]:
    """Two tests of each file."""
    config = SimpleNamespace(rootpath=Path("/root"))
    return [SimpleNamespace(path=Path("/root", name), config=config, n=n) for name in names for n in range(2)]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_each_file_is_run_once_and_whole_whoever_comes_first(tmp_path, step):
    names = ["a/test_x.py", "a/test_y.py", "b/test_x.py", "test_z.py", "a+b/test_x.py"]
    ways = [taken(items(names), tmp_path), taken(items(names[::-1]), tmp_path)]
    run: list[list[tuple[str, int]]] = [[], []]
    turn = 0
    while ways[0] or ways[1]:
        # The second goes on `step` times while the first does once.
        which = 0 if turn % (step + 1) == 0 else 1
        turn += 1
        item = next(ways[which], None) if ways[which] else None
        if item is None:
            ways[which] = None  # type: ignore[call-overload]
            continue
        run[which].append((str(item.path.relative_to("/root")), item.n))
    assert sorted(run[0] + run[1]) == sorted((name, n) for name in names for n in range(2))
    assert not {name for name, _ in run[0]} & {name for name, _ in run[1]}
    assert run[0] and run[1]
