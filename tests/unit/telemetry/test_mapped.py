"""Columns in a file are as columns in memory, and need none while nobody looks at them."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from obsray.telemetry import mapped, table
from obsray.telemetry.table import MAPPED_ROWS_MIN, Grid

SPEC: dict[str, tuple[str, Any]] = {
    "id": ("V16", 0), "time": ("<i8", 0), "attempt": ("<i2", -1), "outcome": ("u1", 255),
}  # fmt: skip


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def filled(grid: Grid, rows: int) -> None:
    """Values that tell rows apart."""
    before = grid.count
    grid.grow(rows)
    new = np.arange(before, rows)
    grid["time"][before:] = new
    grid["id"][before:] = np.stack([new, new + 1], axis=1).view("V16").ravel()


def equal(one: Grid, other: Grid) -> bool:
    return one.count == other.count and all(one[name].tobytes() == other[name].tobytes() for name in SPEC)


def test_a_grid_in_a_file_holds_what_one_in_memory_holds(tmp_path):
    chance = random.Random(seed := random.randrange(1 << 32))
    print("seed", seed)
    memory, file = Grid(SPEC), Grid(SPEC)
    file.lie_in(tmp_path)
    while memory.count < 5 * MAPPED_ROWS_MIN:
        rows = memory.count + chance.randrange(1, MAPPED_ROWS_MIN)
        some = np.array([chance.randrange(rows) for _ in range(100)])
        for grid in (memory, file):
            filled(grid, rows)
            grid["attempt"][some] = 3
            grid["outcome"][some[:50]] = 0
        file.release()
        assert equal(memory, file)
    assert file._mapped is not None


def test_what_is_long_already_moves_into_the_file(tmp_path):
    memory, file = Grid(SPEC), Grid(SPEC)
    for grid in (memory, file):
        filled(grid, 2 * MAPPED_ROWS_MIN)
    file.lie_in(tmp_path)
    assert file._mapped is not None
    assert equal(memory, file)


def test_the_file_has_no_name_and_goes_with_the_grid(tmp_path):
    grid = Grid(SPEC)
    grid.lie_in(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    filled(grid, 2 * MAPPED_ROWS_MIN)
    assert not list(tmp_path.iterdir())
    del grid
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_let_go_is_not_in_memory_and_is_there_when_it_is_looked_at(tmp_path):
    grid = Grid(SPEC)
    grid.lie_in(tmp_path)
    filled(grid, 2_000_000)
    full = resident()
    grid.release()
    assert full - resident() > 2_000_000 * 24 // 2
    assert int(grid["time"].sum()) == 2_000_000 * (2_000_000 - 1) // 2
    assert (grid["attempt"] == -1).all()


def no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("when", ["at first", "later", "no directory", "little"])
def test_where_there_is_no_room_rows_stay_in_memory_and_somebody_says_so(when, tmp_path, monkeypatch, caplog):
    grid = Grid(SPEC)
    grid.lie_in(tmp_path / "away" if when == "no directory" else tmp_path)
    if when == "later":
        filled(grid, 2 * MAPPED_ROWS_MIN)
        assert grid._mapped is not None
    if when == "little":
        monkeypatch.setattr(mapped, "FREE_TIMES", 1 << 40)
    elif when != "no directory":
        monkeypatch.setattr(os, "posix_fallocate", no_room)
    filled(grid, 8 * MAPPED_ROWS_MIN)
    filled(grid, 16 * MAPPED_ROWS_MIN)
    memory = Grid(SPEC)
    filled(memory, 16 * MAPPED_ROWS_MIN)
    assert grid._mapped is None
    assert equal(memory, grid)
    (said,) = [record for record in caplog.records if record.name == table.log.name]
    assert "stay in memory" in said.getMessage()


def test_what_was_folded_by_another_reader_lies_in_the_file_too(tmp_path: Path):
    grid = Grid(SPEC)
    filled(grid, 2 * MAPPED_ROWS_MIN)
    # As it comes out of a snapshot: without room for more, and made without a constructor.
    thawed = object.__new__(Grid)
    thawed.spec, thawed.rows_min, thawed.count = SPEC, grid.rows_min, grid.count
    thawed._arrays = {name: grid[name] for name in SPEC}
    thawed.lie_in(tmp_path)
    filled(thawed, 3 * MAPPED_ROWS_MIN)
    filled(grid, 3 * MAPPED_ROWS_MIN)
    assert thawed._mapped is not None
    assert equal(grid, thawed)
