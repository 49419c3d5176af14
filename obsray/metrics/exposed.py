"""Families of the catalogue as prometheus_client has them."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar

from obsray.metrics.catalog import BUCKETS, METRICS
from obsray.metrics.series import Histogram

#: Longer values of labels are cut.
LABEL_CHARACTERS_MAX = 200
HELP_CHARACTERS_MAX = 1000
#: What is no text for others: Prometheus takes the first for the end of the scrape, the others cannot be written.
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


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


def fit(text: str, characters_max: int = LABEL_CHARACTERS_MAX) -> str:
    """The text as everybody can read it. What is cut or replaced ends with a digest, so that no two become one."""
    if len(text) <= characters_max and not _UNFIT.search(text):
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{_UNFIT.sub(_REPLACEMENT, text)[:characters_max]}…{digest}"


def fitted(family: Metric) -> Metric:
    """The family, whatever people have called things."""
    family.documentation = fit(family.documentation, HELP_CHARACTERS_MAX)
    for sample in family.samples:
        for label, value in sample.labels.items():
            if len(value) > LABEL_CHARACTERS_MAX or _UNFIT.search(value):
                sample.labels[label] = fit(value)
    if family.type in ("counter", "histogram"):
        family.samples = [
            sample if (sum_ := settled(sample.value)) == sample.value else sample._replace(value=sum_)
            for sample in family.samples
        ]
    return family


def settled(value: float) -> float:
    """A sum without its last digits, which depend on the order of its parts: a collector that adds them up once more
    says no less than the one before it, which Prometheus would take for a counter that began anew."""
    if type(value) is not float or value.is_integer() or not math.isfinite(value):
        return value
    return float(f"{value:.10g}")
