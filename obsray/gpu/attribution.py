"""Which task a piece of GPU work belongs to.

In the order of their strength:

1. ``EXTERNAL_ID``: the number that the worker had pushed on the launching thread when the task began came back with
   the call's correlation id.
2. ``LAUNCHING_THREAD``: the recorded call that launched it was made on a thread while that thread ran one task.
3. ``LAUNCH_TIME``: the moment of the launch (from the recorded call, or between the calls numbered before and after)
   lies within the only task that ran in the process. So are attributed, for instance, the kernels of a backward pass,
   which a thread of the library launches.
4. ``RUN_TIME``: nothing is known about the launch, but only one task ran in the process while the work was done.
5. ``NONE``: several tasks ran, or none. It is shown as such.

Pure: numpy arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from obsray.gpu.parse import Array, Records
from obsray.gpu.words import Attribution

#: Calls and external ids older than this many newer ones are forgotten; work is launched at most a queue ahead.
CALLS_MAX = 1 << 20
#: Tasks that ended are remembered for this many later ones.
MARKS_MAX = 1 << 16
#: Not ended yet.
OPEN = np.iinfo(np.int64).max


MARK = np.dtype(
    [
        ("number", "<u8"),
        ("started", "<i8"),
        ("ended", "<i8"),
        ("thread", "<u4"),
        ("attempt", "<u2"),
        ("name", "<u4"),
        ("task", "V16"),
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """For each piece of work: the row of its mark in ``Marks.rows`` (-1: none), how that is known, and when it was
    launched (ns, 0: not known)."""

    mark: Array
    how: Array
    launched_at: Array


@dataclass
class Attributor:
    """What is known of the tasks and calls of one process. Feed it in the order of the stream, then ask."""

    rows: Array = field(default_factory=lambda: np.empty(0, MARK))
    _external: _Map = field(default_factory=lambda: _Map([("external", "<u8")]))
    _calls: _Map = field(default_factory=lambda: _Map([("thread", "<u4"), ("start", "<i8"), ("end", "<i8")]))
    _spans: _Spans | None = None

    def add_marks(self, marks: Array) -> None:
        """Tasks that began (``ended`` is ``OPEN``) or ended: a later mark of a number replaces the earlier."""
        if not len(marks):
            return
        rows = np.concatenate([self.rows, marks])
        _, last = np.unique(rows["number"][::-1], return_index=True)
        rows = rows[len(rows) - 1 - last]
        self.rows = rows[-MARKS_MAX:]
        self._spans = None

    def add_records(self, records: Records) -> None:
        """Calls and external ids of a buffer."""
        externals = records.externals
        if len(externals):
            self._external.add(externals["correlation"], {"external": externals["external"]})
        calls = records.calls
        if len(calls):
            values = {"thread": calls["thread"], "start": calls["start"], "end": calls["end"]}
            self._calls.add(calls["correlation"], values)

    def attribute(self, work: Array) -> Answer:
        """The tasks of work records (with ``correlation``, ``start``, ``end``)."""
        count = len(work)
        mark = np.full(count, -1, np.int64)
        how = np.zeros(count, np.uint8)
        correlation = work["correlation"].astype(np.int64)
        call = self._calls.find(correlation)
        launched = np.where(call >= 0, self._calls.at("start", call), 0)
        if not count or not len(self.rows):
            return Answer(mark, how, launched)

        def settle(found: Array, reason: Attribution) -> None:
            new = (mark < 0) & (found >= 0)
            mark[new] = found[new]
            how[new] = reason

        settle(self._by_external(correlation), Attribution.EXTERNAL_ID)
        settle(self._by_thread(call, launched), Attribution.LAUNCHING_THREAD)
        spans = self._all_spans()
        start, end = work["start"].astype(np.int64), work["end"].astype(np.int64)
        low, high = self._launch_bounds(correlation, call, start)
        settle(np.where(high > 0, spans.only(low, high), -1), Attribution.LAUNCH_TIME)
        settle(np.where(call < 0, spans.only(start, end), -1), Attribution.RUN_TIME)
        return Answer(mark, how, launched)

    def _by_external(self, correlation: Array) -> Array:
        found = self._external.find(correlation)
        numbers = np.where(found >= 0, self._external.at("external", found), 0).astype(np.uint64)
        at = np.searchsorted(self.rows["number"], numbers)
        at = np.minimum(at, len(self.rows) - 1)
        return np.where((found >= 0) & (self.rows["number"][at] == numbers), at, -1)

    def _by_thread(self, call: Array, launched: Array) -> Array:
        threads = self._calls.at("thread", call)
        found = np.full(len(call), -1, np.int64)
        known = call >= 0
        for thread in np.unique(threads[known]).tolist():
            mine = np.flatnonzero(self.rows["thread"] == thread)
            if not len(mine):
                continue
            asked = np.flatnonzero(known & (threads == thread))
            only = _Spans(self.rows["started"][mine], self.rows["ended"][mine]).only(launched[asked], launched[asked])
            found[asked] = np.where(only >= 0, mine[only], -1)
        return found

    def _launch_bounds(self, correlation: Array, call: Array, run_at: Array) -> tuple[Array, Array]:
        """Between which moments work that ran at ``run_at`` was launched; 0 if nothing is known.

        Calls are numbered in the order in which they begin, whatever thread makes them. So a call that was not
        recorded itself began after the start of the one before it, and before the start of the one after it and
        of the work itself.
        """
        keys, starts = self._calls.keys, self._calls.column("start")
        low = np.where(call >= 0, self._calls.at("start", call), 0)
        high = np.where(call >= 0, self._calls.at("start", call), 0)
        if len(keys):
            after = np.searchsorted(keys, correlation)
            between = (call < 0) & (after > 0)
            low = np.where(between, starts[np.maximum(after - 1, 0)], low)
            next_start = np.where(after < len(keys), starts[np.minimum(after, len(keys) - 1)], OPEN)
            high = np.where(between, np.minimum(next_start, run_at), high)
        return np.minimum(low, high), np.maximum(low, high)

    def _all_spans(self) -> _Spans:
        if self._spans is None:
            self._spans = _Spans(self.rows["started"], self.rows["ended"])
        return self._spans


class _Spans:
    """When tasks ran; who ran alone."""

    def __init__(self, started: Array, ended: Array) -> None:
        rows = np.arange(len(started), dtype=np.int64)
        times = np.concatenate([started, ended])
        change = np.concatenate([np.ones(len(started), np.int64), np.full(len(ended), -1, np.int64)])
        # At equal times a task that ends makes room before the next begins.
        order = np.lexsort((change, times))
        self._times = times[order]
        self._running = np.cumsum(change[order])
        self._sum = np.cumsum((change * np.concatenate([rows, rows]))[order])

    def only(self, since: Array, until: Array) -> Array:
        """The row of the task that ran all the time from ``since`` to ``until``, and alone; -1 if there is none."""
        if not len(self._times):
            return np.full(len(since), -1, np.int64)
        first = np.searchsorted(self._times, since, side="right") - 1
        last = np.searchsorted(self._times, until, side="right") - 1
        inside = (first >= 0) & (first == last)
        at = np.maximum(first, 0)
        return np.where(inside & (self._running[at] == 1), self._sum[at], -1)


class _Map:
    """Correlation id -> values, as sorted arrays; the newest entry of an id counts, the oldest ids are forgotten."""

    def __init__(self, columns: list[tuple[str, str]]) -> None:
        self._columns = {name: np.empty(0, code) for name, code in columns}
        self.keys = np.empty(0, np.int64)

    def add(self, keys: Array, values: dict[str, Array]) -> None:
        all_keys = np.concatenate([self.keys, keys.astype(np.int64)])
        kept, last = np.unique(all_keys[::-1], return_index=True)
        last = len(all_keys) - 1 - last[-CALLS_MAX:]
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, values[name].astype(column.dtype)])[last]
        self.keys = kept[-CALLS_MAX:]

    def find(self, keys: Array) -> Array:
        """The place of each key, -1 for those that are not there."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found: Array = np.where(self.keys[at] == keys, at, -1)
        return found

    def column(self, name: str) -> Array:
        return self._columns[name]

    def at(self, name: str, places: Array) -> Array:
        """Values at places; something at places that are -1."""
        column = self._columns[name]
        if not len(column):
            return np.zeros(len(places), column.dtype)
        found: Array = column[np.maximum(places, 0)]
        return found


def marks_of(rows: list[tuple[Any, ...]]) -> Array:
    """Marks from plain tuples in the order of ``MARK``."""
    return np.array(rows, MARK)
