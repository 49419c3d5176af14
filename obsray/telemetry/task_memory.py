"""Memory of tasks: how much of its own the process of a task had while it was sampled, and by how much that grew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.telemetry.explain import size
from obsray.telemetry.store import Store, joined
from obsray.telemetry.table import same_id

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

Row = dict[str, Any]


def task_memory(store: Store, task: bytes) -> Row | None:
    """The most memory of its own that the process of a task had while it ran, and by how much it grew; None if it was
    not sampled. Of a process that runs several tasks at a time it is that of all."""
    found = joined(store.select("stack_sampled", lambda c: same_id(c["task"], task)), "stack_sampled")
    known = found.take(found["own_memory_bytes"] > 0)
    if not len(known):
        return None
    order = np.argsort(known["time_ns"], kind="stable")
    memory = known["own_memory_bytes"][order].astype(np.int64)
    return {
        "peak_bytes": int(memory.max()), "growth_bytes": int(memory[-1] - memory[0]),
        "samples": int(known["samples"].sum()),
    }  # fmt: skip


def function_memory(view: Views) -> list[Row]:
    """Peak and growth of the memory of processes while tasks of each function ran, most growth of one task first."""
    found = joined(view.store.select("stack_sampled", lambda c: c["own_memory_bytes"] > 0), "stack_sampled")
    rows = view.task_table.index.rows(found["task"], create=False)
    order = np.lexsort((found["time_ns"], rows))
    order = order[rows[order] >= 0]
    if not len(order):
        return []
    rows, memory = rows[order], found["own_memory_bytes"][order].astype(np.int64)
    starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
    ends = np.append(starts[1:], len(rows)) - 1
    peaks, growth = np.maximum.reduceat(memory, starts), memory[ends] - memory[starts]
    names = found["function"][order][starts]
    made = []
    for code in np.unique(names).tolist():
        mine = np.flatnonzero(names == code)
        worst = int(mine[np.argmax(growth[mine])])
        made.append({
            "name": view.store.texts[code], "tasks": len(mine), "peak_bytes": int(peaks[mine].max()),
            "growth_bytes": int(growth[worst]), "mean_growth_bytes": float(growth[mine].mean()),
            "task": view.task_table["id"][rows[starts[worst]]].tobytes().hex(),
        })  # fmt: skip
    return sorted(made, key=lambda row: -row["growth_bytes"])


def memory_words(found: Row) -> str:
    """Peak and growth as a phrase."""
    grown = found["growth_bytes"]
    change = f"grew by {size(grown)}" if grown > 0 else f"shrank by {size(-grown)}" if grown < 0 else "did not grow"
    return f"at most {size(found['peak_bytes'])} of its process' own memory, {change}"
