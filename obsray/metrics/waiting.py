"""How long tasks waited: of every task of the cluster once, where both its submission and its run are known.

Owners say when a task was submitted, workers, which may be on other nodes, when it had been dispatched (by the
owner's clock, so that no two clocks are compared). A node counts the tasks that ran where their owner is; the head,
which has the records of all nodes, also counts those that ran elsewhere. A small window per owner remembers
submissions (7 bytes a task); what is told of a run before its submission is held until that has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from obsray.ids import MARK_BYTES, WORKER_ID_BYTES
from obsray.telemetry.columns import Array, Columns, concat
from obsray.telemetry.events import Outcome
from obsray.telemetry.table import SEQUENCE_MAX, _groups

_NS = 1_000_000_000
#: Submission times are kept in steps of 0.1 ms since the first one: 119 hours fit.
_STEP_NS = 100_000
_UNKNOWN = 255
#: Tasks over for longer than this many later ones are forgotten.
_WINDOW_KEPT = 131_072
#: What is told of runs is held for their submission this long at most, and so many at most.
HELD_NS = 60 * _NS
HELD_MAX = 200_000
#: Outcomes of attempts of which no worker told the end.
_SILENT = frozenset({Outcome.WORKER_DIED, Outcome.OOM, Outcome.NODE_DIED})
#: An attempt before this one has ended, and was counted.
_COUNTED = 0
#: Attempts that are remembered to follow another one.
AGAIN_MAX = 100_000


class TaskWindow:
    """For the tasks of each owner: function slot and time of submission, until they are long over."""

    def __init__(self) -> None:
        self.origin_ns = 0
        self._owners: dict[tuple[int, int], _Owner] = {}
        self._kinds: set[int] = set()

    def submit(self, ids: Array, slots: Array, times: Array) -> None:
        if not self.origin_ns and len(times):
            self.origin_ns = int(times.min()) - 60 * _NS
        steps = self._steps(times)
        for owner, part, numbers in self._parts(ids):
            owner.reserve(numbers)
            at = numbers - owner.base
            good = at >= 0
            owner.slots[at[good]] = slots[part][good]
            owner.steps[at[good]] = steps[part][good]

    def ready(self, ids: Array, times: Array) -> None:
        steps = self._steps(times)
        for owner, part, numbers in self._parts(ids):
            at, good = owner.inside(numbers)
            owner.steps[at[good]] = steps[part][good]

    def finish(self, ids: Array, unknown: int) -> Array:
        """The slots of tasks that ended; they may be forgotten from now on."""
        found = self.slots(ids, unknown)
        for owner, _, numbers in self._parts(ids):
            at, good = owner.inside(numbers)
            owner.done[at[good]] = True
            owner.trim()
        return found

    def abandon(self, process: bytes, unknown: int) -> Array:
        """The slots of the tasks of an owner that is gone which have not ended; they are over."""
        found = [np.empty(0, np.int64)]
        first = int.from_bytes(process, "little")
        for owner in (self._owners[first, kind] for kind in self._kinds if (first, kind) in self._owners):
            open_ = np.flatnonzero(~owner.done & (owner.slots != _UNKNOWN))
            found.append(owner.slots[open_].astype(np.int64))
            owner.done[open_] = True
            owner.trim()
        slots: Array = np.concatenate(found)
        slots = slots[slots != unknown]
        return slots

    def waited(self, ids: Array, times: Array, since: Array | None = None) -> Array:
        """Seconds from submission, or from ``since``, to ``times``, once for each task: afterwards, and for tasks that
        are long over, it is below 0. NaN where the submission is not known (yet)."""
        found = np.full(len(ids), np.nan)
        for owner, part, numbers in self._parts(ids):
            at, good = owner.inside(numbers)
            good &= owner.slots[np.where(good, at, 0)] != _UNKNOWN if len(owner.slots) else False
            values = np.where(at < 0, -1.0, np.nan)
            known = at[good]
            born = (
                owner.steps[known].astype(np.int64) * _STEP_NS + self.origin_ns if since is None else since[part][good]
            )
            seconds = np.maximum(times[part][good].astype(np.int64) - born, 0) / _NS
            values[good] = np.where(owner.counted[known], -1.0, seconds)
            owner.counted[known] = True
            found[part] = values
        return found

    def slots(self, ids: Array, unknown: int) -> Array:
        """The function slots of tasks."""
        found = np.full(len(ids), unknown, np.int64)
        for owner, part, numbers in self._parts(ids):
            at, good = owner.inside(numbers)
            values = np.full(len(numbers), unknown, np.int64)
            values[good] = owner.slots[at[good]]
            values[values == _UNKNOWN] = unknown
            found[part] = values
        return found

    def _steps(self, times: Array) -> Array:
        return np.clip((times.astype(np.int64) - self.origin_ns) // _STEP_NS, 0, 0xFFFFFFFF).astype(np.uint32)

    def _parts(self, ids: Array) -> list[tuple[_Owner, Any, Array]]:
        if not len(ids):
            return []
        words = np.ascontiguousarray(ids).view("<u8").reshape(-1, 2)
        packed = words[:, 1].byteswap()
        kinds = packed >> np.uint64(56)
        numbers = (packed & np.uint64((1 << 56) - 1)).astype(np.int64)
        found = []
        for part in _groups(words[:, 0], kinds):
            key = (int(words[:, 0][part][0]), int(kinds[part][0]))
            owner = self._owners.setdefault(key, _Owner())
            self._kinds.add(key[1])
            found.append((owner, part, numbers[part]))
        return found


class _Owner:
    def __init__(self) -> None:
        self.base = 0
        self.slots = np.empty(0, np.uint8)
        self.steps = np.empty(0, np.uint32)
        self.done = np.empty(0, np.bool_)
        #: Whose waiting was counted.
        self.counted = np.empty(0, np.bool_)

    def inside(self, numbers: Array) -> tuple[Array, Array]:
        at = numbers - self.base
        return at, (at >= 0) & (at < len(self.slots))

    def reserve(self, numbers: Array) -> None:
        top = int(numbers.max()) - self.base + 1
        if top <= len(self.slots) or top > SEQUENCE_MAX:
            return
        more = max(top, 2 * len(self.slots), 1024) - len(self.slots)
        self.slots = np.append(self.slots, np.full(more, _UNKNOWN, np.uint8))
        self.steps = np.append(self.steps, np.zeros(more, np.uint32))
        self.done = np.append(self.done, np.zeros(more, np.bool_))
        self.counted = np.append(self.counted, np.zeros(more, np.bool_))

    def trim(self) -> None:
        if len(self.done) < 2 * _WINDOW_KEPT:
            return
        over = len(self.done) if self.done.all() else int(np.argmin(self.done))
        cut = over - _WINDOW_KEPT
        if cut > len(self.done) // 4:
            self.base += cut
            self.slots, self.steps = self.slots[cut:].copy(), self.steps[cut:].copy()
            self.done, self.counted = self.done[cut:].copy(), self.counted[cut:].copy()


class Waiting:
    """From a task's submission to its dispatch."""

    def __init__(self, tasks: TaskWindow) -> None:
        self.tasks = tasks
        #: Whether this node also counts tasks that did not run where their owner is: whether it is the head.
        self.everywhere = False
        self._held: list[Columns] = []
        #: (task, attempt) -> since when that attempt waits, or ``_COUNTED``.
        self._again: dict[tuple[bytes, int], int] = {}

    def retried(self, columns: Columns) -> None:
        """Attempts are followed by others. One whose worker died has told nothing; the next one counts instead."""
        fields = ("attempt", "time_ns", "delay_seconds", "outcome")
        rows = zip(columns["task"], *(columns[name].tolist() for name in fields), strict=True)
        for task, attempt, at, delay, outcome in sorted(rows, key=lambda row: row[1]):
            key = task.tobytes()
            silent = outcome in _SILENT and (not attempt or self._again.get((key, attempt), _COUNTED) != _COUNTED)
            self._again[key, attempt + 1] = at + int(delay * _NS) if silent else _COUNTED
            if len(self._again) > AGAIN_MAX:
                del self._again[next(iter(self._again))]

    def ended(self, columns: Columns | None, own: bool) -> Iterator[tuple[Columns, Array]]:
        """Attempts that ended, on this node (``own``) or on another: those whose waiting is now known, and how long
        it was. Also of such as were told of earlier; with None of those alone."""
        fresh = self._ours(columns, own) if columns is not None else None
        if self._held:
            columns = concat([*self._held, *([fresh] if fresh is not None else [])])
            self._held = []
        else:
            columns = fresh
        if columns is None or not len(columns):
            return
        again = columns["attempt"] > 0
        unknown = []
        for attempts, rows in ((False, np.flatnonzero(~again)), (True, np.flatnonzero(again))):
            if not len(rows):
                continue
            part = columns.take(rows)
            since = self._since(part) if attempts else None
            if since is not None:
                if (unsaid := since < 0).any():
                    unknown.append(part.take(unsaid))
                part, since = part.take(since > _COUNTED), since[since > _COUNTED]
            seconds = self.tasks.waited(part["task"], part["dispatched_at"], since)
            if (missing := np.isnan(seconds)).any():
                unknown.append(part.take(missing))
            if (known := seconds >= 0).any():
                yield part.take(known), seconds[known]
        if unknown:
            self._hold(concat(unknown))

    def _ours(self, columns: Columns, own: bool) -> Columns | None:
        if own and self.everywhere:
            return columns
        here = _marks(columns["task"]) == _marks(columns["process"])
        if own:
            return columns if here.all() else columns.take(here)
        return None if here.all() else columns.take(~here)

    def _since(self, columns: Columns) -> Array:
        """Since when attempts after the first wait; below 0 where nobody has said so yet."""
        keys = zip(columns["task"], columns["attempt"].tolist(), strict=True)
        return np.array([self._again.get((task.tobytes(), attempt), -1) for task, attempt in keys], np.int64)

    def _hold(self, columns: Columns) -> None:
        times = columns["time_ns"].astype(np.int64)
        columns = columns.take(times > int(times.max()) - HELD_NS)
        if len(columns) > HELD_MAX:
            columns = columns.take(np.arange(len(columns) - HELD_MAX, len(columns)))
        self._held = [columns]


def _marks(ids: Array) -> Array:
    """The marks of the nodes where tasks or processes are at home."""
    size = ids.dtype.itemsize
    words = np.ascontiguousarray(ids).view("<u4").reshape(len(ids), size // 4)
    found: Array = words[:, (WORKER_ID_BYTES - MARK_BYTES) // 4]
    return found
