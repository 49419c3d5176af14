"""Answers to questions about a session: what the dashboard, the command line and the state API show.

``Views(store)`` folds the records once and keeps tables; each method refreshes the store, folds what is new, and
returns plain dicts and lists: ids as hex, ``*_ns`` integers since the epoch, ``*_seconds`` floats, None for what is
not known or not yet. Filters are ``(column, operator, value)``; a bad one raises ``QueryError``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from obsray import ids
from obsray.telemetry import explain, ledger, story
from obsray.telemetry.columns import Array, Batch
from obsray.telemetry.events import Outcome, TaskType
from obsray.telemetry.leases import LeaseTable
from obsray.telemetry.objects import SPILLED as OBJECT_SPILLED
from obsray.telemetry.objects import STATES as OBJECT_STATES
from obsray.telemetry.objects import ObjectTable
from obsray.telemetry.processes import ActorTable, ClusterTable, ProcessTable
from obsray.telemetry.samples import SampleTable
from obsray.telemetry.store import Running, Store
from obsray.telemetry.table import Column, Filter, QueryError, query, same_id
from obsray.telemetry.tasks import BLOCKED, FAILED, FINISHED, OPEN, QUEUED, RUNNING, STATES, WAITING_ARGUMENTS, TaskTable

__all__ = ["Filter", "QueryError", "Views"]

Row = dict[str, Any]
_NS = 1_000_000_000

_TYPES = {
    TaskType.TASK: "NORMAL_TASK",
    TaskType.ACTOR_CREATION: "ACTOR_CREATION_TASK",
    TaskType.ACTOR_CALL: "ACTOR_TASK",
    TaskType.DRIVER: "DRIVER_TASK",
}
_OUTCOMES = [outcome.name.lower() for outcome in Outcome]
_MEASURES = (
    "fetch_seconds", "deserialize_seconds", "run_seconds", "cpu_seconds", "blocked_seconds", "store_seconds",
)  # fmt: skip


class Views:
    """All views of one session."""

    def __init__(self, store: Store) -> None:
        self.store = store
        texts = store.texts
        self.task_table = TaskTable(texts)
        self.object_table = ObjectTable()
        self.process_table = ProcessTable(texts)
        self.actor_table = ActorTable(texts)
        self.cluster_table = ClusterTable(texts)
        self.lease_table = LeaseTable(texts)
        self.samples = SampleTable(texts)
        self._version = 0
        self._running: list[Running] = []
        self._functions: tuple[int, list[Row]] = (-1, [])
        store.add_fold(self._fold)

    def _fold(self, batch: Batch) -> None:
        for table in (
            self.task_table, self.object_table, self.process_table, self.actor_table, self.cluster_table,
            self.lease_table, self.samples,
        ):  # fmt: skip
            table.update(batch)

    def refresh(self) -> int:
        """Fold what is new; returns how many records that were."""
        count = self.store.refresh()
        self._running = self.store.running()
        self.task_table.derive(self._running)
        if count:
            self._version += 1
        return count

    def now_ns(self) -> int:
        """The time that open durations run to: now, or the last event of a session that is over."""
        return time.time_ns() if self.store.is_live() else self.samples.last_at_ns

    # --- tasks --------------------------------------------------------------------------------------------

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
        columns = self._task_columns(now)
        rows, total = query(columns, len(self.task_table), self.store.texts, filters, sort, limit, offset)
        return {"rows": [self._task_row(int(row), now) for row in rows], "total": total}

    def _task_columns(self, now: int) -> dict[str, Callable[[], Column]]:
        table = self.task_table

        def number(name: str, positive: bool = False) -> Callable[[], Column]:
            return lambda: Column("number", table[name], None, table[name] <= 0 if positive else None)

        def span(which: int) -> Callable[[], Column]:
            def make() -> Column:
                values = self._spans(np.arange(len(table)), now)[which]
                return Column("number", np.nan_to_num(values), None, np.isnan(values))

            return make

        workers = [worker.hex() for worker in table.workers.ids] or [""]
        pids = np.array([self._pid(worker) for worker in table.workers.ids] or [0])
        ended = lambda: table["ended_attempt"] < 0  # noqa: E731
        columns: dict[str, Callable[[], Column]] = {
            "task_id": lambda: Column("id", table["id"]),
            "parent_task_id": lambda: Column("id", table["parent"]),
            "actor_id": lambda: Column("id", table["actor"]),
            "trace_id": lambda: Column("id", table["trace"]),
            "name": lambda: Column("text", table["name"]),
            "shape": lambda: Column("text", table["shape"]),
            "error": lambda: Column("text", table["error"]),
            "type": lambda: Column("enum", table["type"], [*_TYPES.values()]),
            "state": lambda: Column("enum", table["state"], STATES),
            "outcome": self._outcome_column,
            "job_id": lambda: Column("number", table["job"]),
            "attempt": lambda: Column("number", table.attempt(np.arange(len(table)))),
            "worker_id": lambda: Column("enum", np.maximum(table["worker"], 0), workers, table["worker"] < 0),
            "worker_pid": lambda: Column(
                "number", pids[np.maximum(table["worker"], 0)], None, table["worker"] < 0
            ),
            "submitted_at_ns": number("submitted_at", True),
            "started_at_ns": number("started_at", True),
            "ended_at_ns": lambda: Column("number", self._ended_at(np.arange(len(table))), None, table["state"] < FINISHED),
            "result_bytes": number("result_bytes"),
            "wait_arguments_seconds": span(0),
            "queue_seconds": span(1),
            "dispatch_seconds": span(2),
            "total_seconds": span(3),
        }
        for name in _MEASURES:
            columns[name] = lambda name=name: Column("number", table[name], None, ended())  # type: ignore[misc]
        return columns

    def _outcome_column(self) -> Column:
        table = self.task_table
        outcome = np.where(table["owner_outcome"] != OPEN, table["owner_outcome"], table["worker_outcome"])
        absent = (outcome == OPEN) | (table["state"] < FINISHED)
        return Column("enum", np.where(outcome < len(_OUTCOMES), outcome, 0), _OUTCOMES, absent)

    def _ended_at(self, rows: Array) -> Array:
        table = self.task_table
        return np.where(table["ended_at"][rows] > 0, table["ended_at"][rows], table["finished_at"][rows])

    def _spans(self, rows: Array, now: int) -> tuple[Array, Array, Array, Array]:
        """Seconds waiting for arguments, queued, in dispatch, in all; NaN where there is no such time."""
        table = self.task_table
        get = {name: table[name][rows] for name in (
            "submitted_at", "ready_at", "retried_at", "recalled_at", "dispatched_at", "started_at", "unready", "state",
        )}  # fmt: skip
        submitted, state = get["submitted_at"], get["state"]
        known = submitted > 0
        open_ = state < FINISHED
        ready = np.where(
            (get["unready"] > 0), np.where(get["ready_at"] > 0, get["ready_at"], np.where(state == WAITING_ARGUMENTS, now, submitted)), submitted
        )  # fmt: skip
        nan = np.float64(np.nan)
        arguments = np.where(known & (get["unready"] > 0), (ready - submitted) / _NS, nan)
        queued_from = np.maximum(np.maximum(ready, get["retried_at"]), submitted)
        dispatched = np.where(get["dispatched_at"] > 0, get["dispatched_at"], np.where(state == QUEUED, now, 0))
        queue = np.where(known & (dispatched > 0) & (state != WAITING_ARGUMENTS), (dispatched - queued_from) / _NS, nan)
        started = np.where(get["started_at"] > 0, get["started_at"], np.where(open_, now, 0))
        dispatch = np.where((get["dispatched_at"] > 0) & (started > 0), (started - get["dispatched_at"]) / _NS, nan)
        end = np.where(open_, now, self._ended_at(rows))
        total = np.where(known & (end > 0), (end - submitted) / _NS, nan)
        return np.maximum(arguments, 0), np.maximum(queue, 0), np.maximum(dispatch, 0), np.maximum(total, 0)

    def _task_row(self, row: int, now: int) -> Row:
        table, texts = self.task_table, self.store.texts
        at = np.array([row])
        arguments, queue, dispatch, total = (_real(span[0]) for span in self._spans(at, now))
        worker_row = int(table["worker"][row])
        worker = table.workers.ids[worker_row] if worker_row >= 0 else None
        state = int(table["state"][row])
        ended = int(table["ended_attempt"][row]) >= 0
        outcome = int(table["owner_outcome"][row])
        if outcome == OPEN:
            outcome = int(table["worker_outcome"][row])
        task = table["id"][row].tobytes()
        values: Row = {
            "task_id": task.hex(),
            "name": texts[int(table["name"][row])],
            "type": _TYPES.get(int(table["type"][row]), "NORMAL_TASK"),  # type: ignore[call-overload]
            "state": STATES[state],
            "attempt": int(table.attempt(at)[0]),
            "parent_task_id": _hex(table["parent"][row]),
            "actor_id": _hex(table["actor"][row]),
            "job_id": f"{int(table['job'][row]):08x}",
            "worker_id": worker.hex() if worker else None,
            "worker_pid": self._pid(worker) if worker else None,
            "shape": texts[int(table["shape"][row])],
            "submitted_at_ns": _time(table["submitted_at"][row]),
            "started_at_ns": _time(table["started_at"][row]),
            "ended_at_ns": _time(self._ended_at(at)[0]) if state >= FINISHED else None,
            "wait_arguments_seconds": arguments,
            "queue_seconds": queue,
            "dispatch_seconds": dispatch,
            "total_seconds": total,
            "result_bytes": int(table["result_bytes"][row]),
            "outcome": _OUTCOMES[outcome] if state >= FINISHED and outcome < len(_OUTCOMES) else None,
            "error": texts[int(table["error"][row])] or None,
            "trace_id": _hex(table["trace"][row]),
        }
        for name in _MEASURES:
            values[name] = float(table[name][row]) if ended else None
        if not ended and state in (RUNNING, BLOCKED) and values["started_at_ns"]:
            values["run_seconds"] = max(0, now - values["started_at_ns"]) / _NS
        return values

    def task(self, task_id: str, refresh: bool = True) -> Row | None:
        """Everything about one task; None if nobody ever mentioned it."""
        if refresh:
            self.refresh()
        identifier = _identifier(task_id, ids.TASK_ID_BYTES)
        row = self.task_table.index.row(identifier) if identifier else -1
        if row < 0 or identifier is None:
            return None
        now = self.now_ns()
        values = self._task_row(row, now)
        raw = self._raw(row)
        reason = explain.pending_reason(raw, now, self._pending_facts(row, identifier))
        queued_why = reason or self._why_queued(row, values)
        values["pending_reason"] = reason
        values["time_split"] = explain.time_split(raw, now, queued_why)
        values["attempts"] = self._attempts(row, identifier, values)
        values["children"] = self._children(identifier)
        values["arguments"] = self._arguments(identifier)
        values["results"] = self._results(identifier)
        return values

    def _raw(self, row: int) -> Row:
        table = self.task_table
        raw = {name: table[name][row].item() for name in (
            "submitted_at", "ready_at", "retried_at", "dispatched_at", "started_at", "ended_at", "blocked_at", "state",
            "unready", "argument_bytes", "result_bytes", *_MEASURES,
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
        """Who holds the workers, as the end of a sentence."""
        if decision is None or decision["outcome"] == "granted":
            return ""
        held = Counter(row["shape"] for row in self.lease_table.held.values())
        if not held:
            return ""
        oldest: dict[str, int] = {}
        for row in self.lease_table.held.values():
            oldest[row["shape"]] = min(oldest.get(row["shape"], row["time_ns"]), row["time_ns"])
        now = self.now_ns()
        said = [
            f"{shape} on {count} worker{'s' * (count > 1)} for {explain.duration((now - oldest[shape]) / _NS)}"
            for shape, count in held.most_common(3)
        ]
        return f"; held by {', '.join(said)}"

    def _why_queued(self, row: int, values: Row) -> str:
        shape, owner = values["shape"], ids.owner_of(bytes.fromhex(values["task_id"]))
        start, end = int(self.task_table["submitted_at"][row]), int(self.task_table["dispatched_at"][row])
        said = [
            explain.decision_text(decision)
            for decision in self.lease_table.decisions
            if decision["shape"] == shape and decision["owner"] == owner and start <= decision["time_ns"] <= end
        ]
        if said:
            return "; then ".join(dict.fromkeys(said))
        return "waited in its owner's queue until a leased worker had room"

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
                    attempt["worker_id"], attempt["worker_pid"] = worker.hex(), self._pid(worker)
                if "started_at" in record:
                    attempt["started_at_ns"] = record["started_at"]
                if event != "task_started":
                    attempt["ended_at_ns"] = attempt["ended_at_ns"] or record["time_ns"]
                    attempt["outcome"] = record["outcome"]
                    attempt["error"] = record.get("error") or attempt["error"]
                    attempt["run_seconds"] = record.get("run_seconds", attempt["run_seconds"])
        last = found.setdefault(values["attempt"], self._attempt(values))
        if last["worker_id"] is None:
            found[values["attempt"]] = self._attempt(values)
        return [found[number] for number in sorted(found)]

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

    # --- objects ------------------------------------------------------------------------------------------

    def objects(
        self,
        filters: Sequence[Filter] = (),
        sort: str = "-bytes",
        limit: int = 50,
        offset: int = 0,
        refresh: bool = True,
    ) -> dict[str, Any]:
        """A page of objects that were put or are in the store: ``{"rows": [...], "total": n}``."""
        if refresh:
            self.refresh()
        table, now = self.object_table, self.now_ns()
        states = table.states()
        columns: dict[str, Callable[[], Column]] = {
            "object_id": lambda: Column("id", table["id"]),
            "task_id": lambda: Column("id", table["put_by"]),
            "owner": lambda: Column("id", np.ascontiguousarray(table["id"]).view("V4").reshape(-1, 5)[:, :2].copy().view("V8").ravel()),
            "producer": lambda: Column("text", self._producers(np.arange(len(table)))),
            "call_site": lambda: Column("text", table["call_site"]),
            "state": lambda: Column("enum", states, OBJECT_STATES),
            "bytes": lambda: Column("number", table["bytes"]),
            "pins": lambda: Column("number", table["pins"]),
            "age_seconds": lambda: Column("number", self._ages(np.arange(len(table)), now)),
        }  # fmt: skip
        for name in ("created", "sealed", "spilled", "freed", "put", "lost", "restored"):
            columns[f"{name}_at_ns"] = lambda name=name: Column(  # type: ignore[misc]
                "number", table[f"{name}_at"], None, table[f"{name}_at"] == 0
            )
        rows, total = query(columns, len(table), self.store.texts, filters, sort, limit, offset)
        return {"rows": [self._object_row(int(row), states, now) for row in rows], "total": total}

    def _producers(self, rows: Array) -> Array:
        """The name (code) of the task that produced each object; 0 for put objects."""
        raw = np.ascontiguousarray(self.object_table["id"][rows]).view("V4").reshape(-1, 5)
        tasks = self.task_table.index.rows(np.ascontiguousarray(raw[:, :4]).view("V16").ravel(), create=False)
        return np.where(tasks >= 0, self.task_table["name"][np.maximum(tasks, 0)], 0) if len(self.task_table) else tasks * 0

    def _ages(self, rows: Array, now: int) -> Array:
        table = self.object_table
        born = np.where(table["created_at"][rows] > 0, table["created_at"][rows], table["put_at"][rows])
        end = np.where(table["freed_at"][rows] > 0, table["freed_at"][rows], now)
        return np.maximum(end - born, 0) / _NS

    def _object_row(self, row: int, states: Array, now: int) -> Row:
        table, texts = self.object_table, self.store.texts
        identifier = table["id"][row].tobytes()
        creator = table["creator"][row].tobytes()
        at = np.array([row])
        values: Row = {
            "object_id": identifier.hex(),
            "owner": ids.owner_of(identifier).hex(),
            "owner_label": self.process_label(ids.owner_of(identifier)),
            "task_id": ids.task_of(identifier).hex(),
            "kind": "put" if ids.kind_of(identifier) == ids.SEQUENCE_PUT else "result",
            "producer": texts[int(self._producers(at)[0])] or ("put" if table["put_at"][row] else None),
            "creator": creator.hex() if any(creator) else None,
            "call_site": texts[int(table["call_site"][row])] or None,
            "bytes": int(table["bytes"][row]),
            "state": OBJECT_STATES[int(states[row])],
            "pins": int(table["pins"][row]),
            "age_seconds": float(self._ages(at, now)[0]),
            "error": texts[int(table["error"][row])] or None,
        }
        for name in ("put", "created", "sealed", "spilled", "restored", "freed", "lost", "pinned"):
            values[f"{name}_at_ns"] = _time(table[f"{name}_at"][row])
        return values

    # --- processes, actors, nodes, jobs -------------------------------------------------------------------

    def workers(self, refresh: bool = True) -> list[Row]:
        """Every process of the session with its state, what it runs, and how it ended."""
        if refresh:
            self.refresh()
        table = self.task_table
        done = np.bincount(
            table["worker"][(table["ended_attempt"] >= 0) & (table["worker"] >= 0)], minlength=table.workers.count
        )
        now: dict[bytes, Running] = {running.process: running for running in self._running}
        leased = {row["worker"] for row in self.lease_table.held.values()}
        found = []
        for process, row in self.process_table.rows.items():
            values = {name: value for name, value in row.items() if not name.startswith("_")}
            running = now.get(process)
            done_row = table.workers.row(process)
            values["label"] = self.process_label(process)
            values["current_task_id"] = running.task.hex() if running else None
            values["current_task"] = running.name if running else None
            values["tasks_done"] = int(done[done_row]) if done_row >= 0 else 0
            values["state"] = self._worker_state(process, row, running, process in leased)
            found.append(values)
        found.sort(key=lambda values: (values["kind"], values["registered_at_ns"] or 0, values["worker_id"]))
        return found

    def _worker_state(self, process: bytes, row: Row, running: Running | None, leased: bool) -> str:
        if row["died_at_ns"] or row["closed_at_ns"] or not self._alive(process):
            return "DEAD"
        if row["kind"] == "worker" and row["registered_at_ns"] is None:
            return "STARTING"
        if running is not None:
            task = self.task_table.index.row(running.task)
            return "BLOCKED" if task >= 0 and self.task_table["state"][task] == BLOCKED else "BUSY"
        if row["actor_id"]:
            return "ACTOR"
        if row["kind"] != "worker":
            return "ALIVE"
        return "LEASED" if leased else "IDLE"

    def _alive(self, process: bytes) -> bool:
        reader = self.store.ring(process)
        return reader is None or not reader.state.pid or self.store.rings.alive(process)

    def actors(self, refresh: bool = True) -> list[Row]:
        """Every actor, newest first, with how many calls it had."""
        if refresh:
            self.refresh()
        calls = Counter(value.tobytes() for value in self.task_table["actor"]) if self.actor_table.rows else Counter()
        found = []
        for actor, row in self.actor_table.rows.items():
            values = {name: value for name, value in row.items() if not name.startswith("_")}
            values["pid"] = self._pid(bytes.fromhex(row["worker_id"])) if row["worker_id"] else None
            values["calls"] = calls.get(actor, 0)
            found.append(values)
        found.sort(key=lambda values: -(values["created_at_ns"] or 0))
        return found

    def nodes(self, refresh: bool = True) -> list[Row]:
        """Every node with its resources and its newest samples."""
        if refresh:
            self.refresh()
        store = self.samples.latest.get("store_sample", {})
        sample = self.samples.latest.get("node_sample", {})
        live = self.store.is_live()
        found = []
        for row in self.cluster_table.nodes.values():
            values = {**row, "resources": self.samples.resources, "store": _public(store), "sample": _public(sample)}
            if not live and values["state"] == "ALIVE":
                values["state"] = "DEAD"
            found.append(values)
        return found

    def jobs(self, refresh: bool = True) -> list[Row]:
        """Every driver that joined, newest first."""
        if refresh:
            self.refresh()
        counts = np.bincount(self.task_table["job"], minlength=1) if len(self.task_table) else np.zeros(1)
        found = []
        for job, row in self.cluster_table.jobs.items():
            values = {**row, "tasks": int(counts[job]) if job < len(counts) else 0}
            driver = bytes.fromhex(row["driver_id"]) if row["driver_id"] else None
            if values["state"] == "RUNNING" and driver and not self._alive(driver):
                values["state"] = "STOPPED"
            found.append(values)
        return sorted(found, key=lambda values: -(values["started_at_ns"] or 0))

    # --- scheduling ---------------------------------------------------------------------------------------

    def leases(self, limit: int = 100, refresh: bool = True) -> dict[str, Any]:
        """``decisions`` (newest first, with their candidates), ``demand`` per owner and shape, ``held`` leases."""
        if refresh:
            self.refresh()
        table = self.lease_table
        newest = [table.decisions[-1 - index] for index in range(min(limit, len(table.decisions)))]
        decisions = []
        for decision in newest:
            values = _public(decision)
            values["text"] = explain.decision_text(decision)
            values["candidates"] = [_public(row) for row in table.candidates_of(decision)]
            decisions.append(values)
        return {
            "decisions": decisions,
            "demand": [self._demand(key) for key in table.demand],
            "held": [
                {**_public(row), "held_seconds": max(0, self.now_ns() - row["time_ns"]) / _NS}
                for row in table.held.values()
            ],
            "decided": table.decided,
            "returned": table.returned,
        }

    def _demand(self, key: tuple[bytes, str]) -> Row:
        demand, decision = self.lease_table.demand[key], self.lease_table.latest.get(key)
        return {
            "owner": key[0].hex(),
            "owner_label": self.process_label(key[0]),
            "shape": key[1],
            "wanted": demand["wanted"],
            "backlog": demand["backlog_tasks"],
            "at_ns": demand["time_ns"],
            "outcome": decision["outcome"] if decision else None,
            "reason": decision["reason"] if decision else None,
            "text": explain.decision_text(decision) if decision else "not answered yet",
        }

    def functions(self, refresh: bool = True) -> list[Row]:
        """Per function name: tasks by state, percentiles of run and queue seconds, CPU seconds, bytes."""
        if refresh:
            self.refresh()
        if self._functions[0] == self._version:
            return self._functions[1]
        table, count = self.task_table, len(self.store.texts)
        names, states = table["name"].astype(np.int64), table["state"].astype(np.int64)
        by_state = np.bincount(names * len(STATES) + states, minlength=count * len(STATES)).reshape(-1, len(STATES))
        cpu = np.bincount(names, weights=table["cpu_seconds"], minlength=count)
        result_bytes = np.bincount(names, weights=table["result_bytes"], minlength=count)
        ended = np.flatnonzero(table["ended_attempt"] >= 0)
        order = ended[np.argsort(names[ended], kind="stable")]
        edges = np.searchsorted(names[order], np.arange(count + 1))
        queue = self._spans(order, self.now_ns())[1] if len(order) else np.empty(0)
        found = []
        for code in np.flatnonzero(by_state.sum(axis=1)).tolist():
            part = slice(edges[code], edges[code + 1])
            row: Row = {
                "name": self.store.texts[code],
                "total": int(by_state[code].sum()),
                "by_state": {STATES[s]: int(n) for s, n in enumerate(by_state[code]) if n},
                "cpu_seconds": float(cpu[code]),
                "result_bytes": int(result_bytes[code]),
                "failed": int(by_state[code][FAILED]),
            }
            row.update(_percentiles("run_seconds", table["run_seconds"][order[part]]))
            row.update(_percentiles("queue_seconds", queue[part]))
            found.append(row)
        found.sort(key=lambda row: -row["total"])
        self._functions = (self._version, found)
        return found

    # --- the whole ----------------------------------------------------------------------------------------

    def overview(self, refresh: bool = True) -> dict[str, Any]:
        """The first page: what runs, how fast, how full, and whether telemetry is complete."""
        if refresh:
            self.refresh()
        facts, now = self.store.session(), self.now_ns()
        started = facts.get("started_at_ns") or self.samples.first_at_ns
        states = np.bincount(self.task_table["state"], minlength=len(STATES))
        store = self.samples.latest.get("store_sample", {})
        collector = self.samples.latest.get("collector_sample", {})
        book = self.ledger(refresh=False)
        second = now // _NS
        submitted, finished = self.samples.submitted, self.samples.finished
        return {
            "session": {**facts, "live": self.store.is_live(), "directory": str(self.store.session_dir)},
            "uptime_seconds": max(0, now - started) / _NS if started else 0.0,
            "now_ns": now,
            "nodes": self.nodes(refresh=False),
            "resources": self.samples.resources,
            "tasks": {name: int(states[number]) for number, name in enumerate(STATES)},
            "tasks_total": len(self.task_table),
            "rates": {
                "submitted_per_second": sum(submitted.series(second, 10)) / 10,
                "finished_per_second": sum(finished.series(second, 10)) / 10,
                "series": {
                    "from_ns": (second - 60) * _NS,
                    "submitted": submitted.series(second, 60),
                    "finished": finished.series(second, 60),
                    "events": self.samples.events.series(second, 60),
                },
            },
            "workers": dict(Counter(
                row["state"] for row in self.workers(refresh=False) if row["kind"] == "worker"
            )),
            "actors": dict(Counter(row["state"] for row in self.actor_table.rows.values())),
            "store": {
                "capacity_bytes": store.get("capacity_bytes", 0),
                "used_bytes": store.get("used_bytes", 0),
                "pinned_bytes": store.get("pinned_bytes", 0),
                "spilled_bytes": store.get("spilled_bytes", 0),
                "objects": store.get("objects", 0),
                "objects_spilled": int(np.count_nonzero(self.object_table.states() == OBJECT_SPILLED)),
            },
            "events_total": self.samples.events_total,
            "events_per_second": sum(self.samples.events.series(second, 10)) / 10,
            "bytes_stored": book["totals"]["bytes_stored"],
            "ledger": {**book["totals"], **book["tasks"]},
            "telemetry_lag_seconds": collector.get("lag_seconds", 0.0),
            "recent_errors": self._recent_errors(),
        }  # fmt: skip

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
                    "outcome": values["outcome"], "error": (values["error"] or "").partition("\n")[0],
                }
            )  # fmt: skip
        return found

    def ledger(self, refresh: bool = True) -> dict[str, Any]:
        """Per ring and in all: recorded, stored, lost; tasks submitted against what became of them."""
        if refresh:
            self.refresh()
        rings = ledger.ring_ledger(self.store.ring_states(), self.store.catalog)
        return {
            "rings": rings,
            "totals": ledger.totals(rings, self.store.catalog),
            "tasks": ledger.task_ledger(self.task_table, self.store.catalog.folded_rows),
        }

    def story(self, id_hex: str, refresh: bool = True) -> list[Row]:
        """What happened to a task, actor, object, worker, node or lease, in order of time."""
        if refresh:
            self.refresh()
        return story.tell(self, id_hex)

    # --- names --------------------------------------------------------------------------------------------

    def process_label(self, process: bytes) -> str:
        """How a process is called: ``worker 3fa2c1d0 (pid 123)``."""
        row = self.process_table.rows.get(process)
        if row is None:
            for node, facts in self.cluster_table.nodes.items():
                if node == process:
                    return f"node {process.hex()[:8]} (pid {facts['pid']})"
        return explain.label(row, process)

    def task_label(self, task: bytes) -> str:
        """How a task is called: ``word_count (3fa2c1d0:42)``."""
        row = self.task_table.index.row(task)
        return explain.task_label(self.store.texts[int(self.task_table["name"][row])] if row >= 0 else "", task)

    def _pid(self, worker: bytes) -> int | None:
        row = self.process_table.rows.get(worker)
        return row["pid"] if row and row["pid"] else None


def _identifier(text: str, size: int) -> bytes | None:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return None
    return value if len(value) == size else None


def _hex(value: Any) -> str | None:
    data = value.tobytes()
    return data.hex() if any(data) else None


def _time(value: Any) -> int | None:
    return int(value) or None


def _real(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _public(record: Row) -> Row:
    """A record with its ids as hex."""
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in record.items()}


def _percentiles(name: str, values: Array) -> Row:
    values = values[~np.isnan(values)] if len(values) else values
    if not len(values):
        return {f"{name}_p50": None, f"{name}_p95": None, f"{name}_p99": None}
    found = np.percentile(values, (50, 95, 99))
    return {f"{name}_p{p}": float(value) for p, value in zip((50, 95, 99), found, strict=True)}
