"""Where the time of every GPU went, piece by piece: what it ran or, where it ran nothing, why not.

A GPU's time is cut wherever something begins or ends: work on it, a task, a wait, what a worker reads or writes,
whoever holds it. Each piece has one activity, so the pieces of a GPU add up to the time in which it was there.

Why a GPU idles inside of a task follows from the launches, of which the time is recorded. Work that was asked for after
the GPU had run dry (the host is behind) is told from work that had been asked for before (the GPU itself had a reason
to wait). Until then the host waited for the GPU, read its input, launched one piece of work after the other, or did
none of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.gpu.words import WaitingFor
from obsray.telemetry.answers.attempts import Attempts, node_of
from obsray.telemetry.answers.steps import Steps, instants
from obsray.telemetry.events import WaitKind
from obsray.telemetry.gpu_work import Reservation, is_communication
from obsray.telemetry.store import joined

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

#: Activity of a GPU -> what it means.
ACTIVITIES = {
    "compute": "kernels ran",
    "communication": "only kernels ran that exchange data with other GPUs (NCCL)",
    "copy": "only copies and fills of memory ran",
    "idle: launch-bound": "the host launched one piece of work after the other, more slowly than the GPU was done",
    "idle: synchronising": "the host waited until the GPU was done, so that nothing was queued when it was",
    "idle: waiting for input": "the task fetched or unpacked arguments, or waited in get() for values of others",
    "idle: storing results": "the task wrote its results",
    "idle: nothing submitted": "the task's code did something else: computed on the CPU, read, slept",
    "idle: between kernels": "work was queued: the GPU changed over, or waited for another stream or GPU",
    "idle: no task": "a worker held it, and no task ran there",
    "idle: actor without calls": "an actor held it and had no call to run",
    "idle: bundle without work": "a placement group held it, and no worker used its bundle",
    "not observed": "a task ran in a worker whose GPU work is not captured",
    "not reserved": "nobody had asked for it",
}
NAMES = list(ACTIVITIES)
(COMPUTE, COMMUNICATION, COPY, LAUNCHES, SYNCHRONISES, INPUT, STORES, NOTHING, BETWEEN, NO_TASK, NO_CALLS, BUNDLE,
 UNOBSERVED, FREE) = range(len(NAMES))  # fmt: skip
#: Activities in which the GPU worked.
BUSY = (COMPUTE, COMMUNICATION, COPY)
#: Calls that follow each other more closely than this are one burst of launches: what lies between them is the price of
#: launching. Longer pauses of the host have another cause.
LAUNCH_PAUSE_NS = 1_000_000
#: A wait of the host ends so much later than the work it is for, as the host sees it.
WAKE_NS = 100_000

#: Records of GPUs are on their way for about two seconds. What is younger than this is not called idle.
ON_THEIR_WAY_NS = 3_000_000_000

Device = tuple[bytes, int]
Intervals = tuple["Array", "Array"]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of the time of GPUs: ``device`` is an index into ``devices``, ``activity`` one into ``NAMES``.

    ``attempt`` is the row (of ``GpuTime.attempts``) of the one that ran there: -1 if none did, -2 if several.
    ``holder`` is the row (of the table's reservations) of the worker that had the GPU, in the same sense.
    """

    device: Array
    start: Array
    end: Array
    activity: Array
    attempt: Array
    holder: Array

    @property
    def seconds(self) -> Array:
        found: Array = (self.end - self.start) / 1e9
        return found

    def take(self, where: Array) -> Pieces:
        return Pieces(*(getattr(self, name)[where] for name in self.__slots__))


