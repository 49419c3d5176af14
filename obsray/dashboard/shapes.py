"""Answers of the views, arranged for the templates: every key a template uses is there, whatever was recorded."""

from __future__ import annotations

from typing import Any

from .queries import listed
from .tables import TASK_STATES

ERRORS_SHOWN = 8
WORKERS_SHOWN = 24
#: The narrowest part of a bar that can still be seen and pointed at, percent of the whole.
PART_PERCENT_MIN = 0.4

#: What a part of a task's time is -> the colour class it has everywhere.
PARTS = {
    "waiting for arguments": "args",
    "queued": "queue",
    "dispatch": "dispatch",
    "fetch": "fetch",
    "deserialise": "deserialise",
    "run": "run",
    "blocked": "blocked",
    "store result": "store",
}


def overview_shape(view: Any) -> dict[str, Any]:
    """The overview with a share of the whole for everything that is drawn as a bar."""
    raw = view.overview()
    rates = raw.get("rates") or {}
    series = rates.get("series") or {}
    by_state = raw.get("tasks") or {}
    by_state = by_state.get("by_state", by_state)
    total = sum(by_state.values()) or 1
    return {
        "uptime_seconds": raw.get("uptime_seconds"),
        "tasks": [
            {"state": state, "tasks": by_state.get(state, 0), "percent": 100 * by_state.get(state, 0) / total}
            for state in TASK_STATES
        ],
        "tasks_total": sum(by_state.values()),
        "rates": {
            "submitted": rates.get("submitted_per_second"),
            "finished": rates.get("finished_per_second"),
            "series": {key: list(series.get(key) or ()) for key in ("time_ns", "submitted", "finished", "failed")},
        },
        "resources": [_resource(name, item) for name, item in sorted((raw.get("resources") or {}).items())],
        "store": _store(raw.get("store") or {}),
        "events": raw.get("events") or {},
        "ledger": raw.get("ledger") or {},
        "errors": list(raw.get("recent_errors") or ())[:ERRORS_SHOWN],
        "workers": _workers(view),
        "workers_by_state": raw.get("workers") or {},
    }


def task_shape(task: dict[str, Any]) -> dict[str, Any]:
    """A task whose time parts know their place (percent of the whole) and their colour."""
    parts = [dict(part) for part in task.get("time_split") or ()]
    total = sum(part["seconds"] or 0.0 for part in parts)
    left = 0.0
    for part in parts:
        share = 100 * (part["seconds"] or 0.0) / total if total else 0.0
        part["percent"] = share
        part["tone"] = PARTS.get(part["what"], "other")
        part["left"] = left
        part["width"] = max(share, PART_PERCENT_MIN) if share else 0.0
        left += share
    return {**task, "time_split": parts, "time_total": total}


def _resource(name: str, item: dict[str, Any]) -> dict[str, Any]:
    total, used = item.get("total") or 0.0, item.get("used") or 0.0
    return {
        "name": name,
        "total": total,
        "used": used,
        "percent": _percent(used, total),
        "is_bytes": name in ("memory", "object_store_memory"),
    }


def _store(store: dict[str, Any]) -> dict[str, Any]:
    capacity = store.get("capacity_bytes") or 0
    used, pinned = store.get("used_bytes") or 0, store.get("pinned_bytes") or 0
    spilled = store.get("spilled_bytes") or 0
    return {
        **store,
        "capacity_bytes": capacity,
        "used_bytes": used,
        "pinned_bytes": pinned,
        "spilled_bytes": spilled,
        "pinned_percent": _percent(pinned, capacity),
        "used_percent": _percent(used, capacity),
        "objects": store.get("objects") or 0,
    }


def _workers(view: Any) -> list[dict[str, Any]]:
    return listed(view.workers())[:WORKERS_SHOWN]


def _percent(part: float, whole: float) -> float:
    return min(100 * part / whole, 100.0) if whole else 0.0
