"""OpenTelemetry spans out of records: what they are called, what is whose parent, what links to what.

The parent of a span says who asked for it (control flow), a link whose result it took (data flow) or which attempt came
before. Spans about a task are made when it is over for its owner; those that one record tells of, from that record.
Nothing is carried for this by the runtime: ids follow from the task (``telemetry/span_ids.py``).
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from obsray import ids
from obsray.telemetry import span_ids
from obsray.telemetry.columns import Array, Batch
from obsray.telemetry.runs import expand
from obsray.telemetry.span_ids import Part
from obsray.telemetry.views import Views

#: Bounds of the specification's defaults; what is beyond is counted.
LINKS_MAX = 128
EVENTS_MAX = 128
_NS = 1_000_000_000
#: A task that waited less than this in its queue gets no decisions as events.
_DECISIONS_FROM_NS = 1_000_000
_CANDIDATES_MAX = 8
_TASKS_AT_ONCE = 4096
#: Kinds of traces of their own.
_WORKER_TRACE, _NODE_TRACE, _ENVIRONMENT_TRACE = 1, 2, 3

Attributes = list[tuple[str, Any]]


class Kind(IntEnum):
    """As in OTLP."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


@dataclass(slots=True)
class Span:
    """One span. Times are nanoseconds since the epoch; ``parent`` 0 is none; ``error`` None is no error."""

    process: bytes
    trace: bytes
    span: int
    parent: int
    name: str
    kind: Kind
    start: int
    end: int
    attributes: Attributes
    events: list[tuple[int, str, Attributes]] = field(default_factory=list)
    links: list[tuple[bytes, int, Attributes]] = field(default_factory=list)
    dropped_links: int = 0
    dropped_events: int = 0
    error: str | None = None


