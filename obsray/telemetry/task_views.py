"""Views of tasks: pages, one task in full, and sums by function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from obsray import ids
from obsray.causes import gist
from obsray.telemetry import explain
from obsray.telemetry.columns import Array, Columns
from obsray.telemetry.events import Outcome, TaskType
from obsray.telemetry.gpu_views import GpuViews
from obsray.telemetry.queue_time import queued
from obsray.telemetry.store import Running, Store
from obsray.telemetry.table import Column, Filter, query, same_id
from obsray.telemetry.tables import NS, Row, parse_id
from obsray.telemetry.task_memory import task_memory
from obsray.telemetry.tasks import (
    BLOCKED,
    FAILED,
    FINISHED,
    OPEN,
    QUEUED,
    RUNNING,
    STATES,
    WAITING_ARGUMENTS,
)

_TYPES = {
    TaskType.TASK: "NORMAL_TASK",
    TaskType.ACTOR_CREATION: "ACTOR_CREATION_TASK",
    TaskType.ACTOR_CALL: "ACTOR_TASK",
    TaskType.DRIVER: "DRIVER_TASK",
}
_OUTCOMES = [outcome.name.lower() for outcome in Outcome]
#: Columns of the table that rows are made of as they are.
_ROW_NUMBERS = (
    "name", "shape", "error", "type", "state", "job", "worker", "ended_attempt", "owner_outcome", "worker_outcome",
    "submitted_at", "started_at", "result_bytes", "labels",
)  # fmt: skip
_MEASURES = (
    "fetch_seconds", "deserialize_seconds", "run_seconds", "cpu_seconds", "blocked_seconds", "store_seconds",
)  # fmt: skip


class TaskViews(GpuViews):
    """What can be asked about tasks."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._functions: tuple[int, list[Row]] = (-1, [])
        self._earlier: tuple[int, dict[str, list[Row]]] = (-1, {})

    def tasks(
        self,
        filters: Sequence[Filter] = (),
        sort: str = "-submitted_at_ns",
        limit: int = 50,
        offset: int = 0,
        refresh: bool = True,
    ) -> dict[str, Any]:
        """A page of tasks: ``{"rows": [...], "total": n}``."""
        if refresh:
            self.refresh()
        now = self.now_ns()
        columns = self.task_columns(now)
        rows, total = query(columns, len(self.task_table), self.store.texts, filters, sort, limit, offset)
        return {"rows": self.task_rows(rows, now), "total": total}

    def task_columns(self, now: int) -> dict[str, Callable[[], Column]]:
        """What tasks can be filtered and sorted by."""
        table = self.task_table

        def number(name: str, positive: bool = False) -> Callable[[], Column]:
            return lambda: Column("number", table[name], None, table[name] <= 0 if positive else None)

        def span(of: Callable[[Array, int], Array]) -> Callable[[], Column]:
            def make() -> Column:
                values = of(np.arange(len(table)), now)
                return Column("number", values, None, np.isnan(values))

            return make

        workers = [worker.hex() for worker in table.workers.ids] or [""]
        pids = np.array([self.pid(worker) for worker in table.workers.ids] or [0])
        columns: dict[str, Callable[[], Column]] = {
            "task_id": lambda: Column("id", table["id"]),
            "parent_task_id": lambda: Column("id", table["parent"]),
            "actor_id": lambda: Column("id", table["actor"]),
            "trace_id": lambda: Column("id", table["trace"]),
            "name": lambda: Column("text", table["name"]),
            "shape": lambda: Column("text", table["shape"]),
            "error": lambda: Column("text", table["error"]),
            "labels": lambda: Column("text", table["labels"]),
            "type": lambda: Column("enum", table["type"], [*_TYPES.values()]),
            "state": lambda: Column("enum", table["state"], STATES),
            "outcome": self._outcome_column,
            "job_id": lambda: Column("number", table["job"]),
            "attempt": lambda: Column("number", table.attempt(np.arange(len(table)))),
            "worker_id": lambda: Column("enum", np.maximum(table["worker"], 0), workers, table["worker"] < 0),
            "worker_pid": lambda: Column("number", pids[np.maximum(table["worker"], 0)], None, table["worker"] < 0),
            "submitted_at_ns": number("submitted_at", True),
            "started_at_ns": number("started_at", True),
            "ended_at_ns": self._end_column,
            "result_bytes": number("result_bytes"),
            "wait_arguments_seconds": span(self._waited),
            "queue_seconds": span(self._queued),
            "dispatch_seconds": span(self._dispatched),
            "total_seconds": span(self._total),
        }
        for name in _MEASURES:
            columns[name] = partial(self._measure_column, name)
        return columns

    def _measure_column(self, name: str) -> Column:
        return Column("number", self.task_table[name], None, self.task_table["ended_attempt"] < 0)

    def _end_column(self) -> Column:
        table = self.task_table
        return Column("number", self._ended_at(np.arange(len(table))), None, table["state"] < FINISHED)

    def _outcome_column(self) -> Column:
        table = self.task_table
        outcome = np.where(table["owner_outcome"] != OPEN, table["owner_outcome"], table["worker_outcome"])
        absent = (outcome == OPEN) | (table["state"] < FINISHED)
        return Column("enum", np.where(outcome < len(_OUTCOMES), outcome, 0), _OUTCOMES, absent)

    def _ended_at(self, rows: Array) -> Array:
        """When tasks ended: what their worker says of the last attempt, else what their owner says."""
        table = self.task_table
        ended, newest = table["ended_at"][rows], table["ended_attempt"][rows] >= table["finished_attempt"][rows]
        return np.where((ended > 0) & newest, ended, table["finished_at"][rows])

    def _waited(self, rows: Array, now: int) -> Array:
        """Seconds tasks waited for arguments; NaN for those that had all."""
        table = self.task_table
        submitted, unready = table["submitted_at"][rows], table["unready"][rows]
        return np.where((submitted > 0) & (unready > 0), _seconds(submitted, self._ready_at(rows, now)), np.nan)

    def _ready_at(self, rows: Array, now: int) -> Array:
        """When the arguments were there: the submission, a later moment, or now for those that still wait."""
        table = self.task_table
        submitted = table["submitted_at"][rows]
        waits = np.flatnonzero(table["unready"][rows] > 0)
        if len(waits):
            ready = table["ready_at"][rows[waits]]
            still = table["state"][rows[waits]] == WAITING_ARGUMENTS
            submitted = submitted.copy()
            # Over before they came.
            over = (table["state"][rows[waits]] >= FINISHED) & (table["dispatched_at"][rows[waits]] == 0)
            until = np.where(still, now, np.where(over, table["finished_at"][rows[waits]], 0))
            submitted[waits] = np.where(ready > 0, ready, np.maximum(until, submitted[waits]))
        return submitted

    def _queued(self, rows: Array, now: int) -> Array:
        """Seconds from readiness (of a retry: from the failure) to dispatch; NaN if that is not known or not yet."""
        table = self.task_table
        state = table["state"][rows]
        since = np.maximum(self._ready_at(rows, now), table["retried_at"][rows])
        until = table["dispatched_at"][rows]
        until = np.where((until == 0) & (state == QUEUED), now, until)
        never = (until == 0) & (state >= FINISHED) & (table["started_at"][rows] == 0)
        until = np.where(never, table["finished_at"][rows], until)
        known = (since > 0) & (until > 0) & (state != WAITING_ARGUMENTS)
        return np.where(known, _seconds(since, until), np.nan)

    def _dispatched(self, rows: Array, now: int) -> Array:
        """Seconds from dispatch to the start; NaN before that."""
        table = self.task_table
        since, until = table["dispatched_at"][rows], table["started_at"][rows]
        until = np.where(until > 0, until, np.where(table["state"][rows] < FINISHED, now, table["finished_at"][rows]))
        return np.where((since > 0) & (until > 0), _seconds(since, until), np.nan)

    def _total(self, rows: Array, now: int) -> Array:
        """Seconds from submission to the end, or to now."""
        table = self.task_table
        since = table["submitted_at"][rows]
        until = np.where(table["state"][rows] < FINISHED, now, self._ended_at(rows))
        return np.where((since > 0) & (until > 0), _seconds(since, until), np.nan)

    def task_times(self, rows: Array, now: int) -> dict[str, Array]:
        """When tasks ended (nanoseconds, 0 if they have not), and how long each stretch of their lives took (NaN: it
        was not, or is not known)."""
        return {
            "ended_at": np.where(self.task_table["state"][rows] >= FINISHED, self._ended_at(rows), 0),
            "wait_arguments_seconds": self._waited(rows, now),
            "queue_seconds": self._queued(rows, now),
            "dispatch_seconds": self._dispatched(rows, now),
            "total_seconds": self._total(rows, now),
        }

    def task_rows(self, rows: Array, now: int) -> list[Row]:
        """The rows of a listing, in the order of ``rows`` (numbers of the task table)."""
        table, texts = self.task_table, self.store.texts.texts
        get = {name: table[name][rows].tolist() for name in _ROW_NUMBERS}
        ids_of = {name: _hexes(table[name][rows]) for name in ("id", "parent", "actor", "trace")}
        times = {name: _reals(values) for name, values in self.task_times(rows, now).items()}
        measures = {name: table[name][rows].astype(np.float64).tolist() for name in _MEASURES}
        attempts = table.attempt(rows).tolist()
        workers = [worker.hex() for worker in table.workers.ids]
        pids = [self.pid(worker) for worker in table.workers.ids]
        has_gpu = bool(self.gpu_table.kernels_total)
        found = []
        for at, row in enumerate(rows.tolist()):
            worker, state = get["worker"][at], get["state"][at]
            ended, over = get["ended_attempt"][at] >= 0, state >= FINISHED
            outcome = get["owner_outcome"][at]
            outcome = get["worker_outcome"][at] if outcome == OPEN else outcome
            shape = texts[get["shape"][at]]
            values: Row = {
                "task_id": ids_of["id"][at],
                "name": texts[get["name"][at]],
                "type": _TYPES.get(get["type"][at], "NORMAL_TASK"),
                "state": STATES[state],
                "attempt": attempts[at],
                "parent_task_id": ids_of["parent"][at],
                "actor_id": ids_of["actor"][at],
                "job_id": f"{get['job'][at]:08x}",
                "worker_id": workers[worker] if worker >= 0 else None,
                "worker_pid": pids[worker] if worker >= 0 else None,
                "shape": shape,
                "placement_group_id": self._group_of(table["id"][row].tobytes(), shape),
                "submitted_at_ns": get["submitted_at"][at] or None,
                "started_at_ns": get["started_at"][at] or None,
                "ended_at_ns": (int(times["ended_at"][at] or 0) or None) if over else None,
                "wait_arguments_seconds": times["wait_arguments_seconds"][at],
                "queue_seconds": times["queue_seconds"][at],
                "dispatch_seconds": times["dispatch_seconds"][at],
                "total_seconds": times["total_seconds"][at],
                "result_bytes": get["result_bytes"][at],
                "outcome": _OUTCOMES[outcome] if over and outcome < len(_OUTCOMES) else None,
                "error": texts[get["error"][at]] or None,
                "trace_id": ids_of["trace"][at],
                "labels": texts[get["labels"][at]] or None,
            }
            gpu = self.gpu_table.of(table["id"][row].tobytes()) if has_gpu else None
            values["gpu_seconds"] = gpu["kernel_seconds"] if gpu is not None else None
            values["gpu_kernels"] = int(gpu["kernels"]) if gpu is not None else None
            for name in _MEASURES:
                values[name] = measures[name][at] if ended else None
            if not ended and state in (RUNNING, BLOCKED) and values["started_at_ns"]:
                values["run_seconds"] = max(0, now - values["started_at_ns"]) / NS
            found.append(values)
        return found

    def _task_row(self, row: int, now: int) -> Row:
        return self.task_rows(np.array([row]), now)[0]

    def task(self, task_id: str, refresh: bool = True) -> Row | None:
        """Everything about one task; None if nobody ever mentioned it."""
        if refresh:
            self.refresh()
        identifier = parse_id(task_id, ids.TASK_ID_BYTES)
        row = self.task_table.index.row(identifier) if identifier else -1
        if row < 0 or identifier is None:
            return None
        now = self.now_ns()
        values = self._task_row(row, now)
        raw = {**self._raw(row), "row": row, "id": identifier}
        reason = explain.pending_reason(raw, now, self._pending_facts(row, identifier))
        values["pending_reason"] = reason
        values["time_split"] = self.time_split(raw, now, reason or "")
        values["attempts"] = self._attempts(row, identifier, values)
        values["children"] = self._children(identifier)
        values["arguments"] = self._arguments(identifier)
        values["results"] = self._results(identifier)
        values["environment"] = self.environment_table.of_shape(values["shape"])
        values["memory"] = task_memory(self.store, identifier)
        values["gpu"] = self.task_gpu(identifier, values["started_at_ns"] or 0, values["ended_at_ns"] or now)
        return values

    def _group_of(self, task: bytes, shape: str) -> str | None:
        """The placement group that a task's shape belongs to, once the scheduler has spoken of it."""
        decision = self.lease_table.latest.get((ids.owner_of(task), shape))
        group = decision["group"] if decision is not None else ids.NIL_TASK
        return group.hex() if any(group) else None

    def _raw(self, row: int) -> Row:
        table = self.task_table
        raw = {name: table[name][row].item() for name in (
            "submitted_at", "ready_at", "retried_at", "dispatched_at", "started_at", "ended_at", "finished_at",
            "blocked_at", "state", "unready", "argument_bytes", "result_bytes", *_MEASURES,
        )}  # fmt: skip
        worker = int(table["worker"][row])
        raw["worker_label"] = self.process_label(table.workers.ids[worker]) if worker >= 0 else "a worker"
        raw["name"] = self.store.texts[int(table["name"][row])]
        raw["attempt"] = int(table.attempt(np.array([row]))[0])
        return raw

    def _pending_facts(self, row: int, task: bytes) -> explain.PendingFacts:
        shape = self.store.texts[int(self.task_table["shape"][row])]
        decision = self.lease_table.latest.get((ids.owner_of(task), shape))

        def missing() -> list[str]:
            waits = self.store.about("task_arguments_waiting", "task", task)
            return [f"{self._object_text(record['object'])}" for record in waits]

        return explain.PendingFacts(decision, missing, lambda: self._holders(decision))

    def _object_text(self, identifier: bytes) -> str:
        row = self.task_table.index.row(ids.task_of(identifier))
        if row < 0:
            return f"object {ids.short(identifier)}"
        name = self.store.texts[int(self.task_table["name"][row])]
        state = STATES[int(self.task_table["state"][row])]
        return f"object {ids.short(identifier)}, the result of {name} ({state})"

    def _holders(self, decision: Row | None) -> str:
        """Who holds the workers, as the end of a sentence: what runs there now, else what they were leased for."""
        if decision is None or decision["outcome"] in ("granted", "infeasible"):
            return ""
        running = {running.process: self._running_name(running) for running in self.running}
        held: Counter[str] = Counter()
        oldest: dict[str, int] = {}
        for row in self.lease_table.held.values():
            name = f"{self._holder(row['worker'], running)} ({row['shape']})"
            held[name] += 1
            oldest[name] = min(oldest.get(name, row["time_ns"]), row["time_ns"])
        now = self.now_ns()
        said = [
            f"{name} on {count} worker{'s' * (count > 1)} for {explain.duration((now - oldest[name]) / NS)}"
            for name, count in held.most_common(3)
        ]
        return f"; held by {', '.join(said)}" if said else ""

    def _running_name(self, running: Running) -> str:
        """The name its caller gave it; until that is known, what its worker calls it."""
        row = self.task_table.index.row(running.task)
        return (self.store.texts[int(self.task_table["name"][row])] if row >= 0 else "") or running.name

    def _holder(self, worker: bytes, running: dict[bytes, str]) -> str:
        actor = (self.process_table.rows.get(worker) or {}).get("actor_id")
        if actor:
            return f"actor {(self.actor_table.rows.get(bytes.fromhex(actor)) or {}).get('class_name') or actor[:8]}"
        return running.get(worker) or "idle"

    def time_split(self, raw: Row, now: int, reason: str) -> list[Row]:
        """Where the time of a task went, in order. ``reason``: why one that is queued still is."""
        found: list[Row] = []
        for piece in explain.time_split(raw, now, reason):
            over = piece["what"] == "queued" and raw["state"] != QUEUED
            found += queued(self, raw, piece) if over else [piece]
        return found

    def _attempts(self, row: int, task: bytes, values: Row) -> list[Row]:
        table = self.task_table
        if values["attempt"] == 0:
            return [] if table["started_at"][row] == 0 and values["ended_at_ns"] is None else [self._attempt(values)]
        found: dict[int, Row] = {}
        for event in ("task_started", "task_retried", "task_ended", "task_finished"):
            for record in self.store.about(event, "task", task):
                attempt = found.setdefault(
                    record["attempt"],
                    {
                        "attempt": record["attempt"], "worker_id": None, "worker_pid": None, "started_at_ns": None,
                        "ended_at_ns": None, "run_seconds": None, "outcome": None, "error": None,
                    },
                )  # fmt: skip
                worker = record["worker"] if event == "task_retried" else record["process"]
                if event != "task_finished":
                    attempt["worker_id"], attempt["worker_pid"] = worker.hex(), self.pid(worker)
                if "started_at" in record:
                    attempt["started_at_ns"] = record["started_at"]
                if event != "task_started":
                    attempt["ended_at_ns"] = attempt["ended_at_ns"] or record["time_ns"]
                    attempt["outcome"] = record["outcome"]
                    attempt["error"] = record.get("error") or attempt["error"]
                    attempt["run_seconds"] = record.get("run_seconds", attempt["run_seconds"])
        for attempt in found.values():
            if attempt["run_seconds"] is None and attempt["started_at_ns"] and attempt["ended_at_ns"]:
                attempt["run_seconds"] = max(0, attempt["ended_at_ns"] - attempt["started_at_ns"]) / NS
        last = found.setdefault(values["attempt"], self._attempt(values))
        if last["worker_id"] is None:
            found[values["attempt"]] = self._attempt(values)
        return [found[number] for number in sorted(found)]

    def earlier_attempts(self) -> dict[str, list[Row]]:
        """The attempts before the newest one of every task that was tried again, by its id; read in one pass."""
        if self._earlier[0] == self.version:
            return self._earlier[1]
        found: dict[str, dict[int, Row]] = {}
        table = self.task_table
        for record in (row for part in self.store.select("task_retried") for row in part.rows(self.store.texts)):
            found.setdefault(record["task"].hex(), {})[record["attempt"]] = {
                "attempt": record["attempt"], "worker_id": record["worker"].hex(),
                "worker_pid": self.pid(record["worker"]), "started_at_ns": None, "ended_at_ns": record["time_ns"],
                "run_seconds": None, "outcome": record["outcome"], "error": record["error"] or None,
            }  # fmt: skip
        if found:
            again = np.zeros(len(table) + 1, np.bool_)
            again[[table.index.row(bytes.fromhex(task)) for task in found]] = True

            def of_earlier(columns: Columns) -> Array:
                rows = table.index.rows(columns["task"], create=False)
                newest = table.attempt(rows)
                kept: Array = again[rows] & (rows >= 0) & (columns["attempt"].astype(np.int64) < newest)
                return kept

            for event in ("task_started", "task_ended"):
                for part in self.store.select(event, of_earlier):
                    for record in part.rows(self.store.texts):
                        attempt = found[record["task"].hex()].get(record["attempt"])
                        if attempt is not None:
                            attempt["started_at_ns"] = record["started_at"]
                            attempt["run_seconds"] = record.get("run_seconds", attempt["run_seconds"])
        for attempts in found.values():
            for attempt in attempts.values():
                if attempt["run_seconds"] is None and attempt["started_at_ns"]:
                    attempt["run_seconds"] = max(0, attempt["ended_at_ns"] - attempt["started_at_ns"]) / NS
        listed = {task: [attempts[number] for number in sorted(attempts)] for task, attempts in found.items()}
        self._earlier = (self.version, listed)
        return listed

    def _attempt(self, values: Row) -> Row:
        names = (
            "attempt", "worker_id", "worker_pid", "started_at_ns", "ended_at_ns", "run_seconds", "outcome", "error",
        )  # fmt: skip
        return {name: values[name] for name in names}

    def _children(self, task: bytes) -> dict[str, Any]:
        rows = np.flatnonzero(same_id(self.task_table["parent"], task))
        states = Counter(STATES[state] for state in self.task_table["state"][rows])
        names = Counter(self.store.texts[code] for code in self.task_table["name"][rows].tolist())
        return {
            "total": len(rows),
            "by_state": dict(states),
            "by_name": dict(names.most_common(20)),
            "task_ids": [self.task_table["id"][row].tobytes().hex() for row in rows[:20]],
        }

    def _arguments(self, task: bytes) -> list[Row]:
        """Arguments that had to be waited for, with who produces them."""
        found = []
        for record in self.store.about("task_arguments_waiting", "task", task):
            producer = ids.task_of(record["object"])
            row = self.task_table.index.row(producer)
            found.append(
                {
                    "object_id": record["object"].hex(),
                    "producer_task_id": producer.hex(),
                    "producer_name": self.store.texts[int(self.task_table["name"][row])] if row >= 0 else None,
                    "producer_state": STATES[int(self.task_table["state"][row])] if row >= 0 else None,
                    "waited_from_ns": record["time_ns"],
                }
            )
        return found

    def _results(self, task: bytes) -> list[Row]:
        row = self.object_table.index.row(ids.object_id(task))
        return [self._object_row(row, self.object_table.states(), self.now_ns())] if row >= 0 else []

    def functions(self, refresh: bool = True) -> list[Row]:
        """Per function name: tasks by state, percentiles of run and queue seconds, CPU seconds, bytes."""
        if refresh:
            self.refresh()
        if self._functions[0] == self.version:
            return self._functions[1]
        table, count = self.task_table, len(self.store.texts)
        names, states = table["name"].astype(np.int64), table["state"].astype(np.int64)
        by_state = np.bincount(names * len(STATES) + states, minlength=count * len(STATES)).reshape(-1, len(STATES))
        cpu = np.bincount(names, weights=table["cpu_seconds"], minlength=count)
        result_bytes = np.bincount(names, weights=table["result_bytes"], minlength=count)
        ended = np.flatnonzero(table["ended_attempt"] >= 0)
        order = ended[np.argsort(names[ended], kind="stable")]
        edges = np.searchsorted(names[order], np.arange(count + 1))
        queue = self._queued(order, self.now_ns())
        found, gpu = [], self.gpu_seconds()
        for code in np.flatnonzero(by_state.sum(axis=1)).tolist():
            part = slice(edges[code], edges[code + 1])
            row: Row = {
                "name": self.store.texts[code],
                "total": int(by_state[code].sum()),
                "by_state": {STATES[s]: int(n) for s, n in enumerate(by_state[code]) if n},
                "cpu_seconds": float(cpu[code]),
                "gpu_seconds": gpu.get(self.store.texts[code], 0.0),
                "result_bytes": int(result_bytes[code]),
                "failed": int(by_state[code][FAILED]),
            }
            row.update(_percentiles("run_seconds", table["run_seconds"][order[part]]))
            row.update(_percentiles("queue_seconds", queue[part]))
            found.append(row)
        found.sort(key=lambda row: -row["total"])
        self._functions = (self.version, found)
        return found

    def _recent_errors(self) -> list[Row]:
        table = self.task_table
        failed = np.flatnonzero(table["state"] == FAILED)
        if not len(failed):
            return []
        newest = failed[np.argsort(self._ended_at(failed), kind="stable")[::-1][:5]]
        now = self.now_ns()
        found = []
        for row in newest:
            values = self._task_row(int(row), now)
            found.append(
                {
                    "task_id": values["task_id"], "name": values["name"], "ended_at_ns": values["ended_at_ns"],
                    "outcome": values["outcome"], "error": gist(values["error"] or ""),
                }
            )  # fmt: skip
        return found


def _seconds(since: Array, until: Array) -> Array:
    found: Array = np.maximum(until - since, 0) / NS
    return found


def _reals(values: Array) -> list[Any]:
    """Numbers of a column; None for those that are none."""
    found: list[Any] = values.tolist()
    return [None if value != value else value for value in found]


def _hexes(values: Array) -> list[str | None]:
    """Ids as hex; None where there is none."""
    size = values.dtype.itemsize
    data = np.ascontiguousarray(values).tobytes()
    nothing = bytes(size)
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return [None if part == nothing else part.hex() for part in parts]


def _percentiles(name: str, values: Array) -> Row:
    values = values[~np.isnan(values)] if len(values) else values
    if not len(values):
        return {f"{name}_p50": None, f"{name}_p95": None, f"{name}_p99": None}
    found = np.percentile(values, (50, 95, 99))
    return {f"{name}_p{p}": float(value) for p, value in zip((50, 95, 99), found, strict=True)}
