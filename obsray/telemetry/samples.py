"""What is sampled or counted over time: the newest samples, and counts per second for rates."""

from __future__ import annotations

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
        self.resources: dict[str, dict[str, float]] = {}
        self.latest: dict[str, dict[str, Any]] = {}
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
                newest = int(np.argmax(batch[event]["time_ns"]))
                row = batch[event].take(np.array([newest])).rows(self.texts)[0]
                if row["time_ns"] >= self.latest.get(event, {}).get("time_ns", 0):
                    self.latest[event] = row
        if "resource_sample" in batch:
            columns = batch["resource_sample"]
            _, index = np.unique(columns["resource"][::-1], return_index=True)
            for at in len(columns) - 1 - index:
                self.resources[self.texts[int(columns["resource"][at])]] = {
                    "total": float(columns["total"][at]),
                    "used": float(columns["used"][at]),
                }
