"""Looks at the GPUs of a node: a sample of each, who holds their memory, and what is wrong with them.

What a driver cannot say is recorded once and not asked again; what fails now is recorded once and asked again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from obsray.gpu.nvml import Nvml, NvmlError, Rows
from obsray.gpu_watch.holders import Holders
from obsray.ids import NIL_TASK
from obsray.telemetry.spine import Emitter

#: The GPU of a failure that concerns all of a node.
ALL = 255
_NAN = math.nan
T = TypeVar("T")


class Watched:
    """A GPU: its number at the node, its UUID, and NVML's handle while it has one."""

    def __init__(self, number: int, uuid: str) -> None:
        self.number = number
        self.uuid = uuid
        self.handle: Any = None
        #: The same, or what it is a part of (MIG): errors of the hardware are told of whole GPUs.
        self.whole: Any = None


class Sampler:
    """``node`` is told about through ``emitter``."""

    def __init__(self, node: bytes, gpus: list[Watched], holders: Holders, emitter: Emitter) -> None:
        self.node = node
        self.gpus = gpus
        self.holders = holders
        self.emitter = emitter
        self.nvml: Nvml | None = None
        self._told: set[tuple[int, str]] = set()
        self._never: set[tuple[int, str]] = set()

    def begin(self, nvml: Nvml) -> None:
        """Use this library from here on; handles of an earlier one are gone."""
        self.nvml = nvml
        for gpu in self.gpus:
            gpu.handle = gpu.whole = None

    def fail(self, time_ns: int, gpu: int, call: str, error: str) -> None:
        """Record what cannot be learned; once."""
        if (gpu, call) not in self._told:
            self._told.add((gpu, call))
            self.emitter.gpu_watch_failed(
                time_ns, self.node, gpu, self.emitter.intern(call), self.emitter.intern(error)
            )

    def look(self, time_ns: int, gpu: Watched, out: bool) -> str:
        """Sample one GPU. Returns what is wrong with it, empty for nothing. ``out``: it is out of service."""
        assert self.nvml is not None
        try:
            if gpu.handle is None:
                gpu.handle = self.nvml.handle_of(gpu.uuid)
            self._sample(time_ns, gpu)
            return self._memory_trouble(time_ns, gpu, out)
        except NvmlError as error:
            if error.lost:
                return f"the driver says of it: {error}"
            # It was there when the node started.
            return f"the driver does not know it any more: {error}"

    def _ask(self, time_ns: int, gpu: Watched, ask: Callable[[Any], T], otherwise: T) -> T:
        """What NVML says, or ``otherwise``. Raises NvmlError only for a GPU that is lost."""
        name = getattr(ask, "__name__", "")
        if (gpu.number, name) in self._never:
            return otherwise
        try:
            return ask(gpu.handle)
        except NvmlError as error:
            if error.lost:
                raise
            if error.unsupported:
                self._never.add((gpu.number, name))
            self.fail(time_ns, gpu.number, name, str(error))
            return otherwise

    def _sample(self, time_ns: int, gpu: Watched) -> None:
        nvml = self.nvml
        assert nvml is not None

        def ask(question: Callable[[Any], T], otherwise: T) -> T:
            return self._ask(time_ns, gpu, question, otherwise)

        busy, bus = ask(nvml.utilization, (_NAN, _NAN))
        used, total = ask(nvml.memory, (0, 0))
        nobody: list[tuple[int, int | None]] = []
        processes = ask(nvml.processes, nobody)
        foreign, foreign_bytes = self._hold(time_ns, gpu, processes)
        self.emitter.gpu_sample(
            time_ns, self.node, gpu.number, busy, bus, used, total, ask(nvml.power, _NAN), ask(nvml.power_limit, _NAN),
            ask(nvml.temperature, _NAN), ask(nvml.clock, 0), ask(nvml.energy, _NAN),
            self.emitter.intern(ask(nvml.slowdowns, "")), min(len(processes), 65_535), min(foreign, 65_535),
            foreign_bytes,
        )  # fmt: skip

    def _hold(self, time_ns: int, gpu: Watched, processes: list[tuple[int, int | None]]) -> tuple[int, int]:
        """Record who holds memory there; returns how many processes are nobody's here, and what they hold."""
        foreign = foreign_bytes = unseen = 0
        for host_pid, used in processes:
            holder = self.holders.of(host_pid)
            if holder is None:
                foreign += 1
                foreign_bytes += used or 0
                unseen += not self.holders.visible(host_pid)
                continue
            self.emitter.gpu_process_sample(
                time_ns, self.node, gpu.number, holder.worker, holder.task or NIL_TASK, used or 0, holder.pid, host_pid
            )
        if processes and unseen == len(processes):
            self.fail(
                time_ns, ALL, "processes",
                "the pids that the driver tells are not those of this container; start it with pid: host "
                "(docker run --pid=host, hostPID: true) to see whose memory it is",
            )  # fmt: skip
        return foreign, foreign_bytes

    def _memory_trouble(self, time_ns: int, gpu: Watched, out: bool) -> str:
        assert self.nvml is not None
        rows = self._ask(time_ns, gpu, self.nvml.rows, Rows(False, False))
        if rows.failed:
            return "broken memory cannot be replaced any more (row remapping failed): replace the GPU"
        # By itself that can wait; a GPU that is out does not come back without.
        if rows.pending and out:
            return "broken memory waits to be replaced (row remapping is pending): reset the GPU"
        return ""
