"""Whether figures can be expected of the machine: only where what is measured has it to itself."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

#: With less than this share of the processors' time for others, a figure is one of ours.
OTHERS_MAX = 0.1


class Quiet:
    """What share of the processors others had, from its making to ``others``. Others: neither this process nor its
    descendants, nor idle; a hypervisor that takes processors away counts."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._ours = _busy_seconds(), self._mine()

    def _mine(self) -> dict[int, float]:
        me = psutil.Process()
        found = {}
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            # With those of its children that have ended.
            found[process.pid] = times.user + times.system + times.children_user + times.children_system
        return found

    def others(self) -> float:
        """The share of others, 0 to 1."""
        now = self._mine()
        ours = sum(seconds - self._ours.get(pid, 0.0) for pid, seconds in now.items())
        processors = (psutil.cpu_count() or 1) * max(1e-9, time.monotonic() - self._began)
        return min(1.0, max(0.0, (_busy_seconds() - self._busy - ours) / processors))


def _busy_seconds() -> float:
    """Seconds of all processors that were not idle, since the start of the machine."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / 100.0
