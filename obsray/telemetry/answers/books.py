"""Closed books: every second of every worker slot is assigned to one activity, and idle seconds to what they lacked.

Slots are the worker processes that are there at a time, starting ones included, and beside them every CPU of a living
node for which there is no process. So the sum over all activities is slots x wall time; ``error_ratio`` says how far
off it is (calls that an actor runs beside each other share their slot).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.telemetry.answers.attempts import Attempts, node_of, shares
from obsray.telemetry.answers.gpus import gpu_books
from obsray.telemetry.answers.idle import IDLE, Idle
from obsray.telemetry.answers.offered import offered
from obsray.telemetry.answers.steps import Steps, instants
from obsray.telemetry.answers.verdict import verdict
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]

#: Activity -> what it means.
ACTIVITIES = {
    "run on CPU": "user code ran and used a CPU",
    "run off CPU": "user code ran and waited: I/O, sleep, GPU, locks",
    "fetch": "arguments were brought or mapped",
    "deserialise": "functions and arguments became Python objects, with the imports that they need",
    "store": "results were written",
    "waiting for room": "the object store was full: something had to be spilled or freed first",
    "blocked in get": "a task waited for values of others; its CPU was lent",
    "unfinished": "tasks that have not ended, or whose process died before they did",
    "overhead": "between the parts of a task",
    "starting": "processes started",
    "other jobs": "tasks of other jobs ran",
    "no process": "a CPU for which there was no process",
    **IDLE,
}
_PARTS = ("run on CPU", "run off CPU", "fetch", "deserialise", "store", "waiting for room", "blocked in get",
          "unfinished", "overhead")  # fmt: skip


def books(view: Views, job: int | None = None, refresh: bool = True) -> Row:
    """The books of a session, or of one job from its beginning to its end. Raises LookupError for an unknown job.

    ``activities``: seconds and share of each of ``ACTIVITIES``; ``functions`` and ``jobs``: seconds of their tasks by
    activity; ``slot_seconds``, ``wall_seconds``, ``error_ratio``; ``more_workers``: would they help, and why; ``gpus``:
    the books of all GPUs (``gpus.py``), None without any.
    """
    if refresh:
        view.refresh()
    begin, end = window(view, job)
    attempts = Attempts(view)
    slots = Slots(view, begin, end)
    tasks = task_seconds(view, attempts, slots, begin, end)
    totals = {name: float(seconds.sum()) for name, seconds in tasks.items()}
    if job is not None:
        mine = view.task_table["job"][attempts.row] == job
        totals = {name: float(seconds[mine].sum()) for name, seconds in tasks.items()}
        totals["other jobs"] = float(sum(seconds[~mine].sum() for seconds in tasks.values()))
    else:
        mine = np.ones(len(attempts), np.bool_)
    idle = Idle(view, begin, end)
    totals["starting"] = float(slots.starting().sum())
    for name, seconds in idle.seconds(*slots.gaps(attempts)).items():
        totals[name] = totals.get(name, 0.0) + seconds
    totals["no process"], cpus = slots.without_process()
    slot_seconds = float(slots.lifetimes().sum()) + totals["no process"]
    wall = (end - begin) / NS
    booked = sum(totals.values())
    found: Row = {
        "job_id": None if job is None else f"{job:08x}",
        "from_ns": begin,
        "to_ns": end,
        "wall_seconds": wall,
        "slots": slot_seconds / wall if wall else 0.0,
        "cpus": cpus,
        "slot_seconds": slot_seconds,
        "booked_seconds": booked,
        "error_ratio": abs(booked - slot_seconds) / slot_seconds if slot_seconds else 0.0,
        "activities": [
            {
                "activity": name, "seconds": totals[name], "what": ACTIVITIES[name],
                "share": totals[name] / slot_seconds if slot_seconds else 0.0,
            }
            for name in ACTIVITIES if totals.get(name)
        ],
        "functions": _by(view.store.texts.texts, attempts.name, tasks, mine, attempts),
        "jobs": _by(None, view.task_table["job"][attempts.row].astype(np.int64), tasks, mine, attempts),
        "waiting": idle.waiting(cpus),
    }  # fmt: skip
    found["more_workers"] = verdict(found)
    found["gpus"] = gpu_books(view, begin, end, job)
    return found


def window(view: Views, job: int | None) -> tuple[int, int]:
    """From when to when the books of a job, or of the whole session, go. Raises LookupError for an unknown job."""
    now = view.now_ns()
    if job is None:
        first = [row["started_at_ns"] for row in view.cluster_table.jobs.values() if row["started_at_ns"]]
        begin = min(first, default=view.samples.first_at_ns)
        return begin, max(now, begin)
    row = view.cluster_table.jobs.get(job)
    if row is None or not row["started_at_ns"]:
        known = ", ".join(f"{number:08x}" for number in sorted(view.cluster_table.jobs)) or "none"
        raise LookupError(f"no job {job:08x}; there are: {known}")
    return row["started_at_ns"], max(row["ended_at_ns"] or now, row["started_at_ns"])


class Slots:
    """The worker processes of a session within a window."""

    def __init__(self, view: Views, begin: int, end: int) -> None:
        self.view, self.begin, self.end = view, begin, end
        rows = [
            (process, row) for process, row in view.process_table.rows.items()
            if row["kind"] == "worker" and (row["registered_at_ns"] or row["starting_at_ns"])
        ]  # fmt: skip
        self.processes = [process for process, _ in rows]
        self.number = {process: at for at, process in enumerate(self.processes)}
        gone = [self._gone(process, row) for process, row in rows]
        born = [row["starting_at_ns"] or row["registered_at_ns"] for _, row in rows]
        self.gone = np.clip(np.array(gone, np.int64), begin, end)
        self.born = np.clip(np.array(born, np.int64), begin, self.gone) if rows else self.gone
        ready = [row["registered_at_ns"] or one for (_, row), one in zip(rows, gone, strict=True)]
        self.ready = np.clip(np.array(ready, np.int64), self.born, self.gone) if rows else self.gone

    def _gone(self, process: bytes, row: Row) -> int:
        node = self.view.cluster_table.nodes.get(node_of(self.view, process)) or {}
        return int(row["died_at_ns"] or row["closed_at_ns"] or node.get("stopped_at_ns") or self.end)

    def lifetimes(self) -> Array:
        found: Array = (self.gone - self.born) / NS
        return found

    def starting(self) -> Array:
        found: Array = (self.ready - self.born) / NS
        return found

    def numbers(self, processes: Array) -> Array:
        """The slot of each process, -1 for what is no worker."""
        words, back = np.unique(np.ascontiguousarray(processes).view("<u8"), return_inverse=True)
        known = np.array([self.number.get(int(word).to_bytes(8, "little"), -1) for word in words], np.int64)
        found: Array = known[back.ravel()] if len(words) else np.empty(0, np.int64)
        return found

    def clipped(self, attempts: Attempts) -> tuple[Array, Array, Array]:
        """Slot, start and end of each attempt inside of its worker's time."""
        slot = self.numbers(attempts.process)
        inside = np.maximum(slot, 0)
        low = self.ready[inside] if len(self.ready) else np.zeros(len(slot), np.int64)
        high = self.gone[inside] if len(self.gone) else low
        start = np.clip(attempts.start, low, high)
        end = np.clip(attempts.end, start, high)
        return slot, np.where(slot >= 0, start, 0), np.where(slot >= 0, end, 0)

    def gaps(self, attempts: Attempts) -> tuple[Array, Array, Array]:
        """Where no task ran on a worker that was there: starts, ends, and kinds (0 free, 1 leased, 2 an actor's);
        ``gap_slots`` are then their slots."""
        slot, start, end = self.clipped(attempts)
        order = np.lexsort((start, slot))
        slot, start, end = slot[order], start[order], end[order]
        edges = np.searchsorted(slot, np.arange(len(self.processes) + 1))
        leases = _leases(self.view, self.number, self.end)
        found: list[tuple[Array, Array, Array]] = []
        for number, process in enumerate(self.processes):
            mine = slice(edges[number], edges[number + 1])
            covered = np.maximum.accumulate(end[mine]) if edges[number + 1] > edges[number] else end[mine]
            low = np.concatenate([[self.ready[number]], covered])
            high = np.concatenate([start[mine], [self.gone[number]]])
            real = high > low
            low, high = low[real], high[real]
            if self.view.process_table.rows[process]["actor_id"]:
                found.append((low, high, np.full(len(low), 2)))
            else:
                found.append(_split(low, high, leases.get(number, [])))
        self.gap_slots = np.empty(0, np.int64)
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
        starts, ends, kinds = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self.gap_slots = np.repeat(np.arange(len(found)), [len(low) for low, _, _ in found])
        return starts, ends, kinds

    def without_process(self) -> tuple[float, float]:
        """Seconds of CPUs for which there was no process, and how many CPUs there were."""
        total, seconds = 0.0, 0.0
        # A session without a record of its node had one nevertheless.
        known = offered(self.view)
        nodes: dict[bytes, Row] = self.view.cluster_table.nodes or {b"": {}}
        for node, row in nodes.items():
            cpus = known.get(node, {}).get("CPU", 0.0)
            if not cpus:
                continue
            begin = max(self.begin, row.get("started_at_ns") or self.begin)
            end = min(self.end, row.get("stopped_at_ns") or self.end)
            here = np.array([node_of(self.view, process) == node for process in self.processes], np.bool_)
            there = Steps.of_intervals(self.born[here], self.gone[here]) if here.any() else Steps(*_nothing())
            total += cpus
            times = np.concatenate([[begin], there.times[(there.times > begin) & (there.times < end)], [end]])
            lengths = np.diff(times) / NS
            seconds += float((lengths * np.maximum(cpus - there.at(times[:-1]), 0)).sum())
        return seconds, total


