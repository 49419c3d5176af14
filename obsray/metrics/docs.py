"""``docs/metrics.md``, made from the catalogue: ``python -m obsray.metrics.docs > docs/metrics.md``."""

from __future__ import annotations

import sys

from obsray.metrics.catalog import (
    BUCKETS,
    FUNCTIONS_KEPT,
    FUNCTIONS_MAX,
    JOBS_MAX,
    METRICS,
    NAMES_MAX,
    OTHER,
    SHAPES_MAX,
    USES_MIN,
    Metric,
)
from obsray.metrics.user import FAMILIES_MAX, PREFIX, SERIES_MAX

_HEAD = f"""# Metrics

What `/metrics` serves, in OpenMetrics. Generated from `obsray/metrics/catalog.py`; do not edit.

All of it is folded from the [events](events.md) by the collector of each node; the address is `metrics_url` in
`session.json` (setting `metrics_address`), and `Authorization: Bearer` with the content of the session's file
`metrics_token` is required, which opens nothing else. How to scrape a cluster, alerts and dashboards:
[monitoring.md](monitoring.md).

Every label is bounded. `fn` has {FUNCTIONS_MAX} names: the first {FUNCTIONS_MAX - FUNCTIONS_KEPT} functions, and later
ones as soon as they are used {USES_MIN} times; the rest is `{OTHER}`. `shape` has the first {SHAPES_MAX},
`actor_class` the first {NAMES_MAX}, `job_id` the newest {JOBS_MAX}; how near they are is in
`obsray_metric_label_values`.
A counter never goes back while its collector lives, and what is said of a process ends with it.
Histograms of tasks carry exemplars with `trace_id` and `span_id`.
Buckets, in seconds: {", ".join(f"{bound:g}" for bound in BUCKETS)}.

Metrics made with `obsray.util.metrics` follow as `{PREFIX}<name>`, with their own labels: at most {FAMILIES_MAX}
families of {SERIES_MAX} combinations of label values, the rest is `{OTHER}`. Of a gauge the newest value is served.

| metric | type | labels | served by | what it is | folded from |
|---|---|---|---|---|---|
"""


def markdown() -> str:
    """The whole page."""
    return _HEAD + "".join(_row(metric) for metric in METRICS.values())


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    events = ", ".join(f"[`{event}`](events.md#{event})" for event in metric.events) or (
        "the collector itself" if metric.served_by == "node" else "the dashboard itself"
    )
    return f"| `{metric.exposed}` | {metric.type} | {labels} | {metric.served_by} | {metric.help} | {events} |\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
