"""Numbers that change at instants: how many tasks wait, run, ... at a time, and sums of that over many intervals."""

from __future__ import annotations

import numpy as np

from obsray.telemetry.columns import Array
from obsray.telemetry.tables import NS


class Steps:
    """A number over time: ``values[i]`` from ``times[i]`` (nanoseconds, ascending) on, 0 before the first."""

    def __init__(self, times: Array, values: Array) -> None:
        self.times = times
        self.values = values

    @classmethod
    def of_intervals(cls, start: Array, end: Array) -> Steps:
        """How many of these intervals there are at a time; empty ones count for nothing."""
        good = end > start
        times = np.concatenate([start[good], end[good]]).astype(np.int64)
        change = np.concatenate([np.ones(int(good.sum()), np.int64), -np.ones(int(good.sum()), np.int64)])
        order = np.argsort(times, kind="stable")
        times, values = times[order], np.cumsum(change[order])
        # Of several changes in one instant the last says what is.
        last = np.concatenate([times[1:] != times[:-1], [True]]) if len(times) else np.empty(0, np.bool_)
        return cls(times[last], values[last])

    def at(self, instants: Array) -> Array:
        """The number at each instant."""
        where = np.searchsorted(self.times, instants, side="right") - 1
        if not len(self.times):
            return np.zeros(len(instants), np.int64)
        return np.where(where >= 0, self.values[np.maximum(where, 0)], 0)


def instants(*times: Array) -> Array:
    """All these instants, ascending, each once. (``np.unique`` hashes, which nanoseconds make slow.)"""
    found = np.sort(np.concatenate(times))
    return found[np.concatenate([[True], found[1:] != found[:-1]])] if len(found) else found


def seconds_where(times: Array, holds: Array, start: Array, end: Array) -> Array:
    """Of each interval the seconds in which something holds: from ``times[i]`` on it is as ``holds[i]`` says."""
    if not len(times):
        return np.zeros(len(start))
    lengths = np.diff(times, append=times[-1:]) * holds
    total = np.concatenate([[0], np.cumsum(lengths)])
    return (_until(times, holds, total, end) - _until(times, holds, total, start)) / NS


def _until(times: Array, holds: Array, total: Array, instants: Array) -> Array:
    where = np.searchsorted(times, instants, side="right") - 1
    inside = np.maximum(where, 0)
    found: Array = np.where(where >= 0, total[inside] + (instants - times[inside]) * holds[inside], 0)
    return found
