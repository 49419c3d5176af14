"""What the container allows: CPU and memory limits, and how often the kernel killed for memory (cgroup v1 and v2).

Limits of a container are what counts, not what the machine has. Every reader answers None where the kernel says
nothing, so that callers can tell "no limit" from a number.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

#: cgroup v1 reports "no limit" as a huge number.
_UNLIMITED_BYTES = 1 << 60


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


class Cgroup:
    """The control groups of this process. ``root`` and ``membership`` are for tests."""

    def __init__(self, root: Path | str = "/sys/fs/cgroup", membership: Path | str = "/proc/self/cgroup") -> None:
        self.root = Path(root)
        self._unified = (self.root / "cgroup.controllers").exists()
        self._paths: dict[str, str] = {}
        for line in (_read(Path(membership)) or "").splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                self._paths[name] = path

    def _directories(self, controller: str) -> list[Path]:
        """The group of this process and its ancestors, innermost first, as far as they can be seen from here."""
        base = self.root if self._unified else self.root / controller
        inner = self._paths.get("" if self._unified else controller, "/")
        found = []
        path = base / inner.lstrip("/")
        while path != base and base in path.parents:
            found.append(path)
            path = path.parent
        # In a container the mount may show only the own group, at its root.
        return [*(directory for directory in found if directory.is_dir()), base]

    def memory_limit_bytes(self) -> int | None:
        """The smallest memory limit on the way up, None if there is none."""
        name = "memory.max" if self._unified else "memory.limit_in_bytes"
        limits = []
        for directory in self._directories("memory"):
            text = (_read(directory / name) or "").strip()
            if text.isdigit() and int(text) < _UNLIMITED_BYTES:
                limits.append(int(text))
        return min(limits, default=None)

    def memory_used_bytes(self) -> int | None:
        """What the innermost group that says so uses now."""
        name = "memory.current" if self._unified else "memory.usage_in_bytes"
        for directory in self._directories("memory"):
            text = (_read(directory / name) or "").strip()
            if text.isdigit():
                return int(text)
        return None

    def memory_pressure(self) -> tuple[int, int] | None:
        """Used bytes and limit of the group on the way up that is fullest; None without a limit.

        What the kernel would drop before it kills (files not read lately) does not count as used.
        """
        limit_name = "memory.max" if self._unified else "memory.limit_in_bytes"
        used_name = "memory.current" if self._unified else "memory.usage_in_bytes"
        dropped_name = "inactive_file" if self._unified else "total_inactive_file"
        found = []
        for directory in self._directories("memory"):
            limit, used = (_read(directory / limit_name) or "").strip(), (_read(directory / used_name) or "").strip()
            if not limit.isdigit() or not used.isdigit() or not 0 < int(limit) < _UNLIMITED_BYTES:
                continue
            lines = (line.split() for line in (_read(directory / "memory.stat") or "").splitlines())
            dropped = next((int(words[1]) for words in lines if len(words) == 2 and words[0] == dropped_name), 0)
            found.append((max(0, int(used) - dropped), int(limit)))
        return max(found, key=lambda pair: pair[0] / pair[1], default=None)

    def cpu_limit(self) -> float | None:
        """How many CPUs' time the quota allows, None if there is no quota."""
        limits = []
        for directory in self._directories("cpu"):
            if self._unified:
                words = (_read(directory / "cpu.max") or "").split()
            else:
                quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
                words = [(quota or "").strip(), (period or "").strip()]
            if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
                limits.append(int(words[0]) / int(words[1]))
        return min(limits, default=None)

    def oom_kills(self) -> int | None:
        """How many processes of this group the kernel has killed for memory so far."""
        name = "memory.events" if self._unified else "memory.oom_control"
        for directory in self._directories("memory"):
            for line in (_read(directory / name) or "").splitlines():
                words = line.split()
                if len(words) == 2 and words[0] == "oom_kill" and words[1].isdigit():
                    return int(words[1])
        return None


def cpus(group: Cgroup) -> int:
    """CPUs this process may use: affinity and quota, at least one."""
    allowed = len(os.sched_getaffinity(0))
    limit = group.cpu_limit()
    return max(1, allowed if limit is None else min(allowed, math.ceil(limit)))


def memory_bytes(group: Cgroup) -> int:
    """Memory this process may use: the machine's, or the container's limit if that is smaller."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = group.memory_limit_bytes()
    return total if limit is None else min(total, limit)