class GpuTime:
    """The time of all GPUs of a session between two instants, in pieces."""

    def __init__(self, view: Views, begin: int, end: int) -> None:
        self.view, self.begin, self.end = view, begin, end
        self.attempts = Attempts(view)
        self.reservations = view.gpu_table.reservations
        self._node_of = {reservation.worker: self.node(reservation.node) for reservation in self.reservations}
        self._work = _Work(view, begin, end)
        self._host = _Host(view, self.attempts)
        work_nodes = [self._node_of_worker(worker) for worker in self._work.workers]
        node_numbers = {node: number for number, node in enumerate(sorted(set(work_nodes)))}
        numbers = np.array([node_numbers[node] for node in work_nodes] or [0], np.int64)
        keys = numbers[self._work.worker] << 16 | self._work.gpu if len(self._work) else np.empty(0, np.int64)
        names = {number: node for node, number in node_numbers.items()}
        with_work = {(names[key >> 16], key & 0xFFFF): key for key in np.unique(keys).tolist()}
        known = {(self.node(node), gpu) for node, gpu in view.gpu_table.offered}
        known |= {(self.node(each.node), each.gpu) for each in self.reservations}
        #: Every GPU: (node, its number there).
        self.devices: list[Device] = sorted(known | set(with_work))
        self.spans = [self._span(node) for node, _ in self.devices]
        parts = []
        for number, device in enumerate(self.devices):
            mine = np.flatnonzero(keys == with_work[device]) if device in with_work else np.empty(0, np.int64)
            parts.append(self._pieces(number, device, mine))
        self.pieces = Pieces(*(
            np.concatenate([getattr(part, name) for part in parts]) if parts else np.empty(0, np.int64)
            for name in Pieces.__slots__
        ))  # fmt: skip

    # --- what there is --------------------------------------------------------------------------------------------

    def slot_seconds(self) -> float:
        """How long GPUs were there, in sum."""
        return sum(max(0, end - begin) for begin, end in self.spans) / 1e9

    def node(self, process: bytes) -> bytes:
        """The node that records under this id."""
        nodes = self.view.cluster_table.nodes
        return process if process in nodes or len(nodes) != 1 else next(iter(nodes))

    def _node_of_worker(self, worker: bytes) -> bytes:
        return self._node_of.get(worker) or node_of(self.view, worker)

    def _span(self, node: bytes) -> tuple[int, int]:
        """From when to when a node was there, inside of the window."""
        row = self.view.cluster_table.nodes.get(node) or {}
        begin = min(max(self.begin, row.get("started_at_ns") or self.begin), self.end)
        return begin, max(begin, min(self.end, row.get("stopped_at_ns") or self.end))

    def jobs(self) -> Array:
        """The job of each piece: that of its task, else of who holds the GPU; -1 if there is none, or several."""
        pieces, table = self.pieces, self.view.task_table
        held = np.array([each.job for each in self.reservations] or [-1], np.int64)
        found = np.where(pieces.holder >= 0, held[np.maximum(pieces.holder, 0)], -1)
        if len(self.attempts):
            jobs = table["job"][self.attempts.row].astype(np.int64)
            found = np.where(pieces.attempt >= 0, jobs[np.maximum(pieces.attempt, 0)], found)
        return found

    # --- one GPU --------------------------------------------------------------------------------------------------

    def _pieces(self, number: int, device: Device, work: Array) -> Pieces:
        begin, end = self.spans[number]
        ran = _Ran(self._work, work)
        holds = self._holds(device, ran, begin, end)
        attempts, tasks = self._host.attempts_of(holds, begin, end)
        host = self._host.of(set(holds), ran)
        shown = {
            "workers": Steps.of_intervals(*_all(holds.values())),
            "actors": Steps.of_intervals(*_all(each for worker, each in holds.items() if self._is_actor(worker))),
            "bundles": Steps.of_intervals(*self._bundles(device, begin, end)),
            "tasks": Steps.of_intervals(*tasks), "unseen": Steps.of_intervals(*self._unseen(holds, end)),
        }  # fmt: skip
        inside = [step.times for step in shown.values()]
        for step in host.values():
            # While the GPU works nobody asks what the host does.
            inside.append(step.times[ran.any.at(step.times) == 0])
        edges = instants(np.array([begin, end]), *(step.times for step in ran.kinds), ran.launched, *inside)
        edges = edges[(edges >= begin) & (edges <= end)]
        start, stop = edges[:-1], edges[1:]
        flags = {name: step.at(start) > 0 for name, step in (*shown.items(), *host.items())}
        activity = _activity(ran, flags, host["drains"], start)
        return Pieces(
            np.full(len(start), number), start, stop, activity, _alone(*tasks, attempts, start),
            self._holder(device, start, begin, end),
        )  # fmt: skip

    def _holds(self, device: Device, ran: _Ran, begin: int, end: int) -> dict[int, Intervals]:
        """Worker (as a number) -> when it held the GPU."""
        found: dict[int, list[tuple[int, int]]] = {}
        for each in self.reservations:
            if each.gpu == device[1] and any(each.worker) and self.node(each.node) == device[0]:
                low, high = self._clipped(each, begin, end)
                if high > low:
                    found.setdefault(int.from_bytes(each.worker, "little"), []).append((low, high))
        for worker, low, high in ran.workers():
            # Work of whom nobody has recorded that it holds the GPU.
            if worker not in found:
                found[worker] = [(max(low, begin), min(high, end))]
        return {worker: tuple(np.array(sorted(pairs), np.int64).T) for worker, pairs in found.items()}

    def _clipped(self, each: Reservation, begin: int, end: int) -> tuple[int, int]:
        return max(each.from_ns, begin), min(each.to_ns or end, end)

    def _bundles(self, device: Device, begin: int, end: int) -> Intervals:
        found = [
            self._clipped(each, begin, end) for each in self.reservations
            if each.gpu == device[1] and not any(each.worker) and self.node(each.node) == device[0]
        ]  # fmt: skip
        return _columns(found)

    def _holder(self, device: Device, start: Array, begin: int, end: int) -> Array:
        rows = [
            row for row, each in enumerate(self.reservations)
            if each.gpu == device[1] and any(each.worker) and self.node(each.node) == device[0]
        ]  # fmt: skip
        spans = _columns([self._clipped(self.reservations[row], begin, end) for row in rows])
        return _alone(*spans, np.array(rows, np.int64), start)

    def _is_actor(self, worker: int) -> bool:
        row = self.view.process_table.rows.get(worker.to_bytes(8, "little"))
        return bool(row and row["actor_id"])

    def _unseen(self, holds: dict[int, Intervals], end: int) -> Intervals:
        """When workers that hold the GPU captured nothing."""
        since = [self.view.gpu_table.unseen_since(worker.to_bytes(8, "little")) for worker in holds]
        return _columns([(each, end) for each in since if each is not None])


