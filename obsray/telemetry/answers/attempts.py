"""Every attempt that ran or runs, as columns: when, where, on whose behalf, and where its time went."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray import ids
from obsray.telemetry.columns import Array, Columns
from obsray.telemetry.store import joined
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import OPEN

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

#: Seconds of an attempt, by what they were spent on.
PARTS = ("fetch", "deserialize", "run", "blocked", "store")


class Attempts:
    """``row``: that of the task in the task table. Times are nanoseconds since the epoch (int64), parts are float64
    seconds; of attempts without an end (``open``) all until their process died, or until now, counts as ``run``.
    """

    fetch: Array
    deserialize: Array
    run: Array
    blocked: Array
    store: Array

    def __init__(self, view: Views) -> None:
        ended = joined(view.store.select("task_ended"), "task_ended")
        started = joined(view.store.select("task_started"), "task_started")
        table = view.task_table
        unended = started.take(~_known(view, started, ended))
        tasks = np.concatenate([ended["task"], unended["task"]])
        self.row: Array = table.index.rows(tasks, create=False)
        self.attempt = np.concatenate([ended["attempt"], unended["attempt"]]).astype(np.int64)
        self.process: Array = np.concatenate([ended["process"], unended["process"]])
        self.start = np.concatenate([ended["started_at"], unended["started_at"]]).astype(np.int64)
        self.arrived = np.concatenate([ended["arrived_at"], unended["arrived_at"]]).astype(np.int64)
        # (Together, unsigned and signed numbers become floats, which are too coarse for nanoseconds.)
        self.end = np.concatenate([ended["time_ns"].astype(np.int64), _ends(view, unended)])
        self.end = np.maximum(self.end, self.start)
        more = len(unended)
        self.outcome = np.concatenate([ended["outcome"].astype(np.int64), np.full(more, OPEN)])
        self.open: Array = self.outcome == OPEN
        zero = np.zeros(more)
        for name in PARTS:
            values = np.concatenate([ended[f"{name}_seconds"].astype(np.float64), zero])
            if name == "run":
                values[len(ended) :] = (self.end - self.start)[len(ended) :] / NS
            setattr(self, name, values)
        self.cpu = np.minimum(np.concatenate([ended["cpu_seconds"].astype(np.float64), zero]), self.part("run"))
        self.name: Array = np.concatenate([ended["name"], unended["name"]]).astype(np.int64)
        owners_word = table["name"][np.maximum(self.row, 0)] if len(table) else np.zeros(len(self.row), np.int64)
        named = (self.row >= 0) & (owners_word > 0)
        self.name[named] = owners_word[named]
        self._keep(self.row >= 0)

    def _keep(self, where: Array) -> None:
        for name, values in vars(self).items():
            setattr(self, name, values[where])

    def __len__(self) -> int:
        return len(self.row)

    def part(self, name: str) -> Array:
        """The seconds of one of ``PARTS``."""
        found: Array = getattr(self, name)
        return found


def node_of(view: Views, process: bytes) -> bytes:
    """The node of a process: by the mark in its id, or the only one."""
    nodes = view.cluster_table.nodes
    if len(nodes) == 1:
        return next(iter(nodes))
    if not nodes:
        return b""
    mark = ids.mark_of(process)
    return next((node for node in nodes if ids.mark_of_node(node) == mark), b"")


def _known(view: Views, started: Columns, ended: Columns) -> Array:
    """Which started attempts have an end."""
    index = view.task_table.index
    newest = np.full(index.count + 1, -1, np.int64)
    rows = index.rows(ended["task"], create=False)
    good = rows >= 0
    np.maximum.at(newest, rows[good], ended["attempt"][good].astype(np.int64))
    at = index.rows(started["task"], create=False)
    found: Array = (at >= 0) & (newest[at] >= started["attempt"].astype(np.int64))
    return found


def _ends(view: Views, columns: Columns) -> Array:
    """When attempts without an end ended: with their process, when they were tried again, or not yet."""
    now = view.now_ns()
    died = {
        process: row["died_at_ns"] or row["closed_at_ns"] or now for process, row in view.process_table.rows.items()
    }
    return np.array([died.get(each.tobytes(), now) for each in columns["process"]], np.int64)


def shares(worker: Array, start: Array, end: Array) -> Array:
    """Of each interval the part of 1 that is its own if what overlaps on one worker shares the time (length > 0)."""
    if not len(start):
        return np.empty(0)
    times = np.concatenate([start, end])
    change = np.concatenate([np.ones(len(start)), -np.ones(len(end))])
    who = np.concatenate([worker, worker])
    # Ends come before starts of the same instant, so that neighbours do not count as overlapping.
    order = np.lexsort((change, times, who))
    running = np.cumsum(change[order])
    times, sorted_who = times[order], who[order]
    lengths = np.diff(times, append=times[-1:])
    lengths[:-1][sorted_who[1:] != sorted_who[:-1]] = 0
    own = np.where(running > 0, lengths / np.maximum(running, 1), 0.0)
    before = np.concatenate([[0.0], np.cumsum(own)[:-1]])
    at = np.empty(len(order))
    at[order] = before
    mine = at[len(start) :] - at[: len(start)]
    length = (end - start).astype(np.float64)
    found: Array = np.where(length > 0, mine / np.maximum(length, 1), 1.0)
    return found
