"""Lists of what there may be millions of, tasks and objects: filtered, sorted and counted by array operations.

Each key of a row has a column here, so no row is made that is not on the page.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np

from obsray import ids
from obsray.telemetry.columns import Array
from obsray.telemetry.database.rows import node_of
from obsray.telemetry.events import Outcome
from obsray.telemetry.objects import FREED, LOST
from obsray.telemetry.table import Column, Filter, match, matching, page
from obsray.telemetry.tasks import BLOCKED, FINISHED, OPEN, RUNNING
from obsray.telemetry.views import Views
from obsray.util.state.listing import Asked, Rows, before, cut, holds
from obsray.util.state.rows import (
    ADDRESS,
    ERROR_TYPES,
    TASK_STATES,
    ObjectState,
    TaskState,
    earlier_rows,
    object_row,
    resources_of,
    task_row,
)

Columns = dict[str, Callable[[], Column]]
_MS = 1e6
#: Operators of the state API -> those of columns.
_OPERATORS = {"=": "is", "!=": "is not"}


# --- tasks -------------------------------------------------------------------------------------------------------


def task_columns(views: Views, now: int) -> Columns:
    """A column for each key of ``TaskState``."""
    table, known = views.task_table, views.task_columns(now)
    nodes = [node_of(views, worker).hex() for worker in table.workers.ids] or [""]
    errors = [ERROR_TYPES.get(outcome.name.lower(), "") for outcome in Outcome]

    def error_types() -> Column:
        outcome = np.where(table["owner_outcome"] != OPEN, table["owner_outcome"], table["worker_outcome"])
        number = np.where(outcome < len(errors), outcome, 0)
        nothing = np.array([not error for error in errors])[number] | (table["state"] < FINISHED)
        nothing |= outcome >= len(errors)
        return Column("enum", number, errors, nothing)

    def at(name: str) -> Callable[[], Column]:
        def make() -> Column:
            column = known[name]()
            return column._replace(values=column.values / _MS)

        return make

    def coded(words: Callable[[str], str]) -> Callable[[], Column]:
        def make() -> Column:
            texts = [words(text) for text in views.store.texts.texts]
            codes = table["shape"]
            return Column("enum", codes, texts, np.array([not text for text in texts])[codes])

        return make

    return {
        **{name: _known_id(known[name]) for name in ("task_id", "parent_task_id", "actor_id", "trace_id")},
        **{name: known[name] for name in ("name", "type", "worker_id", "worker_pid", "result_bytes")},
        "state": lambda: Column("enum", table["state"], TASK_STATES),
        "queue_seconds": known["queue_seconds"],
        "run_seconds": lambda: _run_seconds(views, now),
        "attempt_number": known["attempt"],
        "func_or_class_name": known["name"],
        "job_id": lambda: _jobs(table["job"]),
        "node_id": lambda: Column("enum", np.maximum(table["worker"], 0), nodes, table["worker"] < 0),
        "error_type": error_types,
        "error_message": lambda: Column("text", table["error"], None, table["error"] == 0),
        "creation_time_ms": at("submitted_at_ns"),
        "start_time_ms": at("started_at_ns"),
        "end_time_ms": at("ended_at_ns"),
        "required_resources": coded(lambda shape: str(resources_of(shape))),
        "placement_group_id": lambda: _groups(views),
        "labels": lambda: Column("text", table["labels"], None, table["labels"] == 0),
        "gpu_seconds": lambda: _gpu(views, "kernel_seconds"),
        "gpu_kernels": lambda: _gpu(views, "kernels"),
    }


def _rows_of(views: Views, rows: Array, now: int) -> list[TaskState]:
    """The newest attempts of tasks."""
    return [task_row(row, node) for row, node in zip(views.task_rows(rows, now), _nodes(views, rows), strict=True)]


def mask_of_tasks(views: Views, asked: Asked) -> Array:
    """Which tasks match, by their newest attempt."""
    columns = task_columns(views, views.now_ns())
    return _mask(columns, views, asked, "creation_time_ms", len(views.task_table))


def list_tasks(views: Views, asked: Asked) -> Rows[TaskState]:
    """Attempts of tasks: the newest of each out of the columns, earlier ones, which are few, as rows."""
    now = views.now_ns()
    columns, mask = task_columns(views, now), mask_of_tasks(views, asked)
    earlier = [row for row in _earlier(views, now) if holds(row, asked.filters) and _inside(row, asked, now)]
    total = int(np.count_nonzero(mask)) + len(earlier)
    rest, skipped, mask = total, 0, _from_cursor(columns, views, asked, mask)
    if asked.cursor is not None:
        skipped = asked.cursor.given
        if asked.cursor.value is not None:
            earlier = [row for row in earlier if not before(row[asked.key], asked.cursor.value, asked.descending)]
        rest = int(np.count_nonzero(mask)) + len(earlier) - skipped
    wanted = skipped + asked.limit
    rows = _first(columns, views, asked, mask, wanted)
    newest = _rows_of(views, rows, now)
    if earlier:
        known = sorted((row for row in earlier), key=_order(asked))
        merged = list(heapq.merge(newest, known, key=_order(asked)))[skipped:wanted]
    else:
        merged = newest[skipped:wanted]
    return cut(merged, asked, total, rest, total - rest)


def _earlier(views: Views, now: int) -> list[TaskState]:
    """A row for each attempt but the newest of every task that was tried again."""
    attempts = views.earlier_attempts()
    numbers = np.array([views.task_table.index.row(bytes.fromhex(task)) for task in attempts], np.int64)
    tasks = {row["task_id"]: row for row in views.task_rows(numbers, now)} if len(numbers) else {}
    return [
        row
        for task, others in attempts.items()
        for row in earlier_rows(tasks[task], others, lambda worker: hex_node(views, worker))
    ]


def hex_node(views: Views, worker: str | None) -> str | None:
    """The node of a process, both in hex; None if nobody knows."""
    if not worker:
        return None
    node = node_of(views, bytes.fromhex(worker))
    return node.hex() if any(node) else None


def _nodes(views: Views, rows: Array) -> list[str | None]:
    table = views.task_table
    nodes = [hex_node(views, worker.hex()) for worker in table.workers.ids]
    return [nodes[worker] if worker >= 0 else None for worker in table["worker"][rows].tolist()]


def _inside(row: TaskState, asked: Asked, now: int) -> bool:
    since, until = asked.range_ns(now)
    began = row.began_ns() or 0
    return (since is None or began >= since) and (until is None or began < until)


def _order(asked: Asked) -> Callable[[Any], Any]:
    """A key for ``sorted`` that puts rows without a value last, whichever way they are sorted."""

    def key(row: Any) -> _Place:
        return _Place(row[asked.key] if asked.key else None, asked.descending)

    return key


class _Place:
    """Where a value stands in a list."""

    __slots__ = ("descending", "value")

    def __init__(self, value: Any, descending: bool) -> None:
        self.value, self.descending = value, descending

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __lt__(self, other: _Place) -> bool:
        if self.value is None or other.value is None:
            return self.value is not None
        return before(self.value, other.value, self.descending)


def _known_id(make: Callable[[], Column]) -> Callable[[], Column]:
    def made() -> Column:
        column = make()
        words = np.ascontiguousarray(column.values).view("<u8").reshape(len(column.values), -1)
        return column._replace(absent=(words == 0).all(axis=1) if len(words) else np.zeros(0, np.bool_))

    return made


def _run_seconds(views: Views, now: int) -> Column:
    """How long attempts ran; of those that run, how long they have."""
    table = views.task_table
    ended, started = table["ended_attempt"] >= 0, table["started_at"]
    runs = ~ended & np.isin(table["state"], (RUNNING, BLOCKED)) & (started > 0)
    values = np.where(runs, np.maximum(now - started, 0) / 1e9, table["run_seconds"])
    return Column("number", values, None, ~(ended | runs))


def _jobs(numbers: Array) -> Column:
    different, back = np.unique(numbers, return_inverse=True)
    return Column("enum", back.ravel(), [f"{number:08x}" for number in different.tolist()] or [""])


def _groups(views: Views) -> Column:
    """The placement group of each task: what the newest decision for its owner and shape says."""
    table = views.task_table
    owners = np.ascontiguousarray(table["id"]).view("<u8").reshape(-1, 2)[:, 0]
    keys = np.empty(len(table), [("owner", "<u8"), ("shape", "<i4")])
    keys["owner"], keys["shape"] = owners, table["shape"]
    different, back = np.unique(keys, return_inverse=True)
    names = []
    for owner, shape in different.tolist():
        decision = views.lease_table.latest.get((owner.to_bytes(8, "little"), views.store.texts[shape]))
        names.append(decision["group"].hex() if decision is not None and any(decision["group"]) else "")
    codes = back.ravel()
    return Column("enum", codes, names or [""], np.array([not name for name in names] or [True])[codes])


def _gpu(views: Views, name: str) -> Column:
    table, gpu = views.task_table, views.gpu_table
    rows = gpu.index.rows(table["id"], create=False)
    if not len(gpu.tasks[name]):
        return Column("number", np.zeros(len(table)), None, np.ones(len(table), np.bool_))
    return Column("number", gpu.tasks[name][np.maximum(rows, 0)], None, rows < 0)


# --- objects -----------------------------------------------------------------------------------------------------


def object_columns(views: Views, now: int, owners: dict[str, tuple[str, int]]) -> Columns:
    """A column for each key of ``ObjectState``; ``owners`` has kind and pid of each process."""
    table, known = views.object_table, views.object_columns(now)

    def of_owner(make: Callable[[str], Any], kind: str) -> Callable[[], Column]:
        def made() -> Column:
            words = np.ascontiguousarray(known["owner"]().values).view("<u8").ravel()
            different, back = np.unique(words, return_inverse=True)
            values = [make(int(word).to_bytes(8, "little").hex()) for word in different]
            absent = np.array([value is None for value in values] or [True])[back.ravel()]
            if kind == "number":
                return Column(kind, np.array([value or 0 for value in values] or [0])[back.ravel()], None, absent)
            return Column(kind, back.ravel(), [str(value) for value in values] or [""], absent)

        return made

    def born() -> Column:
        values = np.where(table["put_at"] > 0, table["put_at"], table["created_at"])
        return Column("number", values / _MS, None, values == 0)

    def texts(name: str) -> Callable[[], Column]:
        def made() -> Column:
            column = known[name]()
            return column._replace(absent=column.values == 0)

        return made

    return {
        "object_id": known["object_id"],
        "object_size": known["bytes"],
        "state": known["state"],
        "task_status": lambda: _task_status(views),
        "call_site": texts("call_site"),
        "type": of_owner(lambda owner: owners[owner][0] if owner in owners else None, "enum"),
        "pid": of_owner(lambda owner: owners[owner][1] if owner in owners else None, "number"),
        "ip": lambda: Column("enum", np.zeros(len(table), np.int64), [ADDRESS]),
        "owner_id": known["owner"],
        "producer": texts("producer"),
        "node_ids": _known_id(known["node"]),
        "pins": known["pins"],
        "age_seconds": known["age_seconds"],
        "creation_time_ms": born,
    }


def mask_of_objects(views: Views, asked: Asked) -> Array:
    """Which objects match; those that are gone only if their state is asked for."""
    columns = object_columns(views, views.now_ns(), process_kinds(views))
    mask = _mask(columns, views, asked, "creation_time_ms", len(views.object_table))
    if not any(key == "state" for key, _, _ in asked.filters):
        states = views.object_table.states()
        mask &= (states != FREED) & (states != LOST)
    return mask


def list_objects(views: Views, asked: Asked) -> Rows[ObjectState]:
    """Objects that match, those that are gone only if their state is asked for."""
    now, owners = views.now_ns(), process_kinds(views)
    columns, mask = object_columns(views, now, owners), mask_of_objects(views, asked)
    total = int(np.count_nonzero(mask))
    mask = _from_cursor(columns, views, asked, mask)
    skipped = asked.cursor.given if asked.cursor is not None else 0
    rest = int(np.count_nonzero(mask)) - skipped
    rows = _first(columns, views, asked, mask, skipped + asked.limit)[skipped:]
    found = [object_row(row, task_state(views, row), owners.get(row["owner"])) for row in views.object_rows(rows, now)]
    return cut(found, asked, total, rest, total - rest)


def process_kinds(views: Views) -> dict[str, tuple[str, int]]:
    """Kind and pid of each process."""
    return {row["worker_id"]: (row["kind"].upper(), row["pid"]) for row in views.workers(refresh=False)}


def task_state(views: Views, row: dict[str, Any]) -> str | None:
    """The state of the task that made an object, None for what was put."""
    found = views.task_table.index.row(bytes.fromhex(row["task_id"])) if row["kind"] == "result" else -1
    return TASK_STATES[int(views.task_table["state"][found])] if found >= 0 else None


def _task_status(views: Views) -> Column:
    table, tasks = views.object_table, views.task_table
    words = np.ascontiguousarray(table["id"]).view("V4").reshape(-1, 5)
    rows = tasks.index.rows(np.ascontiguousarray(words[:, :4]).view(f"V{ids.TASK_ID_BYTES}").ravel(), create=False)
    states = tasks["state"][np.maximum(rows, 0)] if len(tasks) else np.zeros(len(table), np.uint8)
    return Column("enum", states, TASK_STATES, rows < 0)


# --- pages -------------------------------------------------------------------------------------------------------


def _mask(columns: Columns, views: Views, asked: Asked, began: str, count: int) -> Array:
    """Which rows match filters and time range."""
    filters: list[Filter] = []
    for key, operator, value in asked.filters:
        if operator == "in":
            filters.append((key, "in", [str(each) for each in _values(value)]))
        else:
            filters.append((key, _OPERATORS.get(operator, operator), value))
    in_lists = [each for each in filters if each[1] == "in"]
    mask = matching(columns, views.store.texts, [each for each in filters if each[1] != "in"])
    found: Array = np.ones(count, np.bool_) if mask is None else mask
    for key, _, values in in_lists:
        column = columns[key]()
        any_of = np.zeros(count, np.bool_)
        for value in values:
            any_of |= match(column, key, "is", value, views.store.texts)
        found &= any_of
    since, until = asked.range_ns(views.now_ns())
    if since is not None:
        found &= match(columns[began](), began, ">=", since / _MS, views.store.texts)
    if until is not None:
        found &= match(columns[began](), began, "<", until / _MS, views.store.texts)
    return found


def _values(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else list(value)


def _from_cursor(columns: Columns, views: Views, asked: Asked, mask: Array) -> Array:
    """Of the rows of a mask those from the value of the cursor on."""
    if asked.cursor is None or asked.cursor.value is None or not asked.key:
        return mask
    column = columns[asked.key]()
    operator = "<=" if asked.descending else ">="
    if column.kind == "id":
        raise ValueError(f"cursor: lists sorted by {asked.key} cannot be gone on with; sort by a time")
    reached = match(column, asked.key, operator, asked.cursor.value, views.store.texts)
    if column.absent is not None:
        reached = reached | column.absent
    found: Array = mask & reached
    return found


def _first(columns: Columns, views: Views, asked: Asked, mask: Array, wanted: int) -> Array:
    rows = np.flatnonzero(mask)
    if asked.sort:
        rows = page(columns[asked.key](), asked.descending, rows, wanted, views.store.texts)
    return rows[:wanted]
