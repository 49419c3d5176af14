"""The table of tasks: one row per task, folded from what its owner and its workers recorded.

Records of different processes arrive in any order, so each field of a row is set by rules that do not depend on it:
what an attempt recorded replaces what an earlier attempt recorded; the owner's word on the end of a task is the
truth; times only move forward. The state is derived from the fields when somebody asks, and only again for rows that
were touched or are not over.

Costs (one core): about 0.3 us to fold one record, 266 bytes a task; a page of one million rows a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from obsray.telemetry.columns import Array, Batch, Columns, Texts
from obsray.telemetry.events import Outcome, TaskType
from obsray.telemetry.runs import each, expand
from obsray.telemetry.store import Running
from obsray.telemetry.table import DenseIndex, Grid, HashIndex

#: Display states, by number.
STATES = (
    "PENDING_ARGS_AVAIL",
    "PENDING_NODE_ASSIGNMENT",
    "SUBMITTED_TO_WORKER",
    "RUNNING",
    "RUNNING_IN_RAY_GET",
    "FINISHED",
    "FAILED",
    "CANCELLED",
)
WAITING_ARGUMENTS, QUEUED, DISPATCHED, RUNNING, BLOCKED, FINISHED, FAILED, CANCELLED = range(len(STATES))

#: So many rows are made in advance at most: attempts may be many more than tasks.
ROWS_EXPECTED_MAX = 1 << 22
#: No outcome yet.
OPEN = 255

SPEC: dict[str, tuple[str, Any]] = {
    "id": ("V16", 0),
    "parent": ("V16", 0),
    "trace": ("V16", 0),
    "actor": ("V16", 0),
    "name": ("<i4", 0),
    "shape": ("<i4", 0),
    "job": ("<u4", 0),
    "type": ("u1", 0),
    "arguments": ("<u2", 0),
    "unready": ("<u2", 0),
    "retries_max": ("<i4", 0),
    "argument_bytes": ("<u4", 0),
    "submitted_at": ("<i8", 0),
    "ready_at": ("<i8", 0),
    "dispatched_at": ("<i8", 0),
    "arrived_at": ("<i8", 0),
    "started_at": ("<i8", 0),
    "ended_at": ("<i8", 0),
    "finished_at": ("<i8", 0),
    "retried_at": ("<i8", 0),
    "recalled_at": ("<i8", 0),
    "blocked_at": ("<i8", 0),
    "unblocked_at": ("<i8", 0),
    "waiting_at": ("<i8", 0),
    "started_attempt": ("<i2", -1),
    "ended_attempt": ("<i2", -1),
    "finished_attempt": ("<i2", -1),
    "retried_attempt": ("<i2", -1),
    "worker_outcome": ("u1", OPEN),
    "owner_outcome": ("u1", OPEN),
    "fetch_seconds": ("<f4", 0),
    "deserialize_seconds": ("<f4", 0),
    "run_seconds": ("<f4", 0),
    "store_seconds": ("<f4", 0),
    "cpu_seconds": ("<f4", 0),
    "blocked_seconds": ("<f4", 0),
    "result_bytes": ("<u8", 0),
    "error": ("<i4", 0),
    "worker": ("<i4", -1),
    "lease": ("<u4", 0),
    "items": ("<u4", 0),
    "labels": ("<i4", 0),
    "state": ("u1", QUEUED),
}

DISPATCH_SPEC: dict[str, tuple[str, Any]] = {
    "time": ("<i8", 0),
    "owner": ("<u8", 0),
    "shape": ("<i4", 0),
    "worker": ("<i4", -1),
    "lease": ("<u4", 0),
    "tasks": ("<u4", 0),
    "reason": ("u1", 0),
    "first": ("<i8", 0),
}

_DURATIONS = (
    "fetch_seconds", "deserialize_seconds", "run_seconds", "store_seconds", "cpu_seconds", "blocked_seconds",
)  # fmt: skip
_WORKER_TIMES = ("dispatched_at", "arrived_at", "started_at")


class Ends(Protocol):
    """Who has ended: when (nanoseconds since the epoch), and what to say of that; None for what lives."""

    def process_end(self, process: bytes) -> tuple[int, str] | None: ...

    def actor_end(self, actor: bytes) -> tuple[int, str] | None: ...


class TaskTable:
    """All tasks of a session. ``update`` folds new records; ``derive`` brings states up to date."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.index = DenseIndex()
        self.grid = Grid(SPEC)
        self.workers = HashIndex()
        self.dispatches = Grid(DISPATCH_SPEC)
        self._touched: list[Array] = []
        self._open = np.empty(0, np.int64)
        self._folds = {
            "task_submitted": self._submitted,
            "task_ready": self._ready,
            "task_arguments_waiting": self._waiting,
            "argument_lost": self._recalled,
            "tasks_dispatched": self._dispatched,
            "task_started": self._started,
            "task_ended": self._ended,
            "task_finished": self._finished,
            "tasks_finished": self._finished_run,
            "task_retried": self._retried,
            "task_recalled": self._recalled,
            "task_blocked": self._blocked,
            "task_unblocked": self._unblocked,
            "task_item_yielded": self._yielded,
            "task_labelled": self._labelled,
        }

    def __len__(self) -> int:
        return self.grid.count

    def __getitem__(self, name: str) -> Array:
        return self.grid[name]

    def expect(self, stored: dict[str, int]) -> None:
        """Records of so many of each kind will come."""
        self.grid.expect(min(stored.get("task_submitted", 0) + stored.get("task_ended", 0), ROWS_EXPECTED_MAX))

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        batch = each(batch)
        for event, fold in self._folds.items():
            columns = batch.get(event)
            if columns is not None and len(columns):
                fold(columns)

    # --- folds --------------------------------------------------------------------------------------------

    def _rows(self, ids: Array) -> tuple[Array, Array]:
        """Rows of ids, and a mask of those that have one (all but damaged ids)."""
        rows = self.index.rows(ids)
        before = self.grid.count
        self.grid.grow(self.index.count)
        good = rows >= 0
        new = good & (rows >= before)
        if new.any():
            self.grid["id"][rows[new]] = ids[new]
        self._touched.append(rows[good])
        return rows, good

    def _submitted(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        if not good.all():
            columns, rows = columns.take(good), rows[good]
        grid, rows = self.grid, _span(rows)
        grid["submitted_at"][rows] = columns["time_ns"]
        for name in ("parent", "trace", "actor", "name", "shape", "job", "arguments", "type", "retries_max"):
            grid[name][rows] = columns[name]
        grid["argument_bytes"][rows] = columns["argument_bytes"]
        grid["unready"][rows] = columns["unready_arguments"]

    def _ready(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        self.grid["ready_at"][rows[good]] = columns["time_ns"][good]

    def _waiting(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        np.maximum.at(self.grid["waiting_at"], rows[good], columns["time_ns"][good].astype(np.int64))

    def _dispatched(self, columns: Columns) -> None:
        start = self.dispatches.count
        self.dispatches.grow(start + len(columns))
        words = np.ascontiguousarray(columns["first_task"]).view("<u8").reshape(-1, 2)
        log = self.dispatches
        log["time"][start:] = columns["time_ns"]
        log["owner"][start:] = words[:, 0]
        log["first"][start:] = (words[:, 1].byteswap() & np.uint64((1 << 56) - 1)).astype(np.int64)
        log["worker"][start:] = self.workers.rows(columns["worker"])
        for name in ("shape", "lease", "tasks", "reason"):
            log[name][start:] = columns[name]

    def _attempt(self, columns: Columns, kept: str) -> tuple[Array, Columns]:
        """Rows and records of an attempt event, without those older than what the row knows, in attempt order."""
        rows, good = self._rows(columns["task"])
        attempts = columns["attempt"].astype(np.int16)
        good &= attempts >= self.grid[kept][rows]
        if attempts.any():
            order = np.argsort(attempts, kind="stable")
            order = order[good[order]]
            return rows[order], columns.take(order)
        return (rows, columns) if good.all() else (rows[good], columns.take(good))

    def _started(self, columns: Columns) -> None:
        rows, columns = self._attempt(columns, "started_attempt")
        grid = self.grid
        grid["started_attempt"][rows] = columns["attempt"]
        fresh = columns["attempt"].astype(np.int16) > grid["ended_attempt"][rows]
        rows, columns = rows[fresh], columns.take(fresh)
        grid["worker"][rows] = self.workers.rows(columns["process"])
        leased = columns["lease"] > 0
        grid["lease"][rows[leased]] = columns["lease"][leased]
        self._names(rows, columns)
        for name in _WORKER_TIMES:
            grid[name][rows] = columns[name]

    def _ended(self, columns: Columns) -> None:
        rows, columns = self._attempt(columns, "ended_attempt")
        grid = self.grid
        grid["ended_attempt"][rows] = columns["attempt"]
        grid["ended_at"][rows] = columns["time_ns"]
        grid["worker_outcome"][rows] = columns["outcome"]
        grid["worker"][rows] = _repeated(self.workers, columns["process"])
        grid["lease"][rows] = columns["lease"]
        self._names(rows, columns)
        for name in (*_WORKER_TIMES, *_DURATIONS):
            grid[name][rows] = columns[name]
        sized = columns["result_bytes"] > 0
        grid["result_bytes"][rows[sized]] = columns["result_bytes"][sized]

    def _names(self, rows: Array, columns: Columns) -> None:
        """A worker knows name and actor too; they count where the owner's record is missing."""
        unknown = self.grid["submitted_at"][rows] == 0
        if unknown.any():
            self.grid["name"][rows[unknown]] = columns["name"][unknown]
            self.grid["actor"][rows[unknown]] = columns["actor"][unknown]

    def _finished(self, columns: Columns) -> None:
        rows, columns = self._attempt(columns, "finished_attempt")
        grid = self.grid
        grid["finished_attempt"][rows] = columns["attempt"]
        grid["finished_at"][rows] = columns["time_ns"]
        grid["owner_outcome"][rows] = columns["outcome"]
        grid["error"][rows] = columns["error"]
        sized = columns["result_bytes"] > 0
        grid["result_bytes"][rows[sized]] = columns["result_bytes"][sized]

    def _finished_run(self, columns: Columns) -> None:
        ids, lengths = expand(columns["first_task"], columns["tasks"])
        rows, good = self._rows(ids)
        times = np.repeat(columns["time_ns"], lengths)[good]
        rows = _span(rows[good])
        grid = self.grid
        grid["finished_at"][rows] = times
        grid["owner_outcome"][rows] = int(Outcome.OK)
        grid["finished_attempt"][rows] = np.maximum(grid["finished_attempt"][rows], 0)

    def _retried(self, columns: Columns) -> None:
        rows, columns = self._attempt(columns, "retried_attempt")
        grid = self.grid
        grid["retried_attempt"][rows] = columns["attempt"]
        grid["retried_at"][rows] = columns["time_ns"]
        grid["error"][rows] = columns["error"]

    def _recalled(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        self.grid["recalled_at"][rows[good]] = columns["time_ns"][good]

    def _blocked(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        np.maximum.at(self.grid["blocked_at"], rows[good], columns["time_ns"][good].astype(np.int64))

    def _unblocked(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        np.maximum.at(self.grid["unblocked_at"], rows[good], columns["time_ns"][good].astype(np.int64))

    def _yielded(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        np.maximum.at(self.grid["items"], rows[good], columns["item"][good] + np.uint32(1))

    def _labelled(self, columns: Columns) -> None:
        rows, good = self._rows(columns["task"])
        self.grid["labels"][rows[good]] = columns["labels"][good]

    # --- states -------------------------------------------------------------------------------------------

    def derive(self, running: Iterable[Running] = (), ends: Ends | None = None) -> None:
        """Bring ``state`` up to date; ``running`` is what processes run now, out of their black boxes, ``ends`` says
        which processes have ended."""
        marked = np.zeros(self.grid.count, np.bool_)
        for rows in (self._open, *self._touched):
            marked[rows] = True
        self._touched.clear()
        rows = np.flatnonzero(marked)
        if len(rows):
            # Of all rows columns are taken as they are, of some they are copied.
            self._derive(rows, slice(None) if len(rows) == len(marked) else rows)
            self._open = rows[self.grid["state"][rows] < FINISHED]
        self._overlay(running)
        if ends is not None and len(self._open):
            self._end_with_owners(self._open, ends)
            self._open = self._open[self.grid["state"][self._open] < FINISHED]

    def _end_with_owners(self, rows: Array, ends: Ends) -> None:
        """Open tasks whose owner has ended are over: those that waited, with it; those that ran, with their worker.

        What workers say later still counts: it is derived anew then.
        """
        grid = self.grid
        owners = np.ascontiguousarray(grid["id"][rows]).view("<u8").reshape(-1, 2)[:, 0]
        times, whys = _looked_up(owners, lambda owner: ends.process_end(owner.to_bytes(8, "little")), self.texts)
        gone = np.flatnonzero(times)
        if not len(gone):
            return
        rows, times, whys = rows[gone], times[gone], whys[gone]
        making = grid["type"][rows] == TaskType.ACTOR_CREATION
        if making.any():
            times[making], whys[making] = self._ends_of_actors(rows[making], ends)
        runs = np.isin(grid["state"][rows], (RUNNING, BLOCKED)) & ~making
        if runs.any():
            had = self.workers.ids
            ended, _ = _looked_up(
                grid["worker"][rows[runs]], lambda row: ends.process_end(had[row]) if row >= 0 else None, self.texts
            )
            times[runs] = np.where(ended > 0, np.maximum(ended, times[runs]), 0)
        over = times > 0
        rows, times, whys = rows[over], times[over], whys[over]
        grid["state"][rows] = FAILED
        # The others have failed already, and their owner did not live to try them again.
        mine = grid["ended_attempt"][rows] <= grid["retried_attempt"][rows]
        rows = rows[mine]
        grid["owner_outcome"][rows] = Outcome.OWNER_DIED
        grid["finished_at"][rows], grid["error"][rows] = times[mine], whys[mine]
        grid["finished_attempt"][rows] = self.attempt(rows)

    def _ends_of_actors(self, rows: Array, ends: Ends) -> tuple[Array, Array]:
        found = [ends.actor_end(actor.tobytes()) or (0, "") for actor in self.grid["actor"][rows]]
        return np.array([at for at, _ in found], np.int64), self.texts.codes(why for _, why in found)

    def _derive(self, rows: Array, where: Any) -> None:
        """``where``: the same rows."""
        grid = self.grid
        concluded = rows[grid["owner_outcome"][where] == Outcome.OWNER_DIED]
        grid["owner_outcome"][concluded] = OPEN
        grid["finished_at"][concluded] = grid["error"][concluded] = 0
        get = {name: grid[name][where] for name in _STATE_COLUMNS}
        owner, worker = get["owner_outcome"], get["worker_outcome"]
        retried, finished = get["retried_attempt"], get["finished_attempt"]
        # A finished task runs again if its result was lost.
        over = (owner != OPEN) & ~((retried >= finished) & (get["retried_at"] > get["finished_at"]))
        current = retried + 1
        # Again, if an argument that was there is lost.
        waits = (get["unready"] > 0) & (get["ready_at"] == 0) | (get["waiting_at"] > get["ready_at"])
        state = np.where(waits, WAITING_ARGUMENTS, QUEUED).astype(np.uint8)
        started = (get["started_attempt"] >= current) & (get["started_attempt"] > get["ended_attempt"])
        started &= ~(waits & (get["waiting_at"] > get["started_at"]))
        state[started] = RUNNING
        state[started & (get["blocked_at"] > get["unblocked_at"]) & (get["blocked_at"] >= get["started_at"])] = BLOCKED
        ended = (get["ended_attempt"] >= current) & ~over
        state[ended & (worker == Outcome.OK)] = FINISHED
        state[ended & (worker == Outcome.CANCELLED)] = CANCELLED
        broken = ended & (worker != Outcome.OK) & (worker != Outcome.CANCELLED)
        last_try = (get["retries_max"] >= 0) & (get["ended_attempt"] >= get["retries_max"])
        state[broken] = np.where(last_try[broken], FAILED, DISPATCHED)
        state[over & (owner == Outcome.OK)] = FINISHED
        state[over & (owner == Outcome.CANCELLED)] = CANCELLED
        state[over & (owner != Outcome.OK) & (owner != Outcome.CANCELLED)] = FAILED
        grid["state"][where] = state
        queued = rows[state == QUEUED]
        if len(queued) and self.dispatches.count:
            self._dispatch_states(queued)
        self._settle_clocks(rows, where)

    def _settle_clocks(self, rows: Array, where: Any) -> None:
        """Move the times of attempts on other nodes so that none begins before it was sent or ends after it is known.

        Clocks of two nodes are known to a fraction of a millisecond, and messages are quicker than that.
        """
        grid = self.grid
        sent, arrived, started, ended, known = (
            grid[name][where] for name in ("dispatched_at", "arrived_at", "started_at", "ended_at", "finished_at")
        )
        # Few are to be moved: of the others nothing is computed.
        moved = np.flatnonzero(((arrived > 0) & (sent > arrived)) | ((known > 0) & (ended > known)))
        if not len(moved):
            return
        rows = rows[moved]
        sent, arrived, started, ended, known = (values[moved] for values in (sent, arrived, started, ended, known))
        over = (ended > 0) & (grid["ended_attempt"][rows] >= grid["started_attempt"][rows])
        same = over & (known > 0) & (grid["finished_attempt"][rows] == grid["ended_attempt"][rows])
        early = np.where((arrived > 0) & (sent > 0), np.maximum(sent - arrived, 0), 0)
        late = np.where(same, np.minimum(known - (ended + early), 0), 0)
        shift = np.where(over, early + late, early)
        grid["arrived_at"][rows] = np.where(arrived > 0, arrived + shift, 0)
        grid["started_at"][rows] = np.where(started > 0, started + shift, 0)
        grid["ended_at"][rows] = np.where(over, ended + shift, ended)

    def _dispatch_states(self, queued: Array) -> None:
        """Which queued tasks are in a batch that was pushed to a worker.

        A batch names its first task and how many; the others are the next ones of the same owner and shape.
        """
        grid, log = self.grid, self.dispatches
        words = np.ascontiguousarray(grid["id"][queued]).view("<u8").reshape(-1, 2)
        owners, shapes = words[:, 0], grid["shape"][queued]
        pairs = set(zip(owners.tolist(), shapes.tolist(), strict=True))
        all_sequences = (words[:, 1].byteswap() & np.uint64((1 << 56) - 1)).astype(np.int64)
        for owner, shape in pairs:
            batches = np.flatnonzero((log["owner"] == owner) & (log["shape"] == shape))
            if not len(batches):
                continue
            batches = batches[np.argsort(log["first"][batches], kind="stable")]
            wanted = (owners == owner) & (shapes == shape)
            chosen, sequences = queued[wanted], all_sequences[wanted]
            at = np.searchsorted(log["first"][batches], sequences, side="right") - 1
            inside = at >= 0
            if not inside.any():
                continue
            chosen, sequences, at = chosen[inside], sequences[inside], batches[at[inside]]
            # Of the owner's tasks only those that may be in these batches: they may be millions.
            numbers, rows = self.index.since(owner, int(log["first"][at].min()))
            order = np.sort(numbers[grid["shape"][rows] == shape])
            rank = np.searchsorted(order, sequences) - np.searchsorted(order, log["first"][at])
            since = np.maximum(np.maximum(grid["retried_at"][chosen], grid["recalled_at"][chosen]), 0)
            pushed = (rank < log["tasks"][at]) & (log["time"][at] > since)
            chosen, at = chosen[pushed], at[pushed]
            grid["state"][chosen] = DISPATCHED
            grid["dispatched_at"][chosen] = log["time"][at]
            grid["worker"][chosen] = log["worker"][at]
            grid["lease"][chosen] = log["lease"][at]

    def _overlay(self, running: Iterable[Running]) -> None:
        for now in running:
            row = self.index.row(now.task)
            if row < 0 or self.grid["state"][row] >= FINISHED:
                continue
            if now.attempt <= max(self.grid["ended_attempt"][row], self.grid["retried_attempt"][row]):
                continue
            if self.grid["state"][row] != BLOCKED:
                blocked = self.grid["blocked_at"][row]
                inside = blocked > self.grid["unblocked_at"][row] and blocked >= now.started_at_ns
                self.grid["state"][row] = BLOCKED if inside else RUNNING
            self.grid["started_at"][row] = now.started_at_ns
            self.grid["worker"][row] = self.workers.add(now.process)
            if not self.grid["name"][row]:
                self.grid["name"][row] = self.texts.code(now.name)

    @property
    def open_rows(self) -> Array:
        """Rows of tasks that are not over, as of the last ``derive``."""
        return self._open

    def attempt(self, rows: Array) -> Array:
        """The number of the current or last attempt."""
        grid = self.grid
        best = np.maximum(grid["started_attempt"][rows], grid["ended_attempt"][rows])
        best = np.maximum(best, grid["finished_attempt"][rows])
        found: Array = np.maximum(np.maximum(best, grid["retried_attempt"][rows] + 1), 0)
        return found


_STATE_COLUMNS = (
    "owner_outcome", "worker_outcome", "retried_attempt", "finished_attempt", "retried_at", "finished_at", "unready",
    "ready_at", "started_attempt", "ended_attempt", "blocked_at", "unblocked_at", "started_at", "retries_max",
    "waiting_at",
)  # fmt: skip


def _looked_up(keys: Array, look: Callable[[int], tuple[int, str] | None], texts: Texts) -> tuple[Array, Array]:
    """For each of many keys, of which few differ, the time (0: none) and the code of the text that ``look`` gives."""
    different, back = np.unique(keys, return_inverse=True)
    found = [look(key) or (0, "") for key in different.tolist()]
    times = np.array([at for at, _ in found] or [0], np.int64)
    return times[back.ravel()], texts.codes(why for _, why in found)[back.ravel()]


def _span(rows: Array) -> Any:
    """Rows that follow one another as a slice: values are then copied as a block."""
    if len(rows) > 1 and rows[-1] - rows[0] == len(rows) - 1 and (rows[1:] > rows[:-1]).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _repeated(index: HashIndex, ids: Array) -> Array:
    """Rows of ids of which many in a row are equal."""
    if not len(ids):
        return np.empty(0, np.int64)
    words = np.ascontiguousarray(ids).view("<u8")
    starts = np.concatenate([[0], np.flatnonzero(words[1:] != words[:-1]) + 1])
    return np.repeat(index.rows(ids[starts]), np.diff(np.append(starts, len(ids))))
