"""Whose a piece of work of the runtime is: that of the task which asked for it.

Who asked is known by its process and the instant; which of its tasks that was, once that has ended. So what was asked
for is kept until a task of the asking process ends that was running then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from obsray.telemetry import span_ids
from obsray.telemetry.columns import Batch
from obsray.telemetry.views import Views

T = TypeVar("T")
NOBODY = bytes(8)
#: What was asked for, the span of the run that asked, its trace; 0 and b"": a driver, or it will not be known.
Told = tuple[T, int, bytes]


class Askers(Generic[T]):
    """Keeps things until it is known beneath which run they are to be told."""

    def __init__(self, views: Views, trace_of: Callable[[bytes], bytes]) -> None:
        self._views, self._trace_of = views, trace_of
        #: Process -> when it asked, and for what.
        self._waiting: dict[bytes, list[tuple[int, T]]] = {}

    def add(self, asker: bytes, at: int, what: T) -> Iterator[Told[T]]:
        """A process asked for something at an instant (ns); given back at once if it is known whose it is."""
        if (self._views.process_table.rows.get(asker) or {}).get("kind") != "worker":
            yield what, 0, b""
        elif over := self._over_by_now(asker, at):
            yield what, span_ids.of_task(*over), self._trace_of(over[0])
        else:
            self._waiting.setdefault(asker, []).append((at, what))

    def kept(self) -> Iterator[T]:
        """What it is not known of yet."""
        for kept in self._waiting.values():
            yield from (what for _, what in kept)

    def of(self, batch: Batch) -> Iterator[Told[T]]:
        """What new records say."""
        if self._waiting and "task_ended" in batch:
            yield from self._ended(batch)
        if self._waiting and "worker_died" in batch:
            for worker in batch["worker_died"]["worker"]:
                yield from ((what, 0, b"") for _, what in self._waiting.pop(worker.tobytes(), ()))

    def rest(self) -> Iterator[Told[T]]:
        """What is left: whose it was will not be known any more."""
        waiting, self._waiting = self._waiting, {}
        for kept in waiting.values():
            yield from ((what, 0, b"") for _, what in kept)

    def _over_by_now(self, asker: bytes, at: int) -> tuple[bytes, int] | None:
        """The task (and attempt) of a process that ran at an instant, if its end has been read already."""
        table = self._views.task_table
        there = np.flatnonzero(table["worker"] == table.workers.row(asker))
        there = there[(table["ended_attempt"][there] >= 0) & (table["started_at"][there] <= at)]
        there = there[table["ended_at"][there] >= at]
        if not len(there):
            return None
        first = there[np.argmin(table["ended_at"][there])]
        return table["id"][first].tobytes(), int(table["ended_attempt"][first])

    def _ended(self, batch: Batch) -> Iterator[Told[T]]:
        """Tasks of processes that had asked for something are over."""
        columns = batch["task_ended"]
        askers = np.frombuffer(b"".join(self._waiting), "V8")
        for at in np.flatnonzero(np.isin(np.ascontiguousarray(columns["process"]).view("S8"), askers.view("S8"))):
            asker, start = columns["process"][at].tobytes(), int(columns["started_at"][at])
            end = int(columns["time_ns"][at])
            kept = self._waiting.get(asker, [])
            mine = [what for when, what in kept if start <= when <= end]
            if not mine:
                continue
            left = [(when, what) for when, what in kept if not start <= when <= end]
            if left:
                self._waiting[asker] = left
            else:
                del self._waiting[asker]
            task = columns["task"][at].tobytes()
            run = span_ids.of_task(task, int(columns["attempt"][at]))
            yield from ((what, run, self._trace_of(task)) for what in mine)
