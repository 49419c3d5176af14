"""Families of the catalogue as prometheus_client has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.samples import Exemplar

from obsray.metrics.catalog import BUCKETS, METRICS
from obsray.metrics.series import Histogram


def counter(name: str) -> CounterMetricFamily:
    """An empty family."""
    metric = METRICS[name]
    return CounterMetricFamily(name, metric.help, labels=metric.labels)


def gauge(name: str) -> GaugeMetricFamily:
    """An empty family."""
    metric = METRICS[name]
    return GaugeMetricFamily(name, metric.help, labels=metric.labels)


def histogram(name: str) -> HistogramMetricFamily:
    """An empty family."""
    metric = METRICS[name]
    return HistogramMetricFamily(name, metric.help, labels=metric.labels)


def add_histogram(family: HistogramMetricFamily, labels: list[str], values: Histogram, slot: int) -> None:
    """Add the buckets of one slot, with their exemplars."""
    buckets: list[Any] = []
    counts = np.cumsum(values.counts[slot])
    for index, count in enumerate(counts.tolist()):
        bound = str(BUCKETS[index]) if index < len(BUCKETS) else "+Inf"
        known = values.exemplars.get((slot, index))
        if known is None:
            buckets.append((bound, count))
        else:
            buckets.append((bound, count, Exemplar(known[0], known[1], known[2] / 1e9)))
    family.add_metric(labels, buckets=buckets, sum_value=float(values.sums[slot]))
