"""What a task was queued for: what the scheduler said meanwhile, and which tasks held what it needed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from obsray import ids
from obsray.telemetry.explain import reason_text
from obsray.telemetry.tables import NS, Row

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.task_views import TaskViews

_AMOUNT = re.compile(r"(?:^|\s)([\w.\-:/]+):([\d.]+)(?=\s|$)")
_NOT_RESOURCES = ("env",)


def queued(view: TaskViews, raw: Row, piece: Row) -> list[Row]:
    """The part of a task's time in which it was queued (``piece``), as parts with a reason each."""
    shape, owner = view.store.texts[int(view.task_table["shape"][raw["row"]])], ids.owner_of(raw["id"])
    start, end = piece["from_ns"], piece["to_ns"]
    said = [
        (row["time_ns"], row)
        for row in view.lease_table.decisions
        if row["shape"] == shape and row["owner"] == owner and row["outcome"] not in ("granted", "withdrawn")
        and row["time_ns"] <= end
    ]  # fmt: skip
    said.sort(key=lambda pair: pair[0])
    before = [row for at, row in said if at <= start][-1:]
    inside = [(max(at, start), row) for at, row in said if at > start]
    first = next((row for row in before if _still_waited(view, row, start)), None)
    edges: list[tuple[int, Row | None]] = [(start, first), *inside]
    found: list[Row] = []
    for number, (at, row) in enumerate(edges):
        until = edges[number + 1][0] if number + 1 < len(edges) else end
        if until <= at:
            continue
        why = "in its owner's queue" if row is None else reason_text(row["reason"])
        if row is not None and row["deficit"] and row["reason"] in ("no_capacity", "infeasible", "placement", "labels"):
            why += f" ({row['deficit']})"
        if row is None or row["reason"] in ("no_capacity", "fairness", "worker_limit"):
            others = ran_meanwhile(view, at, until, raw["row"], shape)
            if others and others[0][1] > 0.2 * (until - at) / NS:
                why += f", workers were busy with {' and '.join(name for name, _ in others[:2])}"
        same = found and found[-1]["why"] == why
        if same:
            found[-1].update(to_ns=until, seconds=found[-1]["seconds"] + (until - at) / NS)
        else:
            found.append({"what": "queued", "seconds": (until - at) / NS, "from_ns": at, "to_ns": until, "why": why})
    return found


def _still_waited(view: TaskViews, decision: Row, at: int) -> bool:
    """Whether the same owner was granted nothing of that shape, and still wanted it, between a decision and ``at``."""
    return not any(
        row["outcome"] in ("granted", "withdrawn") and row["owner"] == decision["owner"]
        and row["shape"] == decision["shape"]
        and decision["time_ns"] <= row["time_ns"] <= at
        for row in view.lease_table.decisions
    )  # fmt: skip


def amounts(shape: str) -> dict[str, float]:
    """The resources that the name of a shape asks for: ``CPU:1 GPU:0.5`` and whatever stands around it."""
    return {name: float(value) for name, value in _AMOUNT.findall(shape) if name not in _NOT_RESOURCES}


def ran_meanwhile(view: TaskViews, start: int, end: int, without: int, shape: str) -> list[tuple[str, float]]:
    """Functions whose tasks ran between two instants, with the seconds of it that they took, most first. Only those
    that hold something of what ``shape`` asks for."""
    wanted = set(amounts(shape))
    table = view.task_table
    began, ended = table["started_at"], table["ended_at"]
    until = np.where(ended >= began, ended, end)
    overlap: Array = np.minimum(until, end) - np.maximum(began, start)
    rows = np.flatnonzero((began > 0) & (overlap > 0))
    rows = rows[rows != without]
    if wanted and len(rows):
        # Calls of actors have no shape of their own: their actor holds what it was given.
        codes = np.unique(table["shape"][rows])
        competing = [code for code in codes.tolist() if wanted & set(amounts(view.store.texts[code]))]
        rows = rows[np.isin(table["shape"][rows], competing)]
    if not len(rows):
        return []
    sums = np.bincount(table["name"][rows], weights=overlap[rows] / NS)
    order = np.argsort(sums)[::-1]
    return [(view.store.texts[int(code)], float(sums[code])) for code in order[:3].tolist() if sums[code] > 0]
