"""The numbers of the autoscaler: nodes by type, and what waits by what it makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import Metric

from obsray.metrics import exposed
from obsray.telemetry.columns import Batch, Texts
from obsray.telemetry.events import ScalingVerdict
from obsray.telemetry.scaling import ScalingTable

STATES = ("running", "starting", "leaving")


class ScalingSeries:
    """``update`` folds a batch of any node."""

    def __init__(self, texts: Texts) -> None:
        self._table = ScalingTable(texts)

    def update(self, batch: Batch) -> None:
        """Fold the new records."""
        self._table.update(batch)

    def families(self) -> Iterator[Metric]:
        """The families of the head; without an autoscaler they are empty."""
        nodes, most = exposed.gauge("obsray_autoscaler_nodes"), exposed.gauge("obsray_autoscaler_nodes_limit")
        demand, seconds = exposed.gauge("obsray_autoscaler_demand"), exposed.gauge("obsray_autoscaler_decide_seconds")
        for name, row in sorted(self._table.types.items()):
            for state in STATES:
                nodes.add_metric([name, state], row[state])
            most.add_metric([name], row["max_workers"])
        if self._table.types:
            waiting: Counter[str] = Counter()
            for row in self._table.demands.values():
                waiting[row["verdict"]] += row["units"]
            for verdict in ScalingVerdict:
                demand.add_metric([verdict.name.lower()], waiting[verdict.name.lower()])
            latest = max(self._table.types.values(), key=lambda row: row["at_ns"])
            seconds.add_metric([], latest["decide_seconds"])
        yield from (nodes, most, demand, seconds)
