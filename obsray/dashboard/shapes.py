"""Answers of the views, arranged for the templates: every key a template uses is there, whatever was recorded."""

from __future__ import annotations

from typing import Any

from .tables import TASK_STATES

WORKERS_SHOWN = 24
#: The narrowest part of a bar that can still be seen and pointed at, percent of the whole.
PART_PERCENT_MIN = 0.4
_NS = 1_000_000_000

#: What a part of a task's time is -> the colour class it has everywhere.
PARTS = {
    "waiting for arguments": "args",
    "earlier attempts": "other",
    "queued": "queue",
    "dispatch": "dispatch",
    "fetch arguments": "fetch",
    "deserialise": "deserialise",
    "run": "run",
    "blocked in get": "blocked",
    "store result": "store",
}


#: What a GPU did -> its colour class.
GPU_TONES = {
    "compute": "part-run",
    "communication": "part-fetch",
    "copy": "part-deserialise",
    "idle: launch-bound": "part-queue",
    "idle: synchronising": "part-blocked",
    "idle: waiting for input": "part-args",
    "idle: storing results": "part-store",
    "idle: nothing submitted": "part-other",
    "idle: between kernels": "part-dispatch",
    "not observed": "tone-bad",
    "not reserved": "act-none",
}
#: Kernels on the page of GPUs.
KERNELS_SHOWN = 15
#: Decisions of an autoscaler on the overview.
SCALING_DECISIONS = 8


def overview_shape(view: Any) -> dict[str, Any]:
    """The overview with a share of the whole for everything that is drawn as a bar."""
    raw = view.overview(refresh=False)
    tasks, total = raw["tasks"], sum(raw["tasks"].values())
    series = raw["rates"]["series"]
    start = series["from_ns"] / _NS
    return {
        "uptime_seconds": raw["uptime_seconds"],
        "tasks": [
            {"state": s, "tasks": tasks.get(s, 0), "percent": _percent(tasks.get(s, 0), total)} for s in TASK_STATES
        ],
        "tasks_total": total,
        "submitted_per_second": raw["rates"]["submitted_per_second"],
        "finished_per_second": raw["rates"]["finished_per_second"],
        "series": [
            [start + second for second in range(len(series["finished"]))],
            series["submitted"],
            series["finished"],
        ],
        "resources": [_resource(name, item) for name, item in sorted(raw["resources"].items())],
        "store": _store(raw["store"]),
        "events_total": raw["events_total"],
        "events_per_second": raw["events_per_second"],
        "bytes_stored": raw["bytes_stored"],
        "telemetry_lag_seconds": raw["telemetry_lag_seconds"],
        "ledger": raw["ledger"],
        "collectors": raw["collectors"],
        "gpu": raw["gpu"],
        "gpu_devices": raw.get("gpu_devices", []),
        "chaos": raw["chaos"],
        "halts": raw.get("halts", []),
        "errors": raw["recent_errors"],
        "scaling": view.scaling(SCALING_DECISIONS, refresh=False),
        "workers_by_state": raw["workers"],
        "workers": _workers(view),
    }


def task_shape(task: dict[str, Any]) -> dict[str, Any]:
    """A task whose time parts know their place (percent of the whole) and their colour."""
    parts = [dict(part) for part in task["time_split"]]
    total = sum(part["seconds"] for part in parts)
    left = 0.0
    for part in parts:
        share = _percent(part["seconds"], total)
        part["percent"], part["left"] = share, left
        part["tone"] = PARTS.get(part["what"], "other")
        part["width"] = max(share, PART_PERCENT_MIN) if share else 0.0
        left += share
    gpu = task.get("gpu")
    if gpu:
        gpu = {
            **gpu, "activities": gpu_parts(gpu["activities"]), "shown": gpu["by_kernel"][:KERNELS_SHOWN],
            "more": max(0, len(gpu["by_kernel"]) - KERNELS_SHOWN),
        }  # fmt: skip
    return {**task, "time_split": parts, "time_total": total, "gpu": gpu}


def gpus_shape(view: Any) -> dict[str, Any]:
    """Every GPU with its time as a bar, what took most, and what is not captured."""
    kernels, summary = view.kernels(refresh=False), view.gpu_summary()
    return {
        "gpus": [{**row, "activities": gpu_parts(row["activities"])} for row in view.gpus(refresh=False)],
        "kernels": kernels[:KERNELS_SHOWN],
        "kernels_total": len(kernels),
        "summary": summary,
        "notices": list(dict.fromkeys(notice["text"] for notice in summary["notices"])),
    }


def gpu_parts(activities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a GPU did, each part with its place in the bar (percent) and its colour."""
    found, left = [], 0.0
    for row in activities:
        percent = 100 * row["share"]
        width = max(percent, PART_PERCENT_MIN) if percent else 0.0
        found.append({**row, "tone": GPU_TONES.get(row["activity"], "act-idle"), "left": left, "width": width})
        left += percent
    return found


def _resource(name: str, item: dict[str, Any]) -> dict[str, Any]:
    total, used = item["total"], item["used"]
    is_bytes = name in ("memory", "object_store_memory")
    return {"name": name, "total": total, "used": used, "percent": _percent(used, total), "is_bytes": is_bytes}


def _store(store: dict[str, Any]) -> dict[str, Any]:
    capacity = store["capacity_bytes"]
    return {
        **store,
        "pinned_percent": _percent(store["pinned_bytes"], capacity),
        "used_percent": _percent(store["used_bytes"], capacity),
    }


def _workers(view: Any) -> list[dict[str, Any]]:
    """Processes that run users' code, the busy ones first, the dead ones last."""
    order = {"HALTED": -1, "BUSY": 0, "BLOCKED": 1, "ACTOR": 2, "LEASED": 3, "IDLE": 4, "STARTING": 5, "DEAD": 7}
    found = [row for row in view.workers(refresh=False) if row["kind"] in ("worker", "driver")]
    return sorted(found, key=lambda row: order.get(row["state"], 6))[:WORKERS_SHOWN]


def _percent(part: float, whole: float) -> float:
    return min(100 * part / whole, 100.0) if whole else 0.0
