"""OpenTelemetry spans out of records: what they are called, what is whose parent, what links to what.

The parent of a span says who asked for it (control flow), a link whose result it took (data flow) or which attempt came
before. Spans about a task are made when it is over for its owner; those that one record tells of, from that record.
Nothing is carried for this by the runtime: ids follow from the task (``telemetry/span_ids.py``).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from obsray import ids
from obsray.export.actor_spans import ACTOR_EVENTS, ActorSpans
from obsray.export.decision_events import EVENTS_MAX, Decisions
from obsray.export.span import Attributes, Kind, Link, Span
from obsray.export.store_spans import STORE_EVENTS, StoreSpans
from obsray.export.transfer_spans import TRANSFER_EVENTS, TransferSpans
from obsray.telemetry import span_ids
from obsray.telemetry.columns import Array, Batch
from obsray.telemetry.events import Outcome, TaskType
from obsray.telemetry.runs import expand
from obsray.telemetry.span_ids import Part
from obsray.telemetry.views import Views

#: The bound of the specification's defaults; what is beyond is counted.
LINKS_MAX = 128
_NS = 1_000_000_000
#: A task that waited less than this in its queue gets no decisions as events.
_DECISIONS_FROM_NS = 1_000_000
_TASKS_AT_ONCE = 4096
#: Kinds of traces of their own.
_WORKER_TRACE, _NODE_TRACE, _ENVIRONMENT_TRACE = 1, 2, 3


class Spans:
    """Makes spans of one session. ``views`` must have folded what is asked about."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self._arguments: dict[bytes, list[bytes]] = {}
        self._around: dict[bytes, int] = {}
        self._moments: dict[bytes, list[tuple[int, str, Attributes]]] = {}
        self._blocked: dict[bytes, list[tuple[int, bytes]]] = {}
        #: When each task that streams handed out its last item.
        self._items: dict[bytes, int] = {}
        self._transfers = TransferSpans(views, self.trace_of, self._made_by)
        self._stored = StoreSpans(views, self.trace_of, self._made_by)
        self._actors = ActorSpans(views, self.trace_of, lambda task: self._data_links(self._given(task)))

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
        self._transfers.note(batch)
        self._stored.note(batch)

    def forget(self, batch: Batch) -> None:
        """These records have been exported before."""
        known = (self._of_items(batch), self._transfers.of(batch), self._stored.of(batch), self._actors.of(batch))
        for _ in itertools.chain(*known):
            pass
        for task in self._finished(batch):
            self._given(task)
            for kept in (self._moments, self._blocked, self._around, self._items):
                kept.pop(task, None)

    # --- spans of records ---------------------------------------------------------------------------------

    def of(self, batch: Batch) -> Iterator[Span]:
        """The spans that new records complete."""
        yield from self._of_items(batch)
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
        yield from self._actors.of(batch)
        yield from self._transfers.of(batch)
        yield from self._stored.of(batch)

    def open(self) -> Iterator[Span]:
        """Spans of what nobody has told the end of: for a session that has ended, or for a look at one that has not."""
        table = self.views.task_table
        left = np.flatnonzero(table["owner_outcome"] == Outcome.OWNER_DIED)
        yield from self._of_tasks(np.union1d(table.open_rows, left))
        yield from self._transfers.rest()
        yield from self._stored.rest()
        yield from self._actors.rest()

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
        names = (
            "ready_at",
            "retried_at",
            "dispatched_at",
            "arrived_at",
            "started_at",
            "ended_at",
            "unready",
            "type",
            "ended_attempt",
        )
        known = {name: table[name][rows].tolist() for name in names}
        attempts = self.views.earlier_attempts() if len(rows) and table.attempt(rows).any() else {}
        decisions = Decisions(self.views)
        for at, task in enumerate(self.views.task_rows(rows, now)):
            times = {name: values[at] for name, values in known.items()}
            yield from self._of_task(task, times, attempts.get(task["task_id"], []), decisions, now)

    def _of_task(
        self,
        task: dict[str, Any],
        times: dict[str, int],
        earlier: list[dict[str, Any]],
        decisions: Decisions,
        now: int,
    ) -> Iterator[Span]:
        identifier = bytes.fromhex(task["task_id"])
        owner = ids.owner_of(identifier)
        trace = bytes.fromhex(task["trace_id"] or task["task_id"])
        submitted = task["submitted_at_ns"] or times["dispatched_at"] or task["started_at_ns"] or now
        submit = span_ids.of_task(identifier, 0, Part.SUBMIT)
        parent = self._around.pop(identifier, 0) or self._run_of(task["parent_task_id"])
        links, dropped = self._data_links(self._given(identifier))
        yield Span(
            owner, trace, submit, parent, f"{task['name']} submit", Kind.PRODUCER, submitted, submitted,
            [("obsray.task.id", task["task_id"]), ("code.function.name", task["name"]),
             ("obsray.job.id", task["job_id"]), ("obsray.task.type", task["type"]),
             ("obsray.task.shape", task["shape"])],
        )  # fmt: skip
        before: list[Link] = []
        since = submitted
        first = max(times["ready_at"] if times["unready"] else submitted, submitted)
        # The runs of constructors are told by ``ActorSpans``, but of one that did not come to its end.
        runs_apart = times["type"] == TaskType.ACTOR_CREATION and times["ended_attempt"] >= 0
        for attempt in earlier:
            if attempt["attempt"] >= task["attempt"] or not attempt["worker_id"]:
                continue
            told = attempt if attempt["started_at_ns"] else {**attempt, "started_at_ns": self._pushed_at(attempt)}
            yield self._queue(
                identifier, trace, task, attempt["attempt"], (since, first, told["started_at_ns"]), decisions
            )
            since = first = attempt["ended_at_ns"]
            if runs_apart:
                continue
            run = self._run(identifier, trace, submit, task, told, now)
            run.links = [*links, *before]
            run.error = attempt["error"] or attempt["outcome"]
            before = [(trace, run.span, [("obsray.link", "retry of")])]
            yield run
        until = times["dispatched_at"] or (task["ended_at_ns"] or now)
        yield self._queue(identifier, trace, task, task["attempt"], (since, first, until), decisions)
        if task["started_at_ns"] and not runs_apart:
            yield from self._newest(identifier, trace, submit, task, times, [*before, *links], dropped, now)

    def _queue(
        self, identifier: bytes, trace: bytes, task: dict[str, Any], attempt: int, times: tuple[int, int, int],
        decisions: Decisions,
    ) -> Span:  # fmt: skip
        """One attempt's wait: from when, when its arguments were there, until when."""
        since, ready, until = times
        owner, until = ids.owner_of(identifier), max(until, since)
        made = Span(
            owner, trace, span_ids.of_task(identifier, attempt, Part.QUEUE),
            span_ids.of_task(identifier, 0, Part.SUBMIT), f"{task['name']} queue", Kind.INTERNAL, since, until,
            [("obsray.task.id", task["task_id"]), ("code.function.name", task["name"]),
             ("obsray.task.attempt", attempt), ("obsray.queue.ready_seconds", max(0, until - ready) / _NS)],
        )  # fmt: skip
        if until - since >= _DECISIONS_FROM_NS:
            actor = self.views.actor_table.rows.get(bytes.fromhex(task["actor_id"] or "")) or {}
            decisions.add_to(made, owner, actor.get("shape") or task["shape"])
        return made

    def _pushed_at(self, attempt: dict[str, Any]) -> int:
        """When an attempt that its process did not live to tell about was pushed there."""
        table, ended = self.views.task_table, int(attempt["ended_at_ns"])
        worker = table.workers.row(bytes.fromhex(attempt["worker_id"]))
        times = table.dispatches["time"][table.dispatches["worker"] == worker]
        times = times[times <= ended]
        return int(times.max()) if len(times) else ended

    def _newest(
        self, identifier: bytes, trace: bytes, submit: int, task: dict[str, Any], times: dict[str, int],
        links: list[Link], dropped: int, now: int,
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

    def _given(self, task: bytes) -> list[bytes]:
        """The arguments of a task. A constructor may run again."""
        row = self.views.task_table.index.row(task)
        if row >= 0 and self.views.task_table["type"][row] == TaskType.ACTOR_CREATION:
            return self._arguments.get(task, [])
        return self._arguments.pop(task, [])

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

    def _data_links(self, objects: Iterable[bytes]) -> tuple[list[Link], int]:
        """Links to those who made the arguments of a task."""
        found: list[Link] = []
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

    def _driver_waited(self, row: dict[str, Any]) -> Span:
        """A driver has no span: what it waits in is in the trace of what it waits for, beside the submit of that."""
        start = row["time_ns"] - int(row["wait_seconds"] * _NS)
        trace, links = self._made_by(row["object"]) if any(row["object"]) else (row["process"] * 2, [])
        return Span(
            row["process"], trace, span_ids.of_record(row["process"], row["sequence"]), 0,
            f"obsray.{row['waiting_in']}", Kind.INTERNAL, start, row["time_ns"],
            [("obsray.wait.objects", row["objects"])], links=links,
        )  # fmt: skip

    def _made_by(self, identifier: bytes) -> tuple[bytes, list[Link]]:
        """The trace that an object was made in, and a link to the run that made it."""
        links, _ = self._data_links([identifier])
        return (links[0][0] if links else self.trace_of(ids.task_of(identifier))), links

    def _of_items(self, batch: Batch) -> Iterator[Span]:
        """Every item of a task that streams: from the item before, or from where the task began."""
        if "task_item_yielded" not in batch:
            return
        table = self.views.task_table
        for row in batch["task_item_yielded"].rows(self.views.store.texts):
            task, at = row["task"], row["time_ns"]
            known = table.index.row(task)
            began = int(table["started_at"][known]) if known >= 0 else 0
            before = self._items.get(task, 0)
            self._items[task] = at
            start = before if row["item"] and before else began
            name = self.views.store.texts[int(table["name"][known])] if known >= 0 else "task"
            yield self._child(
                row, task, f"{name} item", Kind.INTERNAL, min(start or at, at),
                [("obsray.item", row["item"]), ("obsray.item.bytes", row["item_bytes"])],
            )  # fmt: skip

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
        links: list[Link] | None = None,
    ) -> Span:  # fmt: skip
        """A span inside the run of a task."""
        return Span(
            row["process"], self.trace_of(task), span_ids.of_record(row["process"], row["sequence"]),
            self._run_of(task.hex() if any(task) else None), name, kind, start, row["time_ns"],
            [("obsray.task.id", task.hex()), *attributes], links=links or [],
        )  # fmt: skip

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

    #: Records that more than one span is made of, or that say more together.
    others = (*ACTOR_EVENTS, *TRANSFER_EVENTS, *STORE_EVENTS)
    makers = {
        "task_unblocked": _waited,
        "process_waited": _driver_waited,
        "user_span": _user_span,
        "worker_registered": _worker_started,
        "environment_ready": _environment_made,
        "environment_failed": _environment_made,
        "control_rpc": _control_call,
    }


def _given(text: str) -> Attributes:
    """Attributes that were recorded as JSON."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return [("obsray.attributes", text)]
    return list(found.items()) if isinstance(found, dict) else []


__all__ = ["EVENTS_MAX", "LINKS_MAX", "Kind", "Span", "Spans"]
