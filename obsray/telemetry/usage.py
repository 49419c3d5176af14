"""What a process of this machine uses, as its kernel counts it. Little is read for that: all processes of a session are
looked at every second."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_PRIVATE = re.compile(rb"^Private_\w+:\s+(\d+) kB", re.MULTILINE)


class Usage(NamedTuple):
    """``cpu_seconds`` since it began, user and system."""

    rss_bytes: int
    cpu_seconds: float
    threads: int
    descriptors: int


def of(pid: int) -> Usage:
    """What a process uses now. Raises OSError if it is gone or not ours to look at."""
    # Its name comes second, in brackets, and may hold anything.
    values = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    folder = f"/proc/{pid}/fd"
    # Linux says since 6.2 how many there are; before that, and if there are none, they are counted.
    descriptors = os.stat(folder).st_size or len(os.listdir(folder))
    # The same number in ``stat`` is late by what each CPU has not handed in yet.
    pages = int(_read(f"/proc/{pid}/statm").split()[1])
    return Usage(pages * _PAGE_BYTES, (int(values[11]) + int(values[12])) / _TICKS, int(values[17]), descriptors)


def unique_bytes(pid: int) -> int:
    """The memory that no other process shares. Takes milliseconds for a large process. Raises OSError as ``of``."""
    return 1024 * sum(map(int, _PRIVATE.findall(_read(f"/proc/{pid}/smaps_rollup"))))


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65_536)
    finally:
        os.close(descriptor)