def _nothing() -> tuple[Array, Array]:
    return np.empty(0, np.int64), np.empty(0, np.int64)


def _leases(view: Views, number: dict[bytes, int], end: int) -> dict[int, list[tuple[int, int]]]:
    """For each slot the intervals in which somebody held a lease of it."""
    begun: dict[bytes, list[int]] = {}
    over: dict[bytes, list[int]] = {}
    for event, into in (("lease_decided", begun), ("lease_returned", over)):
        for columns in view.store.select(event):
            kept = columns["lease"] > 0 if event == "lease_decided" else np.ones(len(columns), np.bool_)
            for process, at in zip(columns["worker"][kept], columns["time_ns"][kept].tolist(), strict=True):
                into.setdefault(process.tobytes(), []).append(at)
    found: dict[int, list[tuple[int, int]]] = {}
    for process, starts in begun.items():
        ends = sorted(over.get(process, []))
        if process in number:
            held = [(at, next((one for one in ends if one >= at), end)) for at in sorted(starts)]
            found[number[process]] = held
    return found


def _split(low: Array, high: Array, leases: list[tuple[int, int]]) -> tuple[Array, Array, Array]:
    """Gaps of one worker, cut where a lease of it begins or ends."""
    if not leases or not len(low):
        return low, high, np.zeros(len(low), np.int64)
    edges = instants(low, high, np.array(leases, np.int64).ravel())
    start, end = edges[:-1], edges[1:]
    at = np.searchsorted(low, start, side="right") - 1
    inside = (at >= 0) & (start < high[np.maximum(at, 0)])
    start, end = start[inside], end[inside]
    held = Steps.of_intervals(*np.array(leases, np.int64).T).at(start) > 0
    return start, end, held.astype(np.int64)


