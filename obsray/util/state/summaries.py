"""Summaries: over everything, not over a page, counted by array operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from obsray.telemetry.columns import Array
from obsray.telemetry.objects import STATES as OBJECT_STATES
from obsray.telemetry.views import Views
from obsray.util.state import columns, listing, remote
from obsray.util.state.listing import Filter
from obsray.util.state.rows import TASK_STATES, TASK_TYPES, ActorState, ObjectState, TaskState, actor_row
from obsray.util.state.sessions import ask

_MB = 1 << 20


def summarize_tasks(
    address: str | None = None,
    timeout: float = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    filters: Sequence[Filter] | None = None,
    since: Any = None,
    until: Any = None,
) -> dict[str, Any]:
    """``{"cluster": {"summary": {name: {type, state_counts}}, "total_tasks": ...}}``, tasks by their newest attempt."""
    asked = listing.check(TaskState, filters, 1, True, None, since, until, None)

    def question(views: Views) -> dict[str, Any]:
        table, texts = views.task_table, views.store.texts
        rows = np.flatnonzero(columns.mask_of_tasks(views, asked))
        names, types = table["name"][rows], table["type"][rows]
        states = table["state"][rows]
        codes, first = np.unique(names, return_index=True)
        counts = _counts(np.searchsorted(codes, names), states, len(codes), len(TASK_STATES))
        summary: dict[str, dict[str, Any]] = {
            texts[code]: {
                "func_or_class_name": texts[code],
                "type": TASK_TYPES[kind],
                "state_counts": _named(counts[at], TASK_STATES),
            }
            for at, (code, kind) in enumerate(zip(codes.tolist(), types[first].tolist(), strict=True))
        }
        ordered = dict(sorted(summary.items(), key=lambda item: -sum(item[1]["state_counts"].values())))
        totals = dict(zip(TASK_TYPES.values(), np.bincount(types, minlength=len(TASK_TYPES)).tolist(), strict=False))
        return {
            "cluster": {
                "summary": ordered,
                "total_tasks": totals["NORMAL_TASK"],
                "total_actor_tasks": totals["ACTOR_TASK"],
                "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
                "summary_by": "func_name",
            }
        }

    return ask(address, question, remote.summary("tasks", asked), timeout)


def summarize_actors(
    address: str | None = None,
    timeout: float = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    filters: Sequence[Filter] | None = None,
    since: Any = None,
    until: Any = None,
) -> dict[str, Any]:
    """``{"cluster": {"summary": {class_name: {state_counts}}, "total_actors": ...}}``."""
    asked = listing.check(ActorState, filters, 1 << 62, True, None, since, until, None)

    def question(views: Views) -> dict[str, Any]:
        rows = listing.page(ActorState, map(actor_row, views.actors(refresh=False)), asked, views.now_ns())
        summary: dict[str, dict[str, Any]] = {}
        for row in rows:
            entry = summary.setdefault(row.class_name, {"class_name": row.class_name, "state_counts": {}})
            entry["state_counts"][row.state] = entry["state_counts"].get(row.state, 0) + 1
        return {"cluster": {"summary": summary, "total_actors": len(rows), "summary_by": "class"}}

    return ask(address, question, remote.summary("actors", asked), timeout)


def summarize_objects(
    address: str | None = None,
    timeout: float = 30,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    filters: Sequence[Filter] | None = None,
    since: Any = None,
    until: Any = None,
) -> dict[str, Any]:
    """``{"cluster": {"summary": {call site: {total_objects, total_size_mb, ...}}, ...}}`` of the objects that exist."""
    asked = listing.check(ObjectState, filters, 1, True, None, since, until, None)

    def question(views: Views) -> dict[str, Any]:
        table, texts = views.object_table, views.store.texts
        rows = np.flatnonzero(columns.mask_of_objects(views, asked))
        sites = np.where(table["call_site"][rows] > 0, table["call_site"][rows], views.producers(rows))
        states, sizes = table.states()[rows], table["bytes"][rows].astype(np.float64)
        owners = np.ascontiguousarray(table["id"][rows]).view("V4").reshape(-1, 5)[:, :2].copy().view("<u8").ravel()
        codes, back = np.unique(sites, return_inverse=True)
        back = back.ravel()
        counts = _counts(back, states, len(codes), len(OBJECT_STATES))
        total = np.bincount(back, weights=sizes, minlength=len(codes))
        workers = _different(back, owners, len(codes))
        nodes = _different(back, np.ascontiguousarray(table["node"][rows]).view("<u8"), len(codes))
        summary: dict[str, dict[str, Any]] = {
            texts[code] or "unknown": {
                "total_objects": int(counts[at].sum()),
                "total_size_mb": float(total[at]) / _MB,
                "state_counts": _named(counts[at], OBJECT_STATES),
                "total_num_workers": int(workers[at]),
                "total_num_nodes": int(nodes[at]),
            }
            for at, code in enumerate(codes.tolist())
        }
        return {
            "cluster": {
                "summary": dict(sorted(summary.items(), key=lambda item: -item[1]["total_size_mb"])),
                "total_objects": len(rows),
                "total_size_mb": float(sizes.sum()) / _MB,
                "callsite_enabled": True,
                "summary_by": "callsite",
            }
        }

    return ask(address, question, remote.summary("objects", asked), timeout)


def _counts(group: Array, state: Array, groups: int, states: int) -> Array:
    """How many there are of each state in each group."""
    found: Array = np.bincount(group * states + state, minlength=groups * states).reshape(groups, states)
    return found


def _named(counts: Array, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in zip(names, counts.tolist(), strict=True):
        if count:
            found[name] = found.get(name, 0) + count
    return found


def _different(group: Array, values: Array, groups: int) -> Array:
    """How many different values there are in each group."""
    pairs = np.unique(np.stack([group.astype(np.uint64), values.astype(np.uint64)], axis=1), axis=0)
    found: Array = np.bincount(pairs[:, 0].astype(np.int64), minlength=groups)
    return found
