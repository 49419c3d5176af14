"""GPU work as sums: per task, per function and kernel, and what is known about its capture."""

from __future__ import annotations

from typing import Any

import numpy as np

from obsray.telemetry.columns import Array, Batch, Columns, Texts
from obsray.telemetry.table import DenseIndex, Grid

SPEC: dict[str, tuple[str, Any]] = {
    "kernels": ("<u4", 0),
    "kernel_seconds": ("<f8", 0),
    "copies": ("<u4", 0),
    "copy_seconds": ("<f8", 0),
    "copy_bytes": ("<u8", 0),
    "wait_seconds": ("<f8", 0),
}


class GpuTable:
    """Folds GPU work. ``tasks`` has a row for each task that had some (``index``); work of no known task counts in
    ``unattributed``."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.index = DenseIndex()
        self.tasks = Grid(SPEC)
        #: (function, kernel) -> launches, seconds, longest.
        self.kernels: dict[tuple[int, int], list[float]] = {}
        self.unattributed = {"kernels": 0, "kernel_seconds": 0.0}
        self.kernels_total = 0
        self.lost = 0
        #: Worker -> why nothing, or less, is captured there.
        self.notices: dict[bytes, str] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        if "gpu_kernel" in batch:
            self._kernels(batch["gpu_kernel"])
        if "gpu_copy" in batch:
            copies = batch["gpu_copy"]
            self._add(copies, {"copies": 1, "copy_seconds": "copy_seconds", "copy_bytes": "copy_bytes"})
        if "gpu_wait" in batch:
            self._add(batch["gpu_wait"], {"wait_seconds": "wait_seconds"})
        if "gpu_records_lost" in batch:
            self.lost += int(batch["gpu_records_lost"]["records"].sum())
        for event in ("gpu_capture_refused", "gpu_capture_changed"):
            if event in batch:
                for row in batch[event].rows(self.texts):
                    self.notices[row["worker"]] = row["error"]

    def _kernels(self, columns: Columns) -> None:
        self.kernels_total += len(columns)
        own = self._add(columns, {"kernels": 1, "kernel_seconds": "kernel_seconds"})
        seconds = columns["kernel_seconds"].astype(np.float64)
        self.unattributed["kernels"] += int(np.count_nonzero(~own))
        self.unattributed["kernel_seconds"] += float(seconds[~own].sum())
        keys = columns["function"].astype(np.int64) << 32 | columns["kernel"].astype(np.int64)
        found, back = np.unique(keys, return_inverse=True)
        counts, sums = np.bincount(back), np.bincount(back, weights=seconds)
        longest = np.zeros(len(found))
        np.maximum.at(longest, back, seconds)
        for key, count, total, most in zip(
            found.tolist(), counts.tolist(), sums.tolist(), longest.tolist(), strict=True
        ):
            entry = self.kernels.setdefault((key >> 32, key & 0xFFFFFFFF), [0, 0.0, 0.0])
            entry[0] += count
            entry[1] += total
            entry[2] = max(entry[2], most)

    def _add(self, columns: Columns, what: dict[str, Any]) -> Array:
        """Add to the rows of the tasks whose work it is; says which records have a task."""
        own: Array = columns["attributed_by"] != 0
        rows = self.index.rows(columns["task"][own])
        self.tasks.grow(self.index.count)
        good = rows >= 0
        for name, of in what.items():
            values = 1 if of == 1 else columns[of][own][good]
            np.add.at(self.tasks[name], rows[good], values)
        return own

    def of(self, task: bytes) -> dict[str, float] | None:
        """The sums of one task; None if it had no GPU work."""
        row = self.index.row(task)
        return None if row < 0 else {name: self.tasks[name][row].item() for name in SPEC}


def busy_seconds(starts: Array, ends: Array) -> float:
    """How long at least one of these spans lasted."""
    if not len(starts):
        return 0.0
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order].astype(np.int64), np.maximum.accumulate(ends[order].astype(np.int64))
    before = np.concatenate([[starts[0]], reach[:-1]])
    return float(np.maximum(0, reach - np.maximum(starts, before)).sum()) / 1e9
