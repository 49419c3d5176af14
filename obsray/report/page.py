"""The page: its data, and the script that shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from obsray.report import columns
from obsray.telemetry.views import Views
from obsray.version import VERSION

_HERE = Path(__file__).parent
_SECONDS_DRAWN = 600
_EVENTS_TOLD = 200


def write(views: Views, tasks_max: int = columns.TASKS_MAX) -> Iterator[bytes]:
    """The file in pieces; views must be up to date."""
    rows = columns.chosen(views, tasks_max)
    facts = _facts(views, len(rows))
    title = f"obsray report: {facts['session']}"
    template = (_HERE / "report.html").read_text()
    head, _, rest = template.partition("@@DATA@@")
    yield head.replace("@@TITLE@@", escape(title)).encode()
    yield _json({**facts, "tasks": columns.tasks(views, rows)})
    yield rest.encode()


def _json(value: Any) -> bytes:
    """JSON that may stand inside a script element."""
    return json.dumps(_finite(value), allow_nan=False, default=str).replace("<", "\\u003c").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return None if isinstance(value, float) and value != value else value


def _facts(views: Views, shown: int) -> dict[str, Any]:
    overview = views.overview(refresh=False)
    first, last = views.samples.first_at_ns, views.samples.last_at_ns
    return {
        "session": views.store.session_dir.name,
        "version": VERSION,
        "first_ns": first,
        "last_ns": last,
        "tasks_total": overview["tasks_total"],
        "tasks_shown": shown,
        "states": overview["tasks"],
        "ledger": overview["ledger"],
        "resources": overview["resources"],
        "functions": views.functions(refresh=False),
        "actors": views.actors(refresh=False),
        "workers": views.workers(refresh=False),
        "nodes": views.nodes(refresh=False),
        "jobs": views.jobs(refresh=False),
        "troubles": [
            {"time_ns": row["time_ns"], "severity": row["severity"], "text": row["text"]}
            for row in views.troubles(_EVENTS_TOLD, refresh=False)
        ],
        "rates": _rates(views, first, last),
    }


def _rates(views: Views, first: int, last: int) -> dict[str, Any]:
    """Tasks submitted and finished by second, over the whole session, in at most ``_SECONDS_DRAWN`` steps."""
    begin, end = first // 10**9, last // 10**9 + 1
    step = max(1, -(-(end - begin) // _SECONDS_DRAWN))
    points = -(-(end - begin) // step)
    found = {}
    for name, counts in (("submitted", views.samples.submitted), ("finished", views.samples.finished)):
        series = np.array(counts.series(begin + points * step, points * step), np.int64)
        found[name] = series.reshape(points, step).sum(axis=1) / step
    return {"step_seconds": step, **found}
