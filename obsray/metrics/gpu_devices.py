"""The numbers of GPUs as their driver tells them. Each has the UUID, by which series of dcgm-exporter can be joined."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from obsray.gpu.nvml import SLOWDOWNS
from obsray.gpu.words import Health
from obsray.metrics import exposed
from obsray.metrics.gpu_jobs import job_of
from obsray.telemetry.columns import Batch, Texts
from obsray.telemetry.gpus import GpusTable

#: What was sampled longer ago is not now: nothing watches that GPU any more.
FRESH_NS = 30_000_000_000
#: The job of memory that no worker of obsray holds.
FOREIGN = "foreign"
_GAUGES = {
    "obsray_gpu_utilization_ratio": "utilization",
    "obsray_gpu_memory_bus_utilization_ratio": "bus_utilization",
    "obsray_gpu_power_watts": "power_watts",
    "obsray_gpu_power_limit_watts": "power_limit_watts",
    "obsray_gpu_temperature_celsius": "temperature_celsius",
    "obsray_gpu_clock_hertz": "clock_mhz",
}


class GpuDeviceSeries:
    """The GPUs of one node; ``session`` is its directory, where workers say for which job they work."""

    def __init__(self, texts: Texts, session: Path) -> None:
        self.table = GpusTable(texts)
        self._jobs = session / "jobs"

    def update(self, batch: Batch) -> None:
        """Fold a batch of this node."""
        self.table.update(batch)

    def families(self, node: str) -> Iterator[Metric]:
        """The families, for the exposition of ``node``."""
        info, service = exposed.gauge("obsray_gpu_info"), exposed.gauge("obsray_gpu_in_service")
        gauges = {name: exposed.gauge(name) for name in _GAUGES}
        memory, held = exposed.gauge("obsray_gpu_memory_bytes"), exposed.gauge("obsray_gpu_held_memory_bytes")
        slowed, energy = exposed.gauge("obsray_gpu_slowed"), exposed.counter("obsray_gpu_energy_joules")
        now = time.time_ns()
        for (key, row), labels in ((item, _labels(node, item[1])) for item in sorted(self.table.rows.items())):
            info.add_metric([*labels, row["model"] or "", row["accelerator_type"] or ""], 1)
            service.add_metric(labels, row["state"] == Health.IN_SERVICE.name)
            if row["sampled_at_ns"] is None or now - row["sampled_at_ns"] > FRESH_NS:
                continue
            for name, of in _GAUGES.items():
                if row[of] is not None:
                    gauges[name].add_metric(labels, row[of] * 1e6 if of == "clock_mhz" else row[of])
            if row["memory_bytes"]:
                memory.add_metric([*labels, "total"], row["memory_bytes"])
                memory.add_metric([*labels, "used"], row["used_bytes"])
            for job, size in self._held(key, row).items():
                held.add_metric([*labels, job], size)
            causes = (row["slowdown"] or "").split(", ")
            for cause in SLOWDOWNS.values():
                slowed.add_metric([*labels, cause], cause in causes)
            if row["energy_joules"] is not None:
                energy.add_metric(labels, row["energy_joules"])
        yield from (info, service, *gauges.values(), memory, held, slowed, energy)

    def _held(self, key: tuple[bytes, int], row: dict[str, Any]) -> dict[str, int]:
        """Bytes of memory by the job of the worker that holds them."""
        found: dict[str, int] = {}
        for holder in self.table.holding(key, row["sampled_at_ns"]):
            job = job_of(self._jobs, bytes.fromhex(holder["worker_id"])) or "none"
            found[job] = found.get(job, 0) + holder["used_bytes"]
        if row["foreign_bytes"]:
            found[FOREIGN] = row["foreign_bytes"]
        return found


def _labels(node: str, row: dict[str, Any]) -> list[str]:
    return [node, str(row["gpu"]), row["uuid"] or ""]
