"""``docs/metrics.md``, made from the catalogue: ``python -m obsray.metrics.docs > docs/metrics.md``."""

from __future__ import annotations

import sys

from obsray.metrics.catalog import BUCKETS, FUNCTIONS_MAX, METRICS, OTHER, Metric
from obsray.metrics.user import FAMILIES_MAX, PREFIX, SERIES_MAX

_HEAD = f"""# Metrics

What `/metrics` serves, in OpenMetrics. Generated from `obsray/metrics/catalog.py`; do not edit.

All of it is folded from the [events](events.md) by the collector's process; the address is `metrics_url` in
`session.json`, and the session's token is required (`Authorization: Bearer <hex>`). `fn` keeps the first
{FUNCTIONS_MAX} function names and calls the rest `{OTHER}`. Histograms of tasks carry exemplars with `trace_id` and
`span_id`. Buckets, in seconds: {", ".join(f"{bound:g}" for bound in BUCKETS)}.

Metrics made with `obsray.util.metrics` follow as `{PREFIX}<name>`, with their own labels: at most {FAMILIES_MAX}
families of {SERIES_MAX} combinations of label values, the rest is `{OTHER}`. Of a gauge the newest value is served.

| metric | type | labels | what it is | folded from |
|---|---|---|---|---|
"""


def markdown() -> str:
    """The whole page."""
    return _HEAD + "".join(_row(metric) for metric in METRICS.values())


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    events = ", ".join(f"[`{event}`](events.md#{event})" for event in metric.events) or "the collector itself"
    return f"| `{metric.exposed}` | {metric.type} | {labels} | {metric.help} | {events} |\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
