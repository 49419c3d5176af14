"""The numbers behind the metrics of GPUs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from prometheus_client.core import CounterMetricFamily

from obsray.gpu.words import Direction, Stage
from obsray.metrics.catalog import METRICS
from obsray.metrics.series import Labels
from obsray.telemetry.columns import Array, Batch, Columns

#: The function of work whose task nobody knows.
NO_TASK = "none"


class GpuSeries:
    """Sums by GPU and function, direction or stage. ``functions`` is shared with the other metrics."""

    def __init__(self, functions: Labels) -> None:
        self.functions = functions
        #: (gpu, function's slot, -1 for no task) -> kernels, seconds.
        self.kernels: dict[tuple[int, int], list[float]] = {}
        self.copied: dict[tuple[int, int], int] = {}
        self.lost = np.zeros(len(Stage), np.int64)
        self.capture_seconds = 0.0

    def update(self, batch: Batch) -> None:
        """Fold a batch."""
        if "gpu_kernel" in batch:
            self._kernels(batch["gpu_kernel"])
        if "gpu_copy" in batch:
            copies = batch["gpu_copy"]
            for key, total in _sums(copies["gpu"], copies["direction"], copies["copy_bytes"]):
                self.copied[key] = self.copied.get(key, 0) + int(total)
        if "gpu_records_lost" in batch:
            lost = batch["gpu_records_lost"]
            stages = np.minimum(lost["stage"], len(Stage) - 1)
            self.lost += np.bincount(stages, weights=lost["records"], minlength=len(Stage)).astype(np.int64)
        if "gpu_capture_sample" in batch:
            self.capture_seconds += float(batch["gpu_capture_sample"]["capture_seconds"].sum())

    def _kernels(self, columns: Columns) -> None:
        own = columns["attributed_by"] != 0
        slots = np.full(len(columns), -1, np.int64)
        if own.any():
            slots[own] = self.functions.of(columns["function"][own])
        for of, weights in ((0, np.ones(len(columns))), (1, columns["kernel_seconds"])):
            for key, total in _sums(columns["gpu"], slots, weights):
                self.kernels.setdefault(key, [0.0, 0.0])[of] += total

    def families(self, node: str) -> Iterator[CounterMetricFamily]:
        """The families, for the exposition of ``node``."""
        seconds, kernels = _family("obsray_gpu_kernel_seconds"), _family("obsray_gpu_kernels")
        for (gpu, slot), (count, total) in sorted(self.kernels.items()):
            labels = [node, str(gpu), NO_TASK if slot < 0 else self.functions.name(slot)]
            kernels.add_metric(labels, count)
            seconds.add_metric(labels, total)
        copied, lost = _family("obsray_gpu_copy_bytes"), _family("obsray_gpu_records_lost")
        for (gpu, direction), total in sorted(self.copied.items()):
            name = Direction(direction).name.lower() if direction < len(Direction) else "unknown"
            copied.add_metric([node, str(gpu), name], total)
        for stage in Stage:
            if self.lost[stage]:
                lost.add_metric([node, stage.name.lower()], int(self.lost[stage]))
        capture = _family("obsray_gpu_capture_seconds")
        if self.capture_seconds:
            capture.add_metric([node], self.capture_seconds)
        yield from (seconds, kernels, copied, lost, capture)


def _sums(first: Array, second: Array, weights: Array) -> Iterator[tuple[tuple[int, int], float]]:
    """The sum of ``weights`` for each pair that occurs."""
    keys = first.astype(np.int64) << 32 | (second.astype(np.int64) & 0xFFFFFFFF)
    found, back = np.unique(keys, return_inverse=True)
    sums = np.bincount(back, weights=weights)
    for key, total in zip(found.tolist(), sums.tolist(), strict=True):
        low = key & 0xFFFFFFFF
        yield (key >> 32, low if low < 1 << 31 else low - (1 << 32)), total


def _family(name: str) -> CounterMetricFamily:
    metric = METRICS[name]
    return CounterMetricFamily(name, metric.help, labels=metric.labels)
