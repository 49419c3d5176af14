"""Spans of actors: each of their starts, the runs of their constructors, restarts from death to life.

A constructor runs once for each process of its actor, under one task, so its runs are told one by one and not with the
end of that task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from obsray.export.span import Kind, Link, Span
from obsray.telemetry import span_ids
from obsray.telemetry.columns import Batch
from obsray.telemetry.events import TaskType
from obsray.telemetry.span_ids import Part
from obsray.telemetry.views import Views

_NS = 1_000_000_000
ACTOR_EVENTS = ("actor_restarting", "actor_alive", "actor_died")


class ActorSpans:
    """``trace_of`` and ``links_of``, to those who made the arguments, are those of tasks."""

    def __init__(
        self, views: Views, trace_of: Callable[[bytes], bytes], links_of: Callable[[bytes], tuple[list[Link], int]]
    ) -> None:
        self.views = views
        self._trace_of = trace_of
        self._links_of = links_of
        #: Restarts that nothing is known of yet but that they began, by actor and number.
        self._restarting: dict[tuple[bytes, int], dict[str, Any]] = {}
        #: Actors that were alive before the record of their restart came, from another node.
        self._alive: dict[tuple[bytes, int], int] = {}

    def of(self, batch: Batch) -> Iterator[Span]:
        """The spans that new records complete."""
        texts = self.views.store.texts
        if "task_ended" in batch:
            columns, table = batch["task_ended"], self.views.task_table
            rows = table.index.rows(columns["task"], create=False)
            made = (rows >= 0) & (table["type"][rows] == TaskType.ACTOR_CREATION)
            if made.any():
                yield from (self._constructed(row) for row in columns.take(made).rows(texts))
        events = [
            (row["time_ns"], event, row)
            for event in ("actor_alive", "actor_restarting", "actor_died") if event in batch
            for row in batch[event].rows(texts)
        ]  # fmt: skip
        for at, event, row in sorted(events, key=lambda one: one[0]):
            if event == "actor_alive":
                yield self._started(row)
                key = row["actor"], row["incarnation"]
                before = self._restarting.pop(key, None)
                if before is not None:
                    yield self._restarted(before, at, True)
                elif row["incarnation"]:
                    self._alive[key] = at
            elif event == "actor_restarting":
                key = row["actor"], row["restarts"]
                if key in self._alive:
                    yield self._restarted(row, self._alive.pop(key), True)
                else:
                    self._restarting[key] = row
            else:
                for key in [key for key in self._restarting if key[0] == row["actor"]]:
                    yield self._restarted(self._restarting.pop(key), at, False)

    def rest(self) -> Iterator[Span]:
        """Restarts that nothing came of."""
        now = self.views.now_ns()
        for row in self._restarting.values():
            yield self._restarted(row, now, False)
        self._restarting.clear()

    def _constructed(self, row: dict[str, Any]) -> Span:
        task, attempt = row["task"], row["attempt"]
        trace = self._trace_of(task)
        made = Span(
            row["process"], trace, span_ids.of_task(task, attempt), span_ids.of_task(task, 0, Part.SUBMIT), row["name"],
            Kind.CONSUMER, row["started_at"], row["time_ns"],
            [("obsray.task.id", task.hex()), ("code.function.name", row["name"]), ("obsray.task.attempt", attempt),
             ("obsray.worker.id", row["process"].hex()), ("obsray.actor.id", row["actor"].hex())],
        )  # fmt: skip
        made.attributes += [
            (f"obsray.task.{name}", row[name]) for name in ("run_seconds", "cpu_seconds", "blocked_seconds")
        ]
        if row["outcome"] != "ok":
            made.error = row["outcome"]
            made.attributes.append(("error.type", row["outcome"]))
        links, made.dropped_links = self._links_of(task)
        made.links = [*_before(trace, task, attempt, Part.RUN), *links]
        return made

    def _started(self, row: dict[str, Any]) -> Span:
        actor, number = row["actor"], row["incarnation"]
        start = row["time_ns"] - int(row["start_seconds"] * _NS)
        made = self._span(row, "start", number, Part.START, start, row["time_ns"])
        made.links = _before(made.trace, actor, number, Part.START)
        made.attributes += [("obsray.actor.incarnation", number), ("obsray.worker.id", row["worker"].hex())]
        return made

    def _restarted(self, row: dict[str, Any], until: int, alive: bool) -> Span:
        until = max(until, row["time_ns"])
        made = self._span(row, "restart", row["restarts"], Part.RESTART, row["time_ns"], until)
        made.attributes += [
            ("obsray.actor.restarts", row["restarts"]), ("obsray.actor.death", row["cause"]),
            ("obsray.actor.death.message", row["error"]),
        ]  # fmt: skip
        made.links = _before(made.trace, row["actor"], row["restarts"], Part.START)
        if not alive:
            made.error = row["error"] or row["cause"]
            made.attributes.append(("error.type", row["cause"]))
        return made

    def _span(self, row: dict[str, Any], what: str, number: int, part: Part, start: int, end: int) -> Span:
        """A span beside the creation of an actor."""
        actor = row["actor"]
        known = self.views.actor_table.rows.get(actor) or {}
        task = bytes.fromhex(known.get("task_id") or "") or actor
        return Span(
            row["process"], self._trace_of(task), span_ids.of_task(actor, number, part),
            span_ids.of_task(task, 0, Part.SUBMIT), f"{known.get('class_name') or 'actor'} {what}", Kind.INTERNAL,
            start, end, [("obsray.actor.id", actor.hex())],
        )  # fmt: skip


def _before(trace: bytes, task: bytes, number: int, part: Part) -> list[Link]:
    """A link to what an earlier process of the actor did, if there was one."""
    return [(trace, span_ids.of_task(task, number - 1, part), [("obsray.link", "retry of")])] if number else []
