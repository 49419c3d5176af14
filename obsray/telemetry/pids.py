"""What the system says of a process of this machine by its number. Imports nothing heavy: nodes look with it, too."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import NamedTuple

from obsray.telemetry.halts import FROZEN, HELD, STOPPED

_NS = 1_000_000_000
_HALTED = {"T": STOPPED, "t": HELD}
#: The state of a process that control groups of version 1 (their ``freezer``) have frozen, and of version 2. One that
#: waits looks the same.
_MAY_BE_FROZEN = {"D": b"freezer", "S": b""}


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
    if found is None:
        return ""
    if found.state in _MAY_BE_FROZEN and _frozen(pid, _MAY_BE_FROZEN[found.state]):
        return FROZEN
    return _HALTED.get(found.state, "")


def _frozen(pid: int, controller: bytes) -> bool:
    """Whether the kernel does not let a process run because its control group, or one around that, is frozen."""
    known = _freezers().get(controller)
    if known is None:
        return False
    mount, root = known
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            groups = [line.split(b":", 2) for line in file.read().splitlines()]
        path = next((path for _, names, path in groups if controller in names.split(b",")), b"/")
        if path == b"/":
            # The group at the root cannot be frozen.
            return False
        # Where only a part of the tree is mounted, paths begin there.
        group = mount + b"/" + path.removeprefix(root).lstrip(b"/")
        with open(group + (b"/freezer.state" if controller else b"/cgroup.events"), "rb") as file:
            said = file.read()
    except (OSError, ValueError):
        return False
    return said.strip() == b"FROZEN" if controller else b"frozen 1" in said


@lru_cache(maxsize=1)
def _freezers() -> dict[bytes, tuple[bytes, bytes]]:
    """Where control groups that can be frozen are mounted, and which part: those of version 1 under
    ``freezer``, those of version 2 under nothing."""
    found: dict[bytes, tuple[bytes, bytes]] = {}
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return found
    for line in lines:
        mounted, _, what = line.partition(b" - ")
        root, mount = mounted.split(b" ")[3:5]
        kind, _, options = what.split(b" ", 2)
        if kind == b"cgroup2":
            found.setdefault(b"", (mount, root))
        elif kind == b"cgroup" and b"freezer" in options.split(b","):
            found.setdefault(b"freezer", (mount, root))
    return found


def _boot_time_ns() -> int:
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