def settled_ns(view: Views) -> int:
    """Until when it is known what GPUs did."""
    now = view.now_ns()
    return now - ON_THEIR_WAY_NS if view.store.is_live() else now


class _Work:
    """All work of GPUs, as columns."""

    def __init__(self, view: Views, begin: int, end: int) -> None:
        parts: dict[str, list[Array]] = {}
        for event in ("gpu_kernel", "gpu_copy", "gpu_memset"):
            columns = joined(
                view.store.select(event, lambda one: (one["ended_at"] >= begin) & (one["time_ns"] <= end)), event
            )
            kind = np.full(len(columns), COPY, np.int64)
            if event == "gpu_kernel":
                kind = np.where(is_communication(view.store.texts, columns["kernel"]), COMMUNICATION, COMPUTE)
            for name, values in (
                ("start", columns["time_ns"]), ("end", columns["ended_at"]), ("launched", columns["launched_at"]),
                ("gpu", columns["gpu"]), ("kind", kind),
            ):  # fmt: skip
                parts.setdefault(name, []).append(values.astype(np.int64))
            parts.setdefault("worker", []).append(np.ascontiguousarray(columns["worker"]).view("<u8"))
        order = np.argsort(np.concatenate(parts["start"]), kind="stable")
        self.start, self.end, self.launched, self.gpu, self.kind, worker = (
            np.concatenate(parts[name])[order] for name in ("start", "end", "launched", "gpu", "kind", "worker")
        )
        self.numbers, back = np.unique(worker, return_inverse=True)
        self.worker = back.ravel()
        self.workers = [int(each).to_bytes(8, "little") for each in self.numbers.tolist()]

    def __len__(self) -> int:
        return len(self.start)


