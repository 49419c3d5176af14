"""Which worker a process belongs to that holds GPU memory.

NVML knows processes by the pids of the host. On the host itself, or in a container with ``pid: host``, those are the
workers' own; a worker in a namespace below has another pid for itself, which ``NSpid`` tells: it counts if that process
has the worker's own files open. Processes that a worker started count as it. All others are foreign.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import HEADER, MAGIC, read_now

#: So many parents are looked at.
_ANCESTORS_MAX = 16


class Holder(NamedTuple):
    """A worker, its own pid, and the task that it runs (the newest; empty if none)."""

    worker: bytes
    pid: int
    task: bytes


class Holders:
    """``rings`` is where the processes of a session write; ``proc`` the system's table of processes."""

    def __init__(self, rings: Path, proc: Path = Path("/proc")) -> None:
        self._rings = rings
        self._proc = proc
        self._files: set[str] = set()
        #: pid -> worker, the newest that had it.
        self._workers: dict[int, bytes] = {}

    def look(self) -> None:
        """Learn of new workers."""
        for path in sorted(self._rings.glob("*.ring")):
            if path.name in self._files:
                continue
            try:
                with open(path, "rb") as file:
                    header = file.read(HEADER.size)
            except FileNotFoundError:
                continue
            if len(header) < HEADER.size:
                continue
            magic, _, kind, pid, process, *_ = HEADER.unpack(header)
            if magic != MAGIC:
                continue
            self._files.add(path.name)
            if kind == ProcessKind.WORKER:
                self._workers[pid] = process

    def of(self, host_pid: int) -> Holder | None:
        """Who holds what this process holds; None for nobody of this session."""
        for pid in self._lineage(host_pid):
            worker = self._workers.get(pid)
            if worker is not None:
                running = sorted(read_now(self._rings, worker), key=lambda slot: slot[1])
                return Holder(worker, pid, running[-1][0] if running else b"")
        return None

    def visible(self, host_pid: int) -> bool:
        """Whether anything is known about the process."""
        return (self._proc / str(host_pid)).exists()

    def _lineage(self, host_pid: int) -> Iterable[int]:
        """The pids of a process and its ancestors, as they call themselves."""
        pid = host_pid
        for _ in range(_ANCESTORS_MAX):
            facts = self._facts(pid)
            if facts is None:
                return
            own, parent = facts
            if own == pid or self._has_open(pid, own):
                yield own
            pid = parent
            if pid <= 1:
                return

    def _has_open(self, pid: int, own: int) -> bool:
        """Whether a process in another namespace is the worker that has its pid there: it maps that one's black box."""
        worker = self._workers.get(own)
        if worker is None:
            return False
        try:
            return f"/{worker.hex()}.now" in (self._proc / str(pid) / "maps").read_text()
        except (OSError, UnicodeDecodeError):
            return False

    def _facts(self, pid: int) -> tuple[int, int] | None:
        """A process' own pid, in the innermost namespace, and its parent's in this one."""
        try:
            text = (self._proc / str(pid) / "status").read_text()
        except (OSError, UnicodeDecodeError):
            return None
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        names = fields.get("NSpid", str(pid)).split()
        return int(names[-1]), int(fields.get("PPid", "0"))
