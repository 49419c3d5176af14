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


def families(node: str, directory: Path) -> Iterator[Metric]:
    """The families of the machine; ``directory`` is on the file system that counts."""
    cpus, load = exposed.gauge("obsray_node_cpus"), exposed.gauge("obsray_node_load1")
    cpus.add_metric([node], psutil.cpu_count() or 1)
    load.add_metric([node], os.getloadavg()[0])
    spent = exposed.counter("obsray_node_cpu_seconds")
    times = psutil.cpu_times()._asdict()
    for mode in _MODES:
        spent.add_metric([node, mode], times.get(mode, 0.0))
    # Time of guests is part of user time already.
    rest = sum(seconds for mode, seconds in times.items() if mode not in (*_MODES, "guest", "guest_nice"))
    spent.add_metric([node, "other"], rest)
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
    away = [counters for name, counters in interfaces.items() if name != "lo"]
    network.add_metric([node, "received"], sum(counters.bytes_recv for counters in away))
    network.add_metric([node, "sent"], sum(counters.bytes_sent for counters in away))
    yield from (cpus, load, spent, memory, disk, network)
