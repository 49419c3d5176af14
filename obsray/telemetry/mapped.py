"""Columns that lie in a file and are mapped: what nobody looks at need not be in memory.

A reader of a session that runs for days has a row for every task there ever was. Few of them are asked for, and those
are the newest, mostly. The file has no name: it goes with the process.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from obsray.telemetry.columns import Array

#: Addresses for so many rows are kept free, so that columns grow where they are. The file is as long, and has no
#: blocks there.
ROWS_MAX = 1 << 28
#: Blocks of the disk are taken for so many rows at a time: memory without a block behind it ends the process when it
#: is written to.
ROWS_TAKEN = 1 << 17
#: The disk keeps so many times as much free: what records the session comes first.
FREE_TIMES = 4


class MappedColumns:
    """Columns in a file of ``directory``. ``spec``: name -> (numpy type, value of a new row).

    Raises OSError if there can be no such file, or no addresses.
    """

    def __init__(self, directory: Path, spec: dict[str, tuple[str, Any]]) -> None:
        self.capacity = 0
        self._spec = spec
        self._file = tempfile.TemporaryFile(dir=directory, prefix="columns-")
        self._starts: dict[str, int] = {}
        self.arrays: dict[str, Array] = {}
        size = 0
        for name, (code, _) in spec.items():
            self._starts[name] = size
            length = ROWS_MAX * np.dtype(code).itemsize
            size += -(-length // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        os.truncate(self._file.fileno(), size)
        try:
            # One for all columns: each mapping keeps a descriptor of its own.
            self._map = mmap.mmap(self._file.fileno(), size)
        except ValueError as error:
            raise OSError(str(error)) from None

    def reserve(self, capacity: int) -> None:
        """Have room for so many rows, with the values of new ones. Raises OSError if the disk has too little."""
        if capacity <= self.capacity:
            return
        if capacity > ROWS_MAX:
            raise OSError(f"there is no room for {capacity:,} rows")
        capacity = min(-(-capacity // ROWS_TAKEN) * ROWS_TAKEN, ROWS_MAX)
        sizes = {name: np.dtype(code).itemsize for name, (code, _) in self._spec.items()}
        wanted = (capacity - self.capacity) * sum(sizes.values())
        disk = os.fstatvfs(self._file.fileno())
        if disk.f_bavail * disk.f_frsize < FREE_TIMES * wanted:
            raise OSError("the disk has too little room for columns")
        for name, (code, fill) in self._spec.items():
            start, end = (rows * sizes[name] for rows in (self.capacity, capacity))
            os.posix_fallocate(self._file.fileno(), self._starts[name] + start, end - start)
            array = np.frombuffer(self._map, code, capacity, self._starts[name])
            if fill:
                array[self.capacity :] = fill
            self.arrays[name] = array
        self.capacity = capacity

    def release(self) -> None:
        """What is mapped need not be in memory until somebody looks at it again; nothing is forgotten."""
        self._map.madvise(mmap.MADV_DONTNEED)
