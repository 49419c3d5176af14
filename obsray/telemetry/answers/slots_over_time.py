"""The books of each worker slot over time: how many seconds of each activity fell into each piece of the time.

The parts of an attempt are spread evenly over it, and so are the causes of an idle interval: pieces are much longer
than most of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.telemetry.answers.attempts import Attempts
from obsray.telemetry.answers.books import ACTIVITIES, Slots, task_seconds, window
from obsray.telemetry.answers.idle import Idle
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]

PIECES = 96
SLOTS_SHOWN = 64


def slots_over_time(view: Views, job: int | None = None, refresh: bool = True) -> Row:
    """``workers``: of each, the busiest first, its label, the seconds of each activity in each of ``pieces`` equal
    pieces of the time from ``from_ns`` to ``to_ns``, and their sums; ``together``: the same of all of them;
    ``left_out``: how many workers are not shown. Raises LookupError for an unknown job."""
    if refresh:
        view.refresh()
    begin, end = window(view, job)
    attempts = Attempts(view)
    slots = Slots(view, begin, end)
    pieces = _Pieces(begin, end, len(slots.processes))
    slot, start, stop = slots.clipped(attempts)
    tasks = task_seconds(view, attempts, slots, begin, end)
    if job is not None:
        mine = view.task_table["job"][attempts.row] == job
        others = np.sum([np.where(mine, 0.0, seconds) for seconds in tasks.values()], axis=0)
        tasks = {name: np.where(mine, seconds, 0.0) for name, seconds in tasks.items()}
        tasks["other jobs"] = others
    pieces.add(slot, start, stop, tasks)
    gaps = slots.gaps(attempts)
    pieces.add(slots.gap_slots, gaps[0], gaps[1], Idle(view, begin, end).causes(*gaps))
    pieces.add(np.arange(len(slots.processes)), slots.born, slots.ready, {"starting": slots.starting()})
    found = {name: pieces.seconds[name] for name in ACTIVITIES if name in pieces.seconds}
    busy = np.sum([table.sum(axis=1) for name, table in found.items() if not name.startswith("idle")] or [[]], axis=0)
    order = np.argsort(-busy, kind="stable")[:SLOTS_SHOWN].tolist()
    return {
        "from_ns": begin, "to_ns": end, "pieces": PIECES, "piece_seconds": (end - begin) / NS / PIECES,
        "workers": [
            _row(view.process_label(slots.processes[at]), slots.processes[at].hex(),
                 {name: table[at] for name, table in found.items()})
            for at in order
        ],
        "together": _row("all workers", "", {name: table.sum(axis=0) for name, table in found.items()}),
        "left_out": len(slots.processes) - len(order),
    }  # fmt: skip


def _row(label: str, worker: str, seconds: dict[str, Array]) -> Row:
    present = {name: values for name, values in seconds.items() if values.sum() > 0}
    return {
        "label": label, "worker_id": worker,
        "activities": {name: values.tolist() for name, values in present.items()},
        "sums": {name: float(values.sum()) for name, values in present.items()},
    }  # fmt: skip


class _Pieces:
    """Seconds by activity, slot and piece of time."""

    def __init__(self, begin: int, end: int, slots: int) -> None:
        self.slots = slots
        self.edges = np.linspace(begin, max(end, begin + PIECES), PIECES + 1).astype(np.int64)
        self.seconds: dict[str, Array] = {}

    def add(self, slot: Array, start: Array, end: Array, activities: dict[str, Array]) -> None:
        """Spread the seconds of intervals evenly over the pieces that they touch."""
        kept = np.flatnonzero((slot >= 0) & (end > start))
        slot, start, end = slot[kept], start[kept], end[kept]
        first = np.clip(np.searchsorted(self.edges, start, side="right") - 1, 0, PIECES - 1)
        last = np.clip(np.searchsorted(self.edges, end, side="left") - 1, first, PIECES - 1)
        many = last - first + 1
        of = np.repeat(np.arange(len(kept)), many)
        piece = first[of] + np.arange(len(of)) - np.repeat(np.cumsum(many) - many, many)
        inside = np.minimum(end[of], self.edges[piece + 1]) - np.maximum(start[of], self.edges[piece])
        share = np.maximum(inside, 0) / (end - start)[of]
        place = slot[of] * PIECES + piece
        for name, seconds in activities.items():
            of_each = np.bincount(place, seconds[kept][of] * share, self.slots * PIECES).reshape(self.slots, PIECES)
            self.seconds[name] = self.seconds[name] + of_each if name in self.seconds else of_each