class _Ran:
    """What ran on one GPU: by kind, as runs without a gap, and what is known of the launch that began each run."""

    def __init__(self, work: _Work, mine: Array) -> None:
        self.work, self.mine = work, mine
        start, end, kind = work.start[mine], work.end[mine], work.kind[mine]
        self.kinds = [Steps.of_intervals(*union(start[kind == one], end[kind == one])) for one in BUSY]
        self.runs = union(start, end)
        self.any = Steps.of_intervals(*self.runs)
        launched = work.launched[mine]
        first = np.searchsorted(start, self.runs[0])  # the work that begins each run; ``start`` ascends
        #: When the first work of each run was asked for; 0 if that is not known.
        self.launches = launched[first] if len(first) else first
        self.launched = self.launches[self.launches > 0]

    def workers(self) -> list[tuple[int, int, int]]:
        """Each worker with work here, and from when to when it had some."""
        found = []
        for number in np.unique(self.work.worker[self.mine]).tolist():
            rows = self.mine[self.work.worker[self.mine] == number]
            first, last = int(self.work.start[rows[0]]), int(self.work.end[rows].max())
            found.append((int(self.work.numbers[number]), first, last))
        return found


class _Host:
    """What workers did meanwhile."""

    def __init__(self, view: Views, attempts: Attempts) -> None:
        self.attempts = attempts
        self._process = _words(attempts.process)
        blocked = joined(view.store.select("task_unblocked"), "task_unblocked")
        room = blocked["waiting_in"] == WaitKind.ALLOCATE
        until = blocked["time_ns"].astype(np.int64)
        since = until - (blocked["blocked_seconds"].astype(np.float64) * 1e9).astype(np.int64)
        self._blocked = _words(blocked["process"]), since, until, room
        waits = joined(
            view.store.select("gpu_wait", lambda one: one["waiting_for"] != WaitingFor.STREAM_WAIT_EVENT), "gpu_wait"
        )
        self._waits = _words(waits["worker"]), waits["time_ns"].astype(np.int64), waits["ended_at"].astype(np.int64)
        self._still = self._open_waits(view)

    def _open_waits(self, view: Views) -> tuple[Array, Array]:
        """Of attempts that wait in ``get`` now: whose worker, and since when."""
        table, rows = view.task_table, self.attempts.row
        since = table["blocked_at"][rows] if len(rows) else np.empty(0, np.int64)
        good = self.attempts.open & (since > self.attempts.start) & (table["unblocked_at"][rows] < since) if len(
            rows) else np.empty(0, np.bool_)  # fmt: skip
        return self._process[good], since[good]

    def attempts_of(self, holds: dict[int, Intervals], begin: int, end: int) -> tuple[Array, Intervals]:
        """The attempts that ran in workers while these held the GPU: rows, and from when to when."""
        rows, starts, ends = [], [], []
        for worker, (since, until) in holds.items():
            mine = np.flatnonzero(self._process == worker)
            at = np.maximum(np.searchsorted(since, self.attempts.end[mine], side="left") - 1, 0)
            low, high = np.maximum(self.attempts.start[mine], since[at]), np.minimum(self.attempts.end[mine], until[at])
            good = high > low
            rows.append(mine[good])
            starts.append(np.clip(low[good], begin, end))
            ends.append(np.clip(high[good], begin, end))
        return (_joined(rows), (_joined(starts), _joined(ends)))

    def of(self, workers: set[int], ran: _Ran) -> dict[str, Steps]:
        """What hosts of the GPU did: ``waits``, ``input``, ``stores``, ``launches``; ``drains``: waits, and a little
        later."""
        among = np.array(sorted(workers), np.uint64)
        mine = np.isin(self._process, among)
        start, end = self.attempts.start[mine], self.attempts.end[mine]
        read = ((self.attempts.fetch + self.attempts.deserialize)[mine] * 1e9).astype(np.int64)
        wrote = (self.attempts.store[mine] * 1e9).astype(np.int64)
        process, since, until, room = self._blocked
        blocked = np.isin(process, among)
        still = self._still[1][np.isin(self._still[0], among)]
        never = np.full(len(still), np.iinfo(np.int64).max >> 1)
        process, waited, done = self._waits
        waits = np.isin(process, among)
        given = blocked & ~room
        return {
            "waits": Steps.of_intervals(waited[waits], done[waits]),
            "drains": Steps.of_intervals(waited[waits], done[waits] + WAKE_NS),
            "input": Steps.of_intervals(
                np.concatenate([start, since[given], still]), np.concatenate([start + read, until[given], never])
            ),
            "stores": Steps.of_intervals(
                np.concatenate([end - wrote, since[blocked & room]]), np.concatenate([end, until[blocked & room]])
            ),
            "launches": Steps.of_intervals(*self._bursts(waits, ran)),
        }

    def _bursts(self, waits: Array, ran: _Ran) -> Intervals:
        """When the hosts of a GPU launched one piece of work after the other, or came back from a wait to launch."""
        work = ran.work
        launched, who = work.launched[ran.mine], work.numbers[work.worker[ran.mine]] if len(ran.mine) else ran.mine
        process, since, until = self._waits
        times = np.concatenate([launched, since[waits], until[waits]])
        hosts = np.concatenate([who.astype(np.uint64), process[waits], process[waits]])
        known = times > 0
        order = np.lexsort((times[known], hosts[known]))
        times, hosts = times[known][order], hosts[known][order]
        close = (np.diff(times) < LAUNCH_PAUSE_NS) & (hosts[1:] == hosts[:-1])
        return union(times[:-1][close], times[1:][close])


