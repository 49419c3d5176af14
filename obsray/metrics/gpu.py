"""The numbers behind the metrics of GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, Metric

from obsray.gpu.words import Direction, Stage, WaitingFor
from obsray.metrics import exposed
from obsray.metrics.catalog import METRICS
from obsray.metrics.series import Labels
from obsray.telemetry.columns import Array, Batch, Columns
from obsray.telemetry.gpu_work import is_communication, launch_delays

#: The function of work whose task nobody knows.
NO_TASK = "none"
_ACTIVITIES = ("compute", "communication", "copy", "fill")
_COMPUTE, _COMMUNICATION, _COPY, _FILL = range(4)


class GpuSeries:
    """Sums by GPU and function, direction or stage. ``functions`` is shared with the other metrics."""

    def __init__(self, functions: Labels) -> None:
        self.functions = functions
        #: (gpu, function's slot, -1 for no task) -> kernels, seconds.
        self.kernels: dict[tuple[int, int], list[float]] = {}
        self.copied: dict[tuple[int, int], int] = {}
        #: (gpu, activity) -> seconds; (gpu, function's slot) -> launches, seconds until they began; slot -> seconds.
        self.worked: dict[tuple[int, int], float] = {}
        self.launches: dict[tuple[int, int], list[float]] = {}
        self.waited: dict[int, float] = {}
        #: GPU -> lease or bundle -> how much of it.
        self.reserved: dict[int, dict[tuple[Any, ...], float]] = {}
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
            self._worked(copies, _COPY, copies["copy_seconds"])
        if "gpu_memset" in batch:
            self._worked(batch["gpu_memset"], _FILL, batch["gpu_memset"]["memset_seconds"])
        if "gpu_wait" in batch:
            waits = batch["gpu_wait"].take(batch["gpu_wait"]["waiting_for"] != WaitingFor.STREAM_WAIT_EVENT)
            for slot, total in _by_slot(self._slots(waits), waits["wait_seconds"]):
                self.waited[slot] = self.waited.get(slot, 0.0) + total
        self._reservations(batch)
        if "gpu_records_lost" in batch:
            lost = batch["gpu_records_lost"]
            stages = np.minimum(lost["stage"], len(Stage) - 1)
            self.lost += np.bincount(stages, weights=lost["records"], minlength=len(Stage)).astype(np.int64)
        if "gpu_capture_sample" in batch:
            self.capture_seconds += float(batch["gpu_capture_sample"]["capture_seconds"].sum())

    def _kernels(self, columns: Columns) -> None:
        slots = self._slots(columns)
        talks = is_communication(self.functions.texts, columns["kernel"])
        self._worked(columns, np.where(talks, _COMMUNICATION, _COMPUTE), columns["kernel_seconds"])
        delays, timed = launch_delays(columns)
        for of, weights in ((0, timed.astype(np.float64)), (1, delays * timed)):
            for key, total in _sums(columns["gpu"], slots, weights):
                self.launches.setdefault(key, [0.0, 0.0])[of] += total
        for of, weights in ((0, np.ones(len(columns))), (1, columns["kernel_seconds"])):
            for key, total in _sums(columns["gpu"], slots, weights):
                self.kernels.setdefault(key, [0.0, 0.0])[of] += total

    def _slots(self, columns: Columns) -> Array:
        own = columns["attributed_by"] != 0
        slots = np.full(len(columns), -1, np.int64)
        if own.any():
            slots[own] = self.functions.of(columns["function"][own])
        return slots

    def _worked(self, columns: Columns, activity: Array | int, seconds: Array) -> None:
        kinds = np.broadcast_to(np.asarray(activity, np.int64), len(columns))
        for key, total in _sums(columns["gpu"], kinds, seconds):
            self.worked[key] = self.worked.get(key, 0.0) + total

    def _reservations(self, batch: Batch) -> None:
        if "gpu_found" in batch:
            for gpu in batch["gpu_found"]["gpu"].tolist():
                self.reserved.setdefault(gpu, {})
        texts = self.functions.texts
        told = [
            (row, name == "gpu_reserved")
            for name in ("gpu_reserved", "gpu_released") if name in batch for row in batch[name].rows(texts)
        ]  # fmt: skip
        for row, begins in sorted(told, key=lambda pair: int(pair[0]["sequence"])):
            of = self.reserved.setdefault(row["gpu"], {})
            key = (row["lease"], row["group"], row["bundle"], any(row["worker"]))
            if begins:
                of[key] = row["share"]
            else:
                of.pop(key, None)

    def _reserved_of(self, gpu: int) -> float:
        """How much of a GPU is set aside; what a worker has of a bundle's counts once."""
        of = self.reserved[gpu]
        used = {key[1:3] for key in of if key[3]}
        return min(1.0, sum(share for key, share in of.items() if key[3] or key[1:3] not in used))

    def families(self, node: str) -> Iterator[Metric]:
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
        yield from self._more(node)
        capture = _family("obsray_gpu_capture_seconds")
        if self.capture_seconds:
            capture.add_metric([node], self.capture_seconds)
        yield from (seconds, kernels, copied, lost, capture)

    def _more(self, node: str) -> Iterator[Metric]:
        work, waits = _family("obsray_gpu_work_seconds"), _family("obsray_gpu_wait_seconds")
        for (gpu, activity), total in sorted(self.worked.items()):
            work.add_metric([node, str(gpu), _ACTIVITIES[activity]], total)
        launches, delays = _family("obsray_gpu_launches"), _family("obsray_gpu_launch_delay_seconds")
        for (gpu, slot), (count, total) in sorted(self.launches.items()):
            labels = [node, str(gpu), NO_TASK if slot < 0 else self.functions.name(slot)]
            launches.add_metric(labels, count)
            delays.add_metric(labels, total)
        for slot, total in sorted(self.waited.items()):
            waits.add_metric([node, NO_TASK if slot < 0 else self.functions.name(slot)], total)
        reserved = exposed.gauge("obsray_gpu_reserved")
        for gpu in sorted(self.reserved):
            reserved.add_metric([node, str(gpu)], self._reserved_of(gpu))
        yield from (work, launches, delays, waits, reserved)


def _by_slot(slots: Array, weights: Array) -> Iterator[tuple[int, float]]:
    found, back = np.unique(slots, return_inverse=True)
    yield from zip(found.tolist(), np.bincount(back.ravel(), weights, len(found)).tolist(), strict=True)


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
