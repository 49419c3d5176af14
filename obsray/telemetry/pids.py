"""What the system says of a process of this machine by its number. Imports nothing heavy: nodes look with it, too."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from obsray.telemetry.halts import HELD, STOPPED

_NS = 1_000_000_000
_HALTED = {"T": STOPPED, "t": HELD}


class Stat(NamedTuple):
    """The ``state`` of a process as one letter (``R``, ``S``, ``T``, ...), and when it started, in ticks since boot."""

    state: str
    started: int


def stat_of(pid: int) -> Stat | None:
    """What stands in ``/proc/PID/stat``; None if there is none that lives (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Behind the name, which may contain spaces and parentheses.
            values = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    state = values[0].decode()
    return None if state in "ZX" else Stat(state, int(values[19]))


def process_alive(pid: int, started_before_ns: int = 0) -> bool:
    """Is ``pid`` a process that runs (not a zombie) and began before ``started_before_ns`` (0: whenever)?"""
    found = stat_of(pid)
    if found is None:
        return False
    if not started_before_ns:
        return True
    started = _boot_time_ns() + found.started * _NS // os.sysconf("SC_CLK_TCK")
    # The boot time is known to a second only.
    return started <= started_before_ns + 2 * _NS


def halted(pid: int) -> str:
    """Why a process of this machine stands still, for people; "" if it runs, waits, or is not there."""
    found = stat_of(pid)
    return _HALTED.get(found.state, "") if found else ""


def _boot_time_ns() -> int:
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
