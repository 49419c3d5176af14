"""GPU work as sums: per task, per function and kernel, and what is known about its capture."""

from __future__ import annotations

import re
from dataclasses import dataclass
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


#: What is kept of each kernel: numbers and seconds; delays are from the launch to the start, where that is known.
KERNEL_SUMS = ("launches", "seconds", "timed", "delay_seconds", "max_seconds", "max_delay_seconds")


def launch_delays(columns: Columns) -> tuple[Array, Array]:
    """Of pieces of work how long after their launch they began (seconds), and of which that is known."""
    launched = columns["launched_at"].astype(np.int64)
    delays = np.maximum(columns["time_ns"].astype(np.int64) - launched, 0) / 1e9
    return delays, launched > 0


#: Libraries whose kernels exchange data between GPUs.
_COMMUNICATION = re.compile(r"nccl|rccl|nvshmem|mscclpp", re.IGNORECASE)


def is_communication(texts: Texts, kernels: Array) -> Array:
    """Which kernels exchange data between GPUs: those of NCCL and its like, by name."""
    codes, back = np.unique(kernels, return_inverse=True)
    found = np.array([bool(_COMMUNICATION.search(texts[int(code)])) for code in codes], np.bool_)
    return found[back.ravel()] if len(codes) else np.zeros(0, np.bool_)


@dataclass(slots=True)
class Reservation:
    """A GPU, or a share of it, that was set aside: for a worker, or (``worker`` is nil) for a bundle of a group."""

    node: bytes
    gpu: int
    share: float
    worker: bytes
    group: bytes
    bundle: int
    job: int
    from_ns: int
    to_ns: int = 0


class GpuTable:
    """Folds GPU work. ``tasks`` has a row for each task that had some (``index``); work of no known task counts in
    ``unattributed``."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.index = DenseIndex()
        self.tasks = Grid(SPEC)
        #: (function, kernel) -> ``KERNEL_SUMS``.
        self.kernels: dict[tuple[int, int], Array] = {}
        self.unattributed = {"kernels": 0, "kernel_seconds": 0.0}
        self.kernels_total = 0
        self.lost = 0
        #: Nodes' GPUs: (node, number).
        self.offered: set[tuple[bytes, int]] = set()
        #: Who had which GPU from when until when (0: still), in the order in which it began.
        self.reservations: list[Reservation] = []
        #: Workers that captured something; since when (0: always) those captured nothing that cannot, or stopped.
        self._seen: set[bytes] = set()
        self._blind: dict[bytes, int] = {}
        self._held: dict[tuple[bytes, int, int, bytes, int], Reservation] = {}
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
        if "gpu_found" in batch:
            self.offered |= {(row["node"], row["gpu"]) for row in batch["gpu_found"].rows(self.texts)}
        if "gpu_reserved" in batch:
            self._reserved(batch["gpu_reserved"])
        if "gpu_released" in batch:
            for row in batch["gpu_released"].rows(self.texts):
                found = self._held.pop(_share_key(row), None)
                if found is not None:
                    found.to_ns = row["time_ns"]
        if "gpu_records_lost" in batch:
            self.lost += int(batch["gpu_records_lost"]["records"].sum())
        if "gpu_capture_started" in batch:
            self._seen |= {row["worker"] for row in batch["gpu_capture_started"].rows(self.texts)}
        for event in ("gpu_capture_refused", "gpu_capture_changed"):
            if event in batch:
                for row in batch[event].rows(self.texts):
                    self.notices[row["worker"]] = row["error"]
                    if event == "gpu_capture_refused" or row["level"] == "off":
                        self._blind[row["worker"]] = 0 if event == "gpu_capture_refused" else row["time_ns"]

    def unseen_since(self, worker: bytes) -> int | None:
        """Since when a worker's GPU work is not captured (0: it never was); None if it is."""
        return self._blind.get(worker, None if worker in self._seen else 0)

    def _reserved(self, columns: Columns) -> None:
        for row in columns.rows(self.texts):
            made = Reservation(
                row["process"], row["gpu"], row["share"], row["worker"], row["group"], row["bundle"], row["job"],
                row["time_ns"],
            )  # fmt: skip
            self.reservations.append(made)
            self._held[_share_key(row)] = made

    def _kernels(self, columns: Columns) -> None:
        self.kernels_total += len(columns)
        self._seen |= {int(word).to_bytes(8, "little") for word in np.unique(columns["worker"].view("<u8"))}
        own = self._add(columns, {"kernels": 1, "kernel_seconds": "kernel_seconds"})
        seconds = columns["kernel_seconds"].astype(np.float64)
        self.unattributed["kernels"] += int(np.count_nonzero(~own))
        self.unattributed["kernel_seconds"] += float(seconds[~own].sum())
        keys = columns["function"].astype(np.int64) << 32 | columns["kernel"].astype(np.int64)
        found, back = np.unique(keys, return_inverse=True)
        delays, timed = launch_delays(columns)
        sums = np.stack(
            [np.bincount(back, weights, len(found)) for weights in (np.ones(len(back)), seconds, timed, delays * timed)]
        )
        most = np.zeros((2, len(found)))
        np.maximum.at(most[0], back, seconds)
        np.maximum.at(most[1], back, delays * timed)
        for at, key in enumerate(found.tolist()):
            entry = self.kernels.setdefault((key >> 32, key & 0xFFFFFFFF), np.zeros(len(KERNEL_SUMS)))
            entry[:4] += sums[:, at]
            np.maximum(entry[4:], most[:, at], out=entry[4:])

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


def _share_key(row: dict[str, Any]) -> tuple[bytes, int, int, bytes, int]:
    return row["process"], row["gpu"], row["lease"], row["group"], row["bundle"]


def busy_seconds(starts: Array, ends: Array) -> float:
    """How long at least one of these spans lasted."""
    if not len(starts):
        return 0.0
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order].astype(np.int64), np.maximum.accumulate(ends[order].astype(np.int64))
    before = np.concatenate([[starts[0]], reach[:-1]])
    return float(np.maximum(0, reach - np.maximum(starts, before)).sum()) / 1e9
