"""What is sampled or counted over time: the newest samples, and counts per second for rates."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Container
from typing import Any

import numpy as np

from obsray.telemetry.columns import Array, Batch, Texts

#: Longest stretch of seconds kept; older counts are dropped from the front.
SECONDS_MAX = 24 * 3600
#: What "recently" means for the CPU of a collector.
RECENT_SECONDS = 60
_NS = 1_000_000_000


class PerSecond:
    """Counts by whole second."""

    def __init__(self) -> None:
        self.first = 0
        self.counts = np.zeros(0, np.int64)

    def add(self, times_ns: Array, weights: Array | None = None) -> None:
        seconds = (times_ns // np.uint64(_NS)).astype(np.int64)
        low, high = int(seconds.min()), int(seconds.max())
        if not len(self.counts):
            self.first = low
        if max(high, self.first + len(self.counts)) - min(low, self.first) > SECONDS_MAX * 10:
            return  # a clock that is off by days would cost memory without end
        if low < self.first:
            self.counts = np.concatenate([np.zeros(self.first - low, np.int64), self.counts])
            self.first = low
        if high >= self.first + len(self.counts):
            grown = max(high - self.first + 1, len(self.counts) + 60)
            self.counts = np.concatenate([self.counts, np.zeros(grown - len(self.counts), np.int64)])
        found = np.bincount(seconds - self.first, weights=weights)
        self.counts[: len(found)] += found.astype(np.int64)
        if len(self.counts) > SECONDS_MAX:
            cut = len(self.counts) - SECONDS_MAX
            self.counts, self.first = self.counts[cut:], self.first + cut

    def series(self, end_second: int, points: int) -> list[int]:
        """The counts of the ``points`` seconds before ``end_second``, oldest first."""
        found = []
        for second in range(end_second - points, end_second):
            index = second - self.first
            found.append(int(self.counts[index]) if 0 <= index < len(self.counts) else 0)
        return found


class CollectorCost:
    """What one collector used, and whether it can store."""

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.events = 0
        self.bytes = 0
        #: When it last could not store any more, and why, and when it last could again.
        self.unstored_at = 0
        self.stored_again_at = 0
        self.unstored_errno = 0
        #: The samples of the last minute: when, and CPU seconds in all.
        self._recent: deque[tuple[int, float]] = deque()

    def sampled(self, at: int, events: int, written: int, cpu: float) -> None:
        self.cpu_seconds += cpu
        self.events += events
        self.bytes += written
        self._recent.append((at, self.cpu_seconds))
        while at - self._recent[0][0] > RECENT_SECONDS * _NS:
            self._recent.popleft()

    @property
    def share(self) -> float | None:
        """Of one processor, in the last minute; None before the second sample."""
        if not self._recent:
            return None
        (first, low), (last, high) = self._recent[0], self._recent[-1]
        return (high - low) / ((last - first) / _NS) if last > first else None


class SampleTable:
    """Newest samples of resources, store, node loop and collector; rates; totals of events."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.submitted = PerSecond()
        self.finished = PerSecond()
        self.events = PerSecond()
        self.events_total = 0
        self.last_at_ns = 0
        self.first_at_ns = 0
        #: Node -> resource -> how much there is and is used.
        self.resources_of: dict[bytes, dict[str, dict[str, float]]] = {}
        #: Kind of sample -> who took it (a node, a collector) -> its newest.
        self.latest: dict[str, dict[bytes, dict[str, Any]]] = {}
        self.dropped_events = 0
        self._collectors: dict[bytes, CollectorCost] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for columns in batch.values():
            times = columns["time_ns"]
            self.events_total += len(columns)
            self.events.add(times)
            low = int(times.min())
            self.first_at_ns = min(self.first_at_ns, low) if self.first_at_ns else low
            self.last_at_ns = max(self.last_at_ns, int(times.max()))
        if "task_submitted" in batch:
            self.submitted.add(batch["task_submitted"]["time_ns"])
        if "tasks_submitted" in batch:
            self.submitted.add(batch["tasks_submitted"]["time_ns"], batch["tasks_submitted"]["tasks"])
        if "task_finished" in batch:
            self.finished.add(batch["task_finished"]["time_ns"])
        if "tasks_finished" in batch:
            self.finished.add(batch["tasks_finished"]["time_ns"], batch["tasks_finished"]["tasks"])
        if "events_dropped" in batch:
            self.dropped_events += int(batch["events_dropped"]["events"].sum())
        self._fold_collectors(batch)
        for event in ("store_sample", "node_sample", "collector_sample"):
            if event in batch:
                columns = batch[event]
                latest = self.latest.setdefault(event, {})
                for row in columns.take(_last_of_each(columns["process"].view("<u8"))).rows(self.texts):
                    if row["time_ns"] >= latest.get(row["process"], {}).get("time_ns", 0):
                        latest[row["process"]] = row
        if "resource_sample" in batch:
            columns = batch["resource_sample"]
            who = np.stack([columns["process"].view("<u8"), columns["resource"].astype(np.uint64)], axis=1)
            for at in _last_of_each(who):
                of_node = self.resources_of.setdefault(columns["process"][at].tobytes(), {})
                of_node[self.texts[int(columns["resource"][at])]] = {
                    "total": float(columns["total"][at]),
                    "used": float(columns["used"][at]),
                }

    def _fold_collectors(self, batch: Batch) -> None:
        if "collector_sample" in batch:
            columns = batch["collector_sample"]
            names = ("time_ns", "events", "bytes_written", "cpu_seconds")
            values = [columns[name].tolist() for name in names]
            for process, *sample in zip(columns["process"], *values, strict=True):
                self._collectors.setdefault(process.tobytes(), CollectorCost()).sampled(*sample)
        for event in ("telemetry_unstored", "telemetry_stored_again"):
            for row in batch[event].rows(self.texts) if event in batch else ():
                cost = self._collectors.setdefault(row["process"], CollectorCost())
                if event == "telemetry_stored_again":
                    cost.stored_again_at = max(cost.stored_again_at, row["time_ns"])
                elif row["time_ns"] > cost.unstored_at:
                    cost.unstored_at, cost.unstored_errno = row["time_ns"], row["errno"]

    def collector(self, process: bytes) -> dict[str, Any]:
        """What a collector used in all and in the last minute, and since when it cannot store, if it cannot."""
        cost = self._collectors.get(process) or CollectorCost()
        why = os.strerror(cost.unstored_errno) if cost.unstored_errno else "the disk takes nothing"
        return {
            "cpu_seconds": cost.cpu_seconds, "cpu_share": cost.share, "events": cost.events, "bytes": cost.bytes,
            "failing": {"since_ns": cost.unstored_at if cost.unstored_at > cost.stored_again_at else None, "why": why},
        }  # fmt: skip

    def resources(self, nodes: Container[bytes]) -> dict[str, dict[str, float]]:
        """What these nodes have and use in sum, by resource."""
        found: dict[str, dict[str, float]] = {}
        for node, of_node in self.resources_of.items():
            if node in nodes:
                for name, amounts in of_node.items():
                    known = found.setdefault(name, {"total": 0.0, "used": 0.0})
                    known["total"] += amounts["total"]
                    known["used"] += amounts["used"]
        return found

    def totals(self, event: str, nodes: Container[bytes]) -> dict[str, float]:
        """The newest samples of one kind of these nodes in sum."""
        found: dict[str, float] = {}
        for node, row in self.latest.get(event, {}).items():
            if node in nodes:
                for name, value in row.items():
                    if isinstance(value, int | float):
                        found[name] = found.get(name, 0) + value
        return found

    def newest(self, event: str) -> dict[str, Any]:
        """The newest sample of one kind, whoever took it."""
        return max(self.latest.get(event, {}).values(), key=lambda row: row["time_ns"], default={})


def _last_of_each(keys: Array) -> Array:
    """Where each key (a row of several) stands for the last time."""
    _, index = np.unique(keys[::-1], return_index=True, axis=0 if keys.ndim > 1 else None)
    return len(keys) - 1 - index
