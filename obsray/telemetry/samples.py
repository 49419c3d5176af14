"""What is sampled or counted over time: the newest samples, and counts per second for rates."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

from obsray.telemetry.columns import Array, Batch, Texts

#: Longest stretch of seconds kept; older counts are dropped from the front.
SECONDS_MAX = 24 * 3600
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