class Spans:
    """Makes spans of one session. ``views`` must have folded what is asked about."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self._arguments: dict[bytes, list[bytes]] = {}
        self._around: dict[bytes, int] = {}
        self._moments: dict[bytes, list[tuple[int, str, Attributes]]] = {}
        self._blocked: dict[bytes, list[tuple[int, bytes]]] = {}

    # --- what is remembered until a task is over ----------------------------------------------------------

    def note(self, batch: Batch) -> None:
        """Remember what spans of later records need. Every record goes here first, also those already exported."""
        for event in ("task_arguments_waiting", "task_arguments_given"):
            if event in batch:
                for row in batch[event].rows(self.views.store.texts):
                    given = [row.get(name) for name in ("object", "object_2", "object_3", "object_4")]
                    known = self._arguments.setdefault(row["task"], [])
                    known += [each for each in given if each is not None and any(each)]
        if "task_called_in_span" in batch:
            columns = batch["task_called_in_span"]
            tasks = (task.tobytes() for task in columns["task"])
            self._around.update(zip(tasks, columns["span"].tolist(), strict=True))
        if "task_item_yielded" in batch:
            for row in batch["task_item_yielded"].rows(self.views.store.texts):
                facts = [("obsray.item", row["item"]), ("obsray.item.bytes", row["item_bytes"])]
                self._moments.setdefault(row["task"], []).append((row["time_ns"], "item", facts))
        if "user_mark" in batch:
            for row in batch["user_mark"].rows(self.views.store.texts):
                self._moments.setdefault(row["task"], []).append(
                    (row["time_ns"], row["name"], _given(row["attributes"]))
                )
        if "task_blocked" in batch:
            for row in batch["task_blocked"].rows(self.views.store.texts):
                self._blocked.setdefault(row["task"], []).append((row["time_ns"], row["object"]))

    def forget(self, batch: Batch) -> None:
        """These records have been exported before."""
        for task in self._finished(batch):
            for known in (self._arguments, self._moments, self._blocked, self._around):
                known.pop(task, None)

    # --- spans of records ---------------------------------------------------------------------------------

    def of(self, batch: Batch) -> Iterator[Span]:
        """The spans that new records complete."""
        finished = list(self._finished(batch))
        if finished:
            rows = self.views.task_table.index.rows(np.frombuffer(b"".join(finished), "V16"), create=False)
            yield from self._of_tasks(rows[rows >= 0])
        for event, make in self.makers.items():
            if event in batch:
                for row in batch[event].rows(self.views.store.texts):
                    found = make(self, row)
                    if found is not None:
                        yield found

    def open(self) -> Iterator[Span]:
        """Spans of what is not over: for a session that has ended, or for a look at one that has not."""
        yield from self._of_tasks(self.views.task_table.open_rows)

    def _finished(self, batch: Batch) -> Iterator[bytes]:
        if "tasks_finished" in batch:
            columns = batch["tasks_finished"]
            data = expand(columns["first_task"], columns["tasks"])[0].tobytes()
            yield from (data[at : at + 16] for at in range(0, len(data), 16))
        if "task_finished" in batch:
            data = np.ascontiguousarray(batch["task_finished"]["task"]).tobytes()
            yield from (data[at : at + 16] for at in range(0, len(data), 16))

    # --- tasks --------------------------------------------------------------------------------------------

    def _of_tasks(self, rows: Array) -> Iterator[Span]:
        for at in range(0, len(rows), _TASKS_AT_ONCE):
            yield from self._of_some_tasks(rows[at : at + _TASKS_AT_ONCE])

    def _of_some_tasks(self, rows: Array) -> Iterator[Span]:
        now = self.views.now_ns()
        table = self.views.task_table
        names = ("ready_at", "retried_at", "dispatched_at", "arrived_at", "started_at", "ended_at", "unready")
        known = {name: table[name][rows].tolist() for name in names}
        attempts = self.views.earlier_attempts() if len(rows) and table.attempt(rows).any() else {}
        decisions = _Decisions(self.views)
        for at, task in enumerate(self.views.task_rows(rows, now)):
            times = {name: values[at] for name, values in known.items()}
            yield from self._of_task(task, times, attempts.get(task["task_id"], []), decisions, now)

    def _of_task(
        self,
        task: dict[str, Any],
        times: dict[str, int],
        earlier: list[dict[str, Any]],
        decisions: _Decisions,
        now: int,
    ) -> Iterator[Span]:
        identifier = bytes.fromhex(task["task_id"])
        owner = ids.owner_of(identifier)
        trace = bytes.fromhex(task["trace_id"] or task["task_id"])
        submitted = task["submitted_at_ns"] or times["dispatched_at"] or task["started_at_ns"] or now
        submit = span_ids.of_task(identifier, 0, Part.SUBMIT)
        parent = self._around.pop(identifier, 0) or self._run_of(task["parent_task_id"])
        common: Attributes = [("obsray.task.id", task["task_id"]), ("code.function.name", task["name"])]
        links, dropped = self._data_links(self._arguments.pop(identifier, []))
        yield Span(
            owner, trace, submit, parent, f"{task['name']} submit", Kind.PRODUCER, submitted, submitted,
            [*common, ("obsray.job.id", task["job_id"]), ("obsray.task.type", task["type"]),
             ("obsray.task.shape", task["shape"])],
        )  # fmt: skip
        first = max(times["ready_at"] if times["unready"] else submitted, submitted)
        until = times["dispatched_at"] or (task["ended_at_ns"] or now)
        queue = Span(
            owner, trace, span_ids.of_task(identifier, 0, Part.QUEUE), submit, f"{task['name']} queue", Kind.INTERNAL,
            submitted, max(until, submitted), [*common, ("obsray.queue.ready_seconds", max(0, until - first) / _NS)],
        )  # fmt: skip
        if queue.end - queue.start >= _DECISIONS_FROM_NS:
            decisions.add_to(queue, owner, task["shape"])
        yield queue
        before: list[tuple[bytes, int, Attributes]] = []
        for attempt in earlier:
            if attempt["attempt"] >= task["attempt"] or not attempt["worker_id"]:
                continue
            run = self._run(identifier, trace, submit, task, attempt, now)
            run.links = [*links, *before]
            run.error = attempt["error"] or attempt["outcome"]
            before = [(trace, run.span, [("obsray.link", "retry of")])]
            yield run
        if task["started_at_ns"]:
            yield from self._newest(identifier, trace, submit, task, times, [*before, *links], dropped, now)

    def _newest(
        self, identifier: bytes, trace: bytes, submit: int, task: dict[str, Any], times: dict[str, int],
        links: list[tuple[bytes, int, Attributes]], dropped: int, now: int,
    ) -> Iterator[Span]:  # fmt: skip
        run = self._run(identifier, trace, submit, task, task, now)
        moments = sorted(self._moments.pop(identifier, []), key=lambda moment: moment[0])
        run.links, run.dropped_links = links[:LINKS_MAX], dropped + max(0, len(links) - LINKS_MAX)
        run.events, run.dropped_events = moments[:EVENTS_MAX], max(0, len(moments) - EVENTS_MAX)
        for name in (
            "fetch_seconds",
            "deserialize_seconds",
            "run_seconds",
            "store_seconds",
            "cpu_seconds",
            "blocked_seconds",
        ):
            if task[name]:
                run.attributes.append((f"obsray.task.{name}", task[name]))
        run.attributes += [("obsray.task.result_bytes", task["result_bytes"]), ("obsray.task.state", task["state"])]
        if task["outcome"] not in (None, "ok"):
            run.error = task["error"] or task["outcome"]
            run.attributes.append(("error.type", task["outcome"]))
        yield run
        phases = (
            (Part.FETCH, "fetch_seconds", "fetch arguments"),
            (Part.DESERIALIZE, "deserialize_seconds", "deserialize"),
        )
        at = run.start
        for part, key, name in phases:
            took = int((task[key] or 0) * _NS)
            if took:
                yield self._phase(run, identifier, task, part, name, at, at + took)
            at += took
        stored = int((task["store_seconds"] or 0) * _NS)
        if stored:
            yield self._phase(run, identifier, task, Part.STORE, "store results", max(run.end - stored, at), run.end)

    def _run(
        self, identifier: bytes, trace: bytes, submit: int, task: dict[str, Any], attempt: dict[str, Any], now: int
    ) -> Span:
        start = attempt["started_at_ns"] or attempt["ended_at_ns"] or now
        attributes: Attributes = [
            ("obsray.task.id", task["task_id"]), ("code.function.name", task["name"]),
            ("obsray.task.attempt", attempt["attempt"]), ("obsray.job.id", task["job_id"]),
            ("obsray.worker.id", attempt["worker_id"] or ""),
        ]  # fmt: skip
        if task["actor_id"]:
            attributes.append(("obsray.actor.id", task["actor_id"]))
        return Span(
            bytes.fromhex(attempt["worker_id"] or task["task_id"][:16]), trace,
            span_ids.of_task(identifier, attempt["attempt"]), submit, task["name"], Kind.CONSUMER, start,
            max(attempt["ended_at_ns"] or now, start), attributes,
        )  # fmt: skip

    def _phase(
        self, run: Span, identifier: bytes, task: dict[str, Any], part: Part, name: str, start: int, end: int
    ) -> Span:
        span = span_ids.of_task(identifier, task["attempt"], part)
        return Span(
            run.process, run.trace, span, run.span, name, Kind.INTERNAL, min(start, run.end), min(end, run.end), []
        )

    def _run_of(self, task_id: str | None) -> int:
        """The run of the task that submitted another: of its newest attempt."""
        if not task_id:
            return 0
        identifier = bytes.fromhex(task_id)
        row = self.views.task_table.index.row(identifier)
        attempt = int(self.views.task_table.attempt(np.array([row]))[0]) if row >= 0 else 0
        return span_ids.of_task(identifier, attempt)

    def trace_of(self, task: bytes) -> bytes:
        row = self.views.task_table.index.row(task)
        found = self.views.task_table["trace"][row].tobytes() if row >= 0 else b""
        return found if any(found) else task

    def _data_links(self, objects: Iterable[bytes]) -> tuple[list[tuple[bytes, int, Attributes]], int]:
        """Links to those who made the arguments of a task."""
        found: list[tuple[bytes, int, Attributes]] = []
        given = list(objects)
        for identifier in given[:LINKS_MAX]:
            made_by = ids.task_of(identifier)
            if ids.kind_of(identifier) == ids.SEQUENCE_PUT:
                row = self.views.object_table.index.row(identifier)
                made_by = self.views.object_table["put_by"][row].tobytes() if row >= 0 else b""
                if not any(made_by):
                    continue  # put by a driver, which has no span
            run = self._run_of(made_by.hex())
            found.append(
                (self.trace_of(made_by), run, [("obsray.link", "data"), ("obsray.object.id", identifier.hex())])
            )
        return found, max(0, len(given) - LINKS_MAX)

    # --- single records -----------------------------------------------------------------------------------

    def _waited(self, row: dict[str, Any]) -> Span:
        task = row["task"]
        start = row["time_ns"] - int(row["blocked_seconds"] * _NS)
        began = [each for at, each in sorted(self._blocked.get(task, ())) if at <= row["time_ns"]]
        links, _ = self._data_links([each for each in began[-1:] if any(each)])
        return self._child(row, task, f"obsray.{row['waiting_in']}", Kind.INTERNAL, start, [], links)

    def _user_span(self, row: dict[str, Any]) -> Span:
        start = row["time_ns"] - int(row["span_seconds"] * _NS)
        given = _given(row["attributes"])
        made = self._child(row, row["task"], row["name"], Kind.INTERNAL, start, [])
        made.span, made.trace = row["span"], row["trace"] if any(row["trace"]) else made.trace
        made.parent = row["parent_span"] or (made.parent if any(row["task"]) else 0)
        told = {key: value for key, value in given if key.startswith("otel.")}
        made.attributes += [(key, value) for key, value in given if not key.startswith("otel.")]
        made.kind = Kind[told.get("otel.kind", "INTERNAL")]
        made.error = told.get("otel.error")
        made.events = [(at, name, list(facts.items())) for at, name, facts in told.get("otel.events", ())]
        made.links = [
            (bytes.fromhex(trace), int(span, 16), list(facts.items()))
            for trace, span, facts in told.get("otel.links", ())
        ]
        return made

    def _child(
        self, row: dict[str, Any], task: bytes, name: str, kind: Kind, start: int, attributes: Attributes,
        links: list[tuple[bytes, int, Attributes]] | None = None,
    ) -> Span:  # fmt: skip
        """A span inside the run of a task."""
        return Span(
            row["process"], self.trace_of(task), span_ids.of_record(row["process"], row["sequence"]),
            self._run_of(task.hex() if any(task) else None), name, kind, start, row["time_ns"],
            [("obsray.task.id", task.hex()), *attributes], links=links or [],
        )  # fmt: skip

    def _pulled(self, row: dict[str, Any]) -> Span:
        made = self._of_object(row, "object pull", Kind.CLIENT, row["wire_seconds"] + row["queue_seconds"])
        made.span = span_ids.of_record(row["destination"], int.from_bytes(row["object"][8:16], "big"), 7)
        made.attributes += [
            ("obsray.transfer.source", row["source"].hex()), ("obsray.transfer.destination", row["destination"].hex()),
            ("obsray.transfer.queue_seconds", row["queue_seconds"]), ("obsray.transfer.attempts", row["attempts"]),
        ]  # fmt: skip
        made.error = row.get("error") or None
        return made

    def _pushed(self, row: dict[str, Any]) -> Span:
        made = self._of_object(
            {**row, "object_bytes": row["sent_bytes"]}, "object push", Kind.SERVER, row["wire_seconds"]
        )
        made.parent = span_ids.of_record(row["destination"], int.from_bytes(row["object"][8:16], "big"), 7)
        made.attributes.append(("obsray.transfer.destination", row["destination"].hex()))
        made.error = row["error"] or None
        return made

    def _of_object(self, row: dict[str, Any], name: str, kind: Kind, seconds: float) -> Span:
        identifier = row["object"]
        start = row["time_ns"] - int(seconds * _NS)
        made = self._child(row, ids.task_of(identifier), name, kind, start, [])
        made.attributes = [("obsray.object.id", identifier.hex()), ("obsray.object.bytes", row["object_bytes"])]
        if ids.kind_of(identifier) == ids.SEQUENCE_PUT:
            made.parent = 0
        return made

    def _spilled(self, row: dict[str, Any]) -> Span:
        return self._of_object(row, "object spill", Kind.INTERNAL, row["spill_seconds"])

    def _restored(self, row: dict[str, Any]) -> Span:
        return self._of_object(row, "object restore", Kind.INTERNAL, row["restore_seconds"])

    def _worker_started(self, row: dict[str, Any]) -> Span | None:
        if not row["start_seconds"]:
            return None
        return self._alone(row, row["worker"], _WORKER_TRACE, "worker start", row["start_seconds"], [
            ("obsray.worker.id", row["worker"].hex()), ("process.pid", row["pid"])])  # fmt: skip

    def _environment_made(self, row: dict[str, Any]) -> Span:
        made = self._alone(row, row["environment"], _ENVIRONMENT_TRACE, "environment setup", row["setup_seconds"], [
            ("obsray.environment.id", row["environment"].hex())])  # fmt: skip
        made.error = row.get("error") or None
        return made

    def _control_call(self, row: dict[str, Any]) -> Span:
        made = self._alone(row, row["process"], _NODE_TRACE, f"control/{row['method']}", row["rpc_seconds"], [
            ("rpc.system.name", "grpc"), ("rpc.method", row["method"])])  # fmt: skip
        made.kind = Kind.CLIENT
        made.trace = span_ids.trace_of(row["process"] + row["sequence"].to_bytes(8, "little"), _NODE_TRACE)
        made.error = (row["error"] or "failed") if not row["ok"] else None
        return made

    def _alone(
        self, row: dict[str, Any], identifier: bytes, kind: int, name: str, seconds: float, attributes: Attributes
    ) -> Span:
        start = row["time_ns"] - int(seconds * _NS)
        return Span(
            row["process"], span_ids.trace_of(identifier, kind), span_ids.of_record(row["process"], row["sequence"]), 0,
            name, Kind.INTERNAL, start, row["time_ns"], attributes,
        )  # fmt: skip

    def _actor_started(self, row: dict[str, Any]) -> Span:
        actor = self.views.actor_table.rows.get(row["actor"]) or {}
        made = self._of_actor(row, f"{actor.get('class_name') or 'actor'} start", row["start_seconds"])
        made.attributes.append(("obsray.actor.incarnation", row["incarnation"]))
        return made

    def _actor_restarts(self, row: dict[str, Any]) -> Span:
        actor = self.views.actor_table.rows.get(row["actor"]) or {}
        made = self._of_actor(row, f"{actor.get('class_name') or 'actor'} restart", 0.0)
        made.attributes += [("obsray.actor.restarts", row["restarts"]), ("error.type", row["cause"])]
        made.error = row["error"] or row["cause"]
        return made

    def _of_actor(self, row: dict[str, Any], name: str, seconds: float) -> Span:
        """A span beside the creation of an actor."""
        actor = self.views.actor_table.rows.get(row["actor"]) or {}
        task = bytes.fromhex(actor.get("task_id") or "") or row["actor"]
        start = row["time_ns"] - int(seconds * _NS)
        made = self._child(row, task, name, Kind.INTERNAL, start, [("obsray.actor.id", row["actor"].hex())])
        made.parent = span_ids.of_task(task, 0, Part.SUBMIT)
        return made

    makers = {
        "task_unblocked": _waited,
        "user_span": _user_span,
        "transfer_done": _pulled,
        "transfer_failed": _pulled,
        "transfer_served": _pushed,
        "object_spilled": _spilled,
        "object_restored": _restored,
        "worker_registered": _worker_started,
        "environment_ready": _environment_made,
        "environment_failed": _environment_made,
        "control_rpc": _control_call,
        "actor_alive": _actor_started,
        "actor_restarting": _actor_restarts,
    }


class _Decisions:
    """The decisions of the scheduler for each owner and shape, in order of time."""

    def __init__(self, views: Views) -> None:
        self._table = views.lease_table
        self._of: dict[tuple[bytes, str], tuple[list[int], list[dict[str, Any]]]] | None = None
        self._candidates: dict[tuple[bytes, int], list[dict[str, Any]]] = {}

    def add_to(self, span: Span, owner: bytes, shape: str) -> None:
        """What was decided while a task waited, as events of its queue span."""
        if self._of is None:
            self._of = {}
            for decision in sorted(self._table.decisions, key=lambda row: int(row["time_ns"])):
                times, rows = self._of.setdefault((decision["owner"], decision["shape"]), ([], []))
                times.append(decision["time_ns"])
                rows.append(decision)
            for row in self._table.candidates:
                self._candidates.setdefault((row["process"], row["decision"]), []).append(row)
        times, rows = self._of.get((owner, shape), ([], []))
        low, high = bisect.bisect_left(times, span.start), bisect.bisect_right(times, span.end)
        span.dropped_events = max(0, high - low - EVENTS_MAX)
        for decision in rows[low : min(high, low + EVENTS_MAX)]:
            span.events.append((decision["time_ns"], "obsray.sched.decision", self._facts(decision)))

    def _facts(self, decision: dict[str, Any]) -> Attributes:
        facts: Attributes = [
            ("obsray.sched.outcome", decision["outcome"]), ("obsray.sched.reason", decision["reason"]),
            ("obsray.sched.queue_depth", decision["queue_depth"]),
        ]  # fmt: skip
        if any(decision["chosen_node"]):
            facts.append(("obsray.sched.node", decision["chosen_node"].hex()))
        if decision["deficit"]:
            facts.append(("obsray.sched.deficit", decision["deficit"]))
        candidates = self._candidates.get((decision["process"], decision["decision"]), [])[:_CANDIDATES_MAX]
        facts += [
            (
                f"obsray.sched.candidate.{at}",
                f"{row['node'].hex()} {row['reject'] if not row['feasible'] else 'feasible'}",
            )
            for at, row in enumerate(candidates)
        ]
        return facts


def _given(text: str) -> Attributes:
    """Attributes that were recorded as JSON."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return [("obsray.attributes", text)]
    return list(found.items()) if isinstance(found, dict) else []


__all__ = ["EVENTS_MAX", "LINKS_MAX", "Kind", "Span", "Spans"]
