"""The folded tables of a session as Arrow tables, one for each relation that is not made of others.

Big ones (tasks, attempts, objects) are made column by column; ids stay bytes there and times nanoseconds, so that only
what a query uses is turned into text (``views.py``). Small ones come row by row out of the views.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from obsray import ids
from obsray.telemetry.aggregates import Aggregates
from obsray.telemetry.columns import Array, Columns, Texts
from obsray.telemetry.database.relations import BY_NAME
from obsray.telemetry.events import Outcome
from obsray.telemetry.log_search import LogQuery, LogSearch
from obsray.telemetry.objects import STATES as OBJECT_STATES
from obsray.telemetry.store import joined
from obsray.telemetry.table import HashIndex
from obsray.telemetry.tasks import FINISHED, OPEN, STATES, TaskTable
from obsray.telemetry.views import Views

_TYPES = ["NORMAL_TASK", "ACTOR_CREATION_TASK", "ACTOR_TASK", "DRIVER_TASK"]
_OUTCOMES = [outcome.name.lower() for outcome in Outcome]
_DURATIONS = (
    "fetch_seconds", "deserialize_seconds", "run_seconds", "store_seconds", "cpu_seconds", "blocked_seconds",
)  # fmt: skip
_ARROW: dict[str, Any] = {
    "id": pa.string(), "text": pa.string(), "json": pa.string(), "int": pa.int64(), "float": pa.float64(),
    "bool": pa.bool_(), "time": pa.int64(),
}  # fmt: skip


def tables(views: Views) -> dict[str, Callable[[], pa.Table]]:
    """Relation -> what makes its table now."""
    return {
        "tasks": lambda: _tasks(views),
        "attempts": lambda: _attempts(views),
        "objects": lambda: _objects(views),
        "actors": lambda: _listed("actors", views.actors(refresh=False)),
        "workers": lambda: _listed("workers", (_worker(views, row) for row in views.workers(refresh=False))),
        "nodes": lambda: _listed("nodes", views.nodes(refresh=False)),
        "jobs": lambda: _listed("jobs", ({**row, "metadata": row["metadata"] or None} for row in views.jobs(False))),
        "placement_groups": lambda: _listed("placement_groups", map(_group, views.placement_groups(False))),
        "environments": lambda: _listed("environments", views.environments(refresh=False)),
        "folded": lambda: _listed("folded", Aggregates(views.store.catalog.directory).rows()),
        "rings": lambda: _listed("rings", map(_ring, views.ledger(refresh=False)["rings"])),
        "logs": lambda: _listed("logs", LogSearch(views, LogQuery())),
    }


def node_of(views: Views, process: bytes) -> bytes:
    """The node a process belongs to; zeros if nobody knows."""
    mark = ids.mark_of(process)
    found = next((node for node in views.cluster_table.nodes if ids.mark_of_node(node) == mark), None)
    if found is not None:
        return found
    reader = views.store.ring(process)
    return reader.state.node if reader is not None else bytes(ids.NODE_ID_BYTES)


# --- columns -------------------------------------------------------------------------------------------------


def _tasks(views: Views) -> pa.Table:
    table, texts, now = views.task_table, views.store.texts, views.now_ns()
    every = np.arange(len(table))
    times = views.task_times(every, now)
    over = table["state"] >= FINISHED
    ran, known = table["ended_attempt"] >= 0, table["worker"] >= 0
    outcome = np.where(table["owner_outcome"] != OPEN, table["owner_outcome"], table["worker_outcome"])
    columns: dict[str, Any] = {
        "task_id": _id(table["id"]),
        "name": _coded(table["name"], texts),
        "type": _one_of(table["type"], _TYPES),
        "state": _one_of(table["state"], STATES),
        "outcome": _one_of(outcome, _OUTCOMES, ~over),
        "attempt": table.attempt(every),
        "parent_task_id": _id(table["parent"]),
        "actor_id": _id(table["actor"]),
        "trace_id": _id(table["trace"]),
        "owner_id": _id(_words(table["id"], 2)),
        "job_id": _jobs(table["job"]),
        "worker_id": _one_of(np.maximum(table["worker"], 0), _hexes(table.workers), ~known),
        "worker_pid": _of_workers(table, [views.pid(worker) or 0 for worker in table.workers.ids], ~known),
        "node_id": _one_of(np.maximum(table["worker"], 0), _nodes(views, table.workers), ~known),
        "shape": _coded(table["shape"], texts),
        "argument_count": table["arguments"].copy(),
        "argument_bytes": table["argument_bytes"].copy(),
        "result_bytes": table["result_bytes"].copy(),
        "items": table["items"].copy(),
        "retries_max": table["retries_max"].copy(),
        "ended_at": times.pop("ended_at"),
        **{name: _known(values) for name, values in times.items()},
        "error": _coded(table["error"], texts, table["error"] == 0),
        "labels": _coded(table["labels"], texts, table["labels"] == 0),
    }
    for name in ("submitted_at", "ready_at", "dispatched_at", "started_at"):
        columns[name] = table[name].copy()
    for name in _DURATIONS:
        columns[name] = pa.array(table[name].astype(np.float64), mask=~ran)
    return _arranged("tasks", columns)


def _attempts(views: Views) -> pa.Table:
    """Attempts that ended in a worker, then those that only began, then those of which only their owner knows."""
    store, texts = views.store, views.store.texts
    parts = {name: joined(store.select(name), name) for name in ("task_ended", "task_started", "task_retried")}
    keys = {name: _attempt_keys(views.task_table, part) for name, part in parts.items()}
    started = parts["task_started"].take(~_among(keys["task_started"], keys["task_ended"]))
    begun = np.concatenate([keys["task_ended"], keys["task_started"]])
    failed = parts["task_retried"].take(~_among(keys["task_retried"], begun))
    mine = _attempt_keys(views.task_table, parts["task_ended"], started, failed)
    # What its owner says of an attempt that was tried again: why.
    order = np.argsort(keys["task_retried"], kind="stable")
    at = np.searchsorted(keys["task_retried"][order], mine)
    at = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(mine), np.int64)
    retried = keys["task_retried"][at] == mine if len(order) else np.zeros(len(mine), np.bool_)

    def all_of(name: str, filled: int = 0, of_failed: str = "") -> Array:
        ended = parts["task_ended"]
        last = failed[of_failed] if of_failed else np.full(len(failed), filled, ended[name].dtype)
        return np.concatenate([ended[name], started[name], last])

    outcome = np.concatenate([parts["task_ended"]["outcome"], np.full(len(started) + len(failed), OPEN, np.uint8)])
    ended_at = np.concatenate([parts["task_ended"]["time_ns"], np.zeros(len(started) + len(failed), np.uint64)])
    errors = np.zeros(len(mine), np.int32)
    if retried.any():
        again = parts["task_retried"]
        outcome = np.where(retried & (outcome == OPEN), again["outcome"][at], outcome)
        ended_at = np.where(retried & (ended_at == 0), again["time_ns"][at], ended_at)
        errors = np.where(retried, again["error"][at], 0)
    process, index = all_of("process", of_failed="worker"), HashIndex()
    where = index.rows(process)
    rows = views.task_table.index.rows(all_of("task", of_failed="task"), create=False)
    names = np.where(rows >= 0, views.task_table["name"][np.maximum(rows, 0)], 0) if len(views.task_table) else rows
    columns: dict[str, Any] = {
        "task_id": _id(all_of("task", of_failed="task")),
        "attempt": all_of("attempt", of_failed="attempt"),
        "name": _coded(names, texts),
        "actor_id": _id(np.concatenate([parts["task_ended"]["actor"], started["actor"], np.zeros(len(failed), "V16")])),
        "worker_id": _id(process),
        "node_id": _one_of(where, _nodes(views, index)),
        "lease": all_of("lease"),
        "outcome": _one_of(outcome, _OUTCOMES, outcome == OPEN),
        "error": _coded(errors, texts, errors == 0),
        "ended_at": ended_at,
    }
    for name in ("dispatched_at", "arrived_at", "started_at"):
        columns[name] = all_of(name)
    unknown = np.arange(len(mine)) >= len(parts["task_ended"])
    for name in (*_DURATIONS, "result_bytes"):
        values = np.zeros(len(mine), np.int64 if name == "result_bytes" else np.float64)
        values[~unknown] = parts["task_ended"][name]
        columns[name] = pa.array(values, mask=unknown)
    return _arranged("attempts", columns)


def _among(few: Array, many: Array) -> Array:
    """Which of a few numbers are among many, without sorting the many."""
    different, back = np.unique(few, return_inverse=True)
    found = np.zeros(len(different) + 1, np.bool_)
    at = np.searchsorted(different, many)
    inside = at < len(different)
    inside[inside] = different[at[inside]] == many[inside]
    found[at[inside]] = True
    among: Array = found[back.ravel()]
    return among


def _attempt_keys(table: TaskTable, *parts: Columns) -> Array:
    """One number for each attempt of a task."""
    rows = [table.index.rows(part["task"], create=False) << 16 | part["attempt"].astype(np.int64) for part in parts]
    found: Array = np.concatenate(rows)
    return found


def _objects(views: Views) -> pa.Table:
    table, texts = views.object_table, views.store.texts
    kind = (table["id"].view("V1").reshape(-1, ids.OBJECT_ID_BYTES)[:, 8:9].copy().view("u1").ravel()
            if len(table) else np.empty(0, np.uint8))  # fmt: skip
    producers = views.producers(np.arange(len(table)))
    columns: dict[str, Any] = {
        "object_id": _id(table["id"]),
        "task_id": _id(_words(table["id"], 4)),
        "owner_id": _id(_words(table["id"], 2)),
        "creator_id": _id(table["creator"]),
        "state": _one_of(table.states(), OBJECT_STATES),
        "kind": _one_of((kind == ids.SEQUENCE_PUT).astype(np.uint8), ["result", "put"]),
        "producer": _coded(producers, texts, producers == 0),
        "call_site": _coded(table["call_site"], texts, table["call_site"] == 0),
        "object_bytes": table["bytes"].copy(),
        "inline": table["inline"].astype(np.bool_),
        "node_id": _id(table["node"]),
        "pins": table["pins"].copy(),
        "reads": table["reads"].copy(),
        "transfers": table["transfers"].copy(),
        "error": _coded(table["error"], texts, table["error"] == 0),
    }
    for name in ("put", "created", "sealed", "spilled", "restored", "freed", "lost"):
        columns[f"{name}_at"] = table[f"{name}_at"].copy()
    return _arranged("objects", columns)


def _arranged(name: str, columns: dict[str, Any]) -> pa.Table:
    order = [column.name for column in BY_NAME[name].columns]
    return pa.table([pa.array(columns[each]) for each in order], names=order)


def _id(values: Array) -> pa.Array:
    size = values.dtype.itemsize
    data = np.ascontiguousarray(values).tobytes()  # a copy: the table itself goes on growing
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(values), [None, pa.py_buffer(data)])


def _words(identifiers: Array, count: int) -> Array:
    """The first ``count`` words of four bytes of each id."""
    words = np.ascontiguousarray(identifiers).view("V4").reshape(len(identifiers), identifiers.dtype.itemsize // 4)
    found: Array = np.ascontiguousarray(words[:, :count]).view(f"V{4 * count}").ravel()
    return found


def _coded(codes: Array, texts: Texts, absent: Array | None = None) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32), mask=absent), pa.array(texts.texts, pa.string())
    )


def _one_of(numbers: Array, names: Any, absent: Array | None = None) -> pa.Array:
    """Numbers of names as text; what has no name is unknown."""
    unknown = numbers >= len(names)
    absent = unknown if absent is None else unknown | absent
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32), mask=absent), pa.array(names, pa.string()))


def _jobs(numbers: Array) -> pa.Array:
    different, back = np.unique(numbers, return_inverse=True)
    return _one_of(back.ravel(), [f"{number:08x}" for number in different.tolist()])


def _known(values: Array) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _of_workers(table: TaskTable, values: list[int], absent: Array) -> pa.Array:
    return pa.array(np.array(values or [0])[np.maximum(table["worker"], 0)], mask=absent)


def _hexes(index: HashIndex) -> list[str]:
    return [identifier.hex() for identifier in index.ids]


def _nodes(views: Views, index: HashIndex) -> list[str | None]:
    found = (node_of(views, process) for process in index.ids)
    return [node.hex() if any(node) else None for node in found]


# --- rows ----------------------------------------------------------------------------------------------------


def _listed(name: str, rows: Any) -> pa.Table:
    """Rows of a view as a table: a column takes the value of its name, a time that of ``<name>_ns``."""
    columns, rows = BY_NAME[name].columns, list(rows)
    arrays = []
    for column in columns:
        key = f"{column.name}_ns" if column.kind == "time" else column.name
        values = [row.get(key, row.get(column.name)) for row in rows]
        if column.kind == "json":
            values = [value if isinstance(value, str | None) else json.dumps(value) for value in values]
        elif column.kind in ("text", "id"):
            values = [None if value in (None, "") else str(value) for value in values]
        arrays.append(pa.array(values, _ARROW[column.kind]))
    return pa.table(arrays, names=[column.name for column in columns])


def _worker(views: Views, row: dict[str, Any]) -> dict[str, Any]:
    node = node_of(views, bytes.fromhex(row["worker_id"]))
    return {**row, "node_id": node.hex() if any(node) else None}


def _group(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "bundle_count": len(row["bundle_amounts"]), "bundles": row["resources"]}


def _ring(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "process_id": row["process"], "recorded": row["last_sequence"]}
