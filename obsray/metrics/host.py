"""What the machine of a node uses, read when somebody asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
from prometheus_client.core import Metric

from obsray.metrics import exposed

#: Modes of CPU time that have a series; all others of the system are ``other``.
_MODES = ("user", "system", "idle", "iowait", "steal")


class Host:
    """The machine. What the system counts is added up from one look to the next: some of its numbers go back now and
    then (iowait), and interfaces come and go with what they have counted."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}
        self._sums: dict[str, float] = {}

    def _grown(self, name: str, values: dict[str, float]) -> float:
        """The sum of all that was ever counted of ``values``, by whom."""
        for key, value in values.items():
            before = self._last.get((name, key), 0.0)
            self._sums[name] = self._sums.get(name, 0.0) + max(0.0, value - before)
            self._last[name, key] = max(value, before)
        for gone in [key for key in self._last if key[0] == name and key[1] not in values]:
            del self._last[gone]
        return self._sums.get(name, 0.0)

    def families(self, node: str, directory: Path) -> Iterator[Metric]:
        """The families of the machine; ``directory`` is on the file system that counts."""
        cpus, load = exposed.gauge("obsray_node_cpus"), exposed.gauge("obsray_node_load1")
        cpus.add_metric([node], psutil.cpu_count() or 1)
        load.add_metric([node], os.getloadavg()[0])
        spent = exposed.counter("obsray_node_cpu_seconds")
        times = psutil.cpu_times()._asdict()
        for mode in _MODES:
            spent.add_metric([node, mode], self._grown(mode, {"": times.get(mode, 0.0)}))
        # Time of guests is part of user time already.
        rest = {mode: seconds for mode, seconds in times.items() if mode not in (*_MODES, "guest", "guest_nice")}
        spent.add_metric([node, "other"], self._grown("other", rest))
        memory = exposed.gauge("obsray_node_memory_bytes")
        now = psutil.virtual_memory()
        memory.add_metric([node, "total"], now.total)
        memory.add_metric([node, "available"], now.available)
        disk = exposed.gauge("obsray_node_disk_bytes")
        try:
            usage = os.statvfs(directory)
            disk.add_metric([node, "total"], usage.f_blocks * usage.f_frsize)
            disk.add_metric([node, "free"], usage.f_bavail * usage.f_frsize)
        except FileNotFoundError:
            pass  # the session was removed while its last scrape was answered
        network = exposed.counter("obsray_node_network_bytes")
        interfaces = psutil.net_io_counters(pernic=True)
        away = {name: counters for name, counters in interfaces.items() if name != "lo"}
        for direction, field in (("received", "bytes_recv"), ("sent", "bytes_sent")):
            counted = {name: float(getattr(counters, field)) for name, counters in away.items()}
            network.add_metric([node, direction], self._grown(direction, counted))
        yield from (cpus, load, spent, memory, disk, network)