def _activity(ran: _Ran, flags: dict[str, Array], drains: Steps, start: Array) -> Array:
    """What a GPU did in each piece that begins at ``start``. ``drains``: when a host waited until the GPU is done."""
    begins, ends = ran.runs
    after = np.searchsorted(begins, start, side="right")
    there = after < len(begins)
    following = np.minimum(after, max(len(begins) - 1, 0))
    never = np.iinfo(np.int64).max
    if len(begins):
        launched = np.where(there, ran.launches[following], never)
        dry = np.where(after > 0, ends[np.maximum(after - 1, 0)], np.iinfo(np.int64).min)
        pause = np.where(there & (after > 0), begins[following] - dry, never)
    else:
        launched, dry, pause = np.full(len(start), never), np.zeros(len(start), np.int64), np.full(len(start), never)
    drained = drains.at(dry) > 0
    unknown = launched == 0
    queued = ~unknown & (launched <= dry)
    coming = ~unknown & ~queued & (start >= launched)
    launching = coming | flags["launches"] | (unknown & (pause < LAUNCH_PAUSE_NS))
    compute, communication, copy = (step.at(start) > 0 for step in ran.kinds)
    held, tasks = flags["workers"], flags["tasks"]
    return np.select(
        [
            compute, communication, copy, ~held & flags["bundles"], ~held, ~tasks & flags["actors"], ~tasks,
            flags["unseen"], queued, coming & drained, coming, flags["waits"], flags["input"], flags["stores"],
            launching & drained, launching,
        ],
        [
            COMPUTE, COMMUNICATION, COPY, BUNDLE, FREE, NO_CALLS, NO_TASK, UNOBSERVED, BETWEEN, SYNCHRONISES, LAUNCHES,
            SYNCHRONISES, INPUT, STORES, SYNCHRONISES, LAUNCHES,
        ],
        NOTHING,
    )  # fmt: skip


def _alone(start: Array, end: Array, rows: Array, asked: Array) -> Array:
    """The row of the only interval there is at each instant; -1 if there is none, -2 if there are several."""
    good = end > start
    start, end, rows = start[good], end[good], rows[good]
    if not len(rows):
        return np.full(len(asked), -1, np.int64)
    times = np.concatenate([start, end])
    change = np.repeat(np.array([1, -1], np.int64), len(rows))
    order = np.argsort(times, kind="stable")
    many = Steps(times[order], np.cumsum(change[order])).at(asked)
    which = Steps(times[order], np.cumsum((change * np.concatenate([rows, rows]))[order])).at(asked)
    return np.where(many == 1, which, np.where(many > 1, -2, -1))


def union(start: Array, end: Array) -> Intervals:
    """The same time as intervals that neither overlap nor touch, ascending."""
    good = end > start
    start, end = start[good], end[good]
    if not len(start):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    fresh = np.concatenate([[True], start[1:] > reach[:-1]])
    return start[fresh], reach[np.concatenate([fresh[1:], [True]])]


def _words(ids: Array) -> Array:
    return np.ascontiguousarray(ids).view("<u8").ravel()


def _columns(pairs: list[tuple[int, int]]) -> Intervals:
    made = np.array(pairs, np.int64).reshape(-1, 2)
    return made[:, 0], made[:, 1]


def _all(intervals: Any) -> Intervals:
    found = list(intervals)
    return _joined([each[0] for each in found]), _joined([each[1] for each in found])


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
