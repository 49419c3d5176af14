"""Control groups of a test's own (as root, where the kernel has them: elsewhere what needs them cannot be tried)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

#: By version: where a group of it is made, the file that freezes it, and what is written there.
_FREEZERS = {
    1: ("freezer", "freezer.state", "FROZEN", "THAWED"),
    2: ("", "cgroup.freeze", "1", "0"),
}


def control_group(controller: str, name: str) -> Iterator[Path]:
    """A group inside that of this process (version 1; version 2 if ``controller`` is empty), emptied in the end."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller not in names.split(","):
            continue
        group = _mount(controller) / path.lstrip("/") / f"{name}-{os.getpid()}"
        if os.access(group.parent / "cgroup.procs", os.W_OK):
            break
    else:
        pytest.skip(f"no control group of {controller or 'version 2'} can be made here")
    group.mkdir()
    try:
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def _mount(controller: str) -> Path:
    base = Path("/sys/fs/cgroup")
    if controller:
        return base / controller
    return base if (base / "cgroup.controllers").exists() else base / "unified"


class Freezer:
    """A group that stands still as a whole, as that of a paused container does."""

    def __init__(self, group: Path, version: int) -> None:
        self._group = group
        _, self._file, self._on, self._off = _FREEZERS[version]

    def take(self, pids: Iterable[int]) -> None:
        """Move processes into it; what they start is there as well."""
        for pid in pids:
            (self._group / "cgroup.procs").write_text(str(pid))

    def freeze(self) -> None:
        (self._group / self._file).write_text(self._on)

    def thaw(self) -> None:
        (self._group / self._file).write_text(self._off)


def freezer(version: int) -> Iterator[Freezer]:
    """An empty group that can be frozen, thawed in the end."""
    for group in control_group(_FREEZERS[version][0], "obsray-freezer"):
        made = Freezer(group, version)
        try:
            yield made
        finally:
            made.thaw()