def task_seconds(view: Views, attempts: Attempts, slots: Slots, begin: int, end: int) -> dict[str, Array]:
    """Per activity the seconds of each attempt inside of the window, in its own share of its slot."""
    slot, start, stop = slots.clipped(attempts)
    length = (attempts.end - attempts.start) / NS
    inside = np.where(slot >= 0, (stop - start) / NS, 0.0)
    share = shares(slot, start, stop)
    scale = share * np.where(length > 0, inside / np.maximum(length, 1e-12), 0.0)
    room = np.minimum(_waited_for_room(view, attempts), attempts.blocked)
    parts = {
        "run on CPU": attempts.cpu, "run off CPU": attempts.run - attempts.cpu, "fetch": attempts.fetch,
        "deserialise": attempts.deserialize, "store": attempts.store, "waiting for room": room,
        "blocked in get": attempts.blocked - room,
    }  # fmt: skip
    told = np.sum([np.where(attempts.open, 0.0, seconds) for seconds in parts.values()], axis=0)
    found = {name: np.where(attempts.open, 0.0, seconds) * scale for name, seconds in parts.items()}
    found["unfinished"] = np.where(attempts.open, length, 0.0) * scale
    found["overhead"] = np.where(attempts.open, 0.0, np.maximum(length - told, 0.0)) * scale
    return found


def _waited_for_room(view: Views, attempts: Attempts) -> Array:
    """Seconds in which attempts waited for room in the store."""
    found = np.zeros(len(view.task_table) + 1)
    for columns in view.store.select("task_unblocked", lambda columns: columns["waiting_in"] == 2):
        rows = view.task_table.index.rows(columns["task"], create=False)
        np.add.at(found, rows[rows >= 0], columns["blocked_seconds"][rows >= 0].astype(np.float64))
    return found[attempts.row]


def _by(texts: list[str] | None, codes: Array, tasks: dict[str, Array], mine: Array, attempts: Attempts) -> list[Row]:
    """Sums of the seconds by a code of each attempt, most first."""
    if not len(codes) or not mine.any():
        return []
    count = int(codes.max()) + 1
    kept = codes[mine]
    sums = {name: np.bincount(kept, seconds[mine], count) for name, seconds in tasks.items()}
    total = np.sum(list(sums.values()), axis=0)
    runs = np.bincount(kept, minlength=count)
    wasted = np.bincount(kept, np.where((attempts.outcome > 0) & ~attempts.open, attempts.run, 0.0)[mine], count)
    found = []
    for code in np.argsort(total)[::-1].tolist():
        if not runs[code]:
            continue
        found.append(
            {
                ("name" if texts else "job_id"): texts[code] if texts else f"{code:08x}",
                "attempts": int(runs[code]), "seconds": float(total[code]), "failed_seconds": float(wasted[code]),
                "activities": {name: float(sums[name][code]) for name in _PARTS if sums[name][code] > 0},
            }
        )  # fmt: skip
    return found
