"""What a session did as a trace: the JSON array that Perfetto (ui.perfetto.dev) and ``chrome://tracing`` read.

A process is a track group; in it are one track for what it runs one after the other, more of them ("slots") for what
it runs at the same time, and tracks for waits, spans of user code and collective operations. The node's group has
spills, restores, and counters of resources. Each GPU is a group of its own with a lane for every stream. Arrows lead
from a task to those that took its result as an argument (``data``), to those it submitted (``control``), and to the
first work that it had each stream do (``launch``).

Everything is made column by column: a record becomes its line of JSON inside Arrow, never in a Python loop. Lines are
yielded in chunks, so that a long session needs no more memory than a short one beyond its columns.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from obsray.ids import TASK_ID_BYTES
from obsray.telemetry.columns import Array, Columns
from obsray.telemetry.events import Outcome, ProcessKind, WaitKind
from obsray.telemetry.gpu_lanes import gpu_work, how_texts
from obsray.telemetry.store import joined
from obsray.telemetry.table import DenseIndex
from obsray.telemetry.views import Views

#: Lines that are made at a time.
CHUNK_LINES = 1 << 16
#: The first track of each kind in its process; slots count on from there. None is 0: Perfetto takes that for one thread
#: of all processes, and drops what overlaps on it.
TASKS, WAITS, SPANS, STORE, COLLECTIVES, SUBMITS = (number * 100_000 + 1 for number in range(6))
#: A stream's work overlaps only where clocks are not exact: so many rows for it at most, and so many streams of a GPU.
_LANE_SLOTS, _LANES_MAX = 32, 30_000
_KINDS = {
    TASKS: "tasks", WAITS: "waits", SPANS: "spans", STORE: "object store", COLLECTIVES: "collectives",
    SUBMITS: "submits",
}  # fmt: skip

_THOUSANDTHS = pa.array([f".{number:03d}" for number in range(1000)])
_OUTCOMES = np.array([outcome.name.lower() for outcome in Outcome])
_WAITS = np.array([f"ray.{kind.name.lower()}" for kind in WaitKind])


#: Instants are told in whole microseconds since 1970. Perfetto takes fractions of them as floating point, which is
#: only exact to a quarter of one: slices that touch or nest would overlap, and it drops those. Its own format has
#: nanoseconds.
GRAIN_NS = 1000


class Slices:
    """What lasted from ``start`` to ``end`` (nanoseconds), in process number ``process``, on ``track``."""

    def __init__(self, process: Array, track: Array, start: Array, end: Array) -> None:
        self.process = process.astype(np.int64)
        self.track = track.astype(np.int64)
        self.start = _instant(start)
        self.end = np.maximum(_instant(end), self.start)

    def __len__(self) -> int:
        return len(self.start)


def write(views: Views, refresh: bool = True) -> Iterator[bytes]:
    """The trace as pieces of one JSON array, in no particular order of time (readers sort)."""
    if refresh:
        views.refresh()
    yield b"[\n"
    trace = _Trace(views)
    yield from trace.lines()
    yield trace.named_tracks()
    yield b"\n]\n"


class _Trace:
    """One session on its way to lines."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self.texts = views.store.texts
        self.numbers: dict[bytes, int] = {}
        self.now = views.now_ns()
        self.used: dict[int, set[int]] = {}
        #: What groups and tracks are called that are no processes.
        self.group_names: dict[bytes, str] = {}
        self.track_names: dict[tuple[int, int], str] = {}

    def _columns(self, event: str) -> Columns:
        return joined(self.views.store.select(event), event)

    def _processes(self, ids: Array) -> Array:
        """A small number for each process, the same everywhere in the trace."""
        if not len(ids):
            return np.empty(0, np.int64)
        different, back = np.unique(np.ascontiguousarray(ids).view("<u8"), return_inverse=True)
        numbers = [
            self.numbers.setdefault(int(each).to_bytes(8, "little"), len(self.numbers) + 1) for each in different
        ]
        return np.array(numbers, np.int64)[back.ravel()]

    def _texts(self, codes: Array) -> pa.Array:
        """Texts as JSON strings without their quotes."""
        different, back = np.unique(codes, return_inverse=True)
        quoted = pa.array([json.dumps(self.texts[int(code)])[1:-1] for code in different], pa.string())
        return quoted.take(pa.array(back.ravel()))

    def lines(self) -> Iterator[bytes]:
        """Everything but the names of tracks."""
        runs = self._runs()
        slices, tasks, attempts = self._task_slices(runs)
        names = self._texts(runs["name"])
        yield from self._tasks(slices, runs, names)
        yield from self._waits(slices, tasks, attempts)
        yield from self._arrows(slices, tasks)
        yield from self._submits(slices, tasks)
        yield from self._gpus(slices, tasks, attempts)
        yield from self._lasting("user_span", "span_seconds", SPANS, "span", "name")
        yield from self._collectives()
        yield from self._store()
        yield from self._points()
        yield from self._counters()

    # --- tasks --------------------------------------------------------------------------------------------

    def _runs(self) -> dict[str, Array]:
        """Every attempt that ran or runs: ``task process name attempt started_at ended_at outcome`` and phases."""
        ended, started = self._columns("task_ended"), self._columns("task_started")
        phases = ("fetch_seconds", "deserialize_seconds", "run_seconds", "store_seconds", "blocked_seconds")
        same = ("task", "process", "name", "attempt", "started_at", "dispatched_at")
        open_ = started.take(~_known(started, ended))
        runs = {name: np.concatenate([ended[name], open_[name]]) for name in same}
        more = len(open_)
        runs["ended_at"] = np.concatenate([ended["time_ns"], self._ends(open_)])
        runs["outcome"] = np.concatenate([ended["outcome"].astype(np.int16), np.full(more, -1, np.int16)])
        for name in phases:
            runs[name] = np.concatenate([ended[name], np.zeros(more, np.float32)])
        return runs

    def _ends(self, columns: Columns) -> Array:
        """When runs without an end ended: with their process, or not yet."""
        died = {
            process: row["died_at_ns"] or row["closed_at_ns"] or self.now
            for process, row in self.views.process_table.rows.items()
        }
        return np.array([died.get(each.tobytes(), self.now) for each in columns["process"]], np.uint64)

    def _task_slices(self, runs: dict[str, Array]) -> tuple[Slices, Array, Array]:
        process = self._processes(runs["process"])
        track = TASKS + slots(process, runs["started_at"].astype(np.int64), runs["ended_at"].astype(np.int64))
        slices = Slices(process, track, runs["started_at"], runs["ended_at"])
        self._note(slices)
        return slices, runs["task"], runs["attempt"]

    def _tasks(self, slices: Slices, runs: dict[str, Array], names: pa.Array) -> Iterator[bytes]:
        outcomes = np.where(runs["outcome"] < 0, "running", _OUTCOMES[np.clip(runs["outcome"], 0, len(_OUTCOMES) - 1)])
        queued = np.maximum(slices.start - runs["dispatched_at"].astype(np.int64), 0)
        arguments = [
            '{"task_id":"', _hex(runs["task"]), '","attempt":', runs["attempt"].astype(np.int64), ',"outcome":"',
            outcomes, '","dispatched_to_start_us":', _micros(queued), "}",
        ]  # fmt: skip
        yield from self._complete(slices, "task", ["task::", names], arguments)
        ended = runs["outcome"] >= 0
        names_of_phases = (
            ("task:fetch_arguments", ("fetch_seconds",)), ("task:deserialize_arguments", ("deserialize_seconds",)),
            ("task:execute", ("run_seconds", "blocked_seconds")), ("task:store_outputs", ("store_seconds",)),
        )  # fmt: skip
        at = slices.start
        for name, parts in names_of_phases:
            seconds = np.sum([runs[part].astype(np.float64) for part in parts], axis=0)
            end = np.minimum(at + np.rint(seconds * 1e9).astype(np.int64), slices.end)
            if name == "task:execute":
                # What is left of the rounding belongs to the function.
                storing = np.rint(runs["store_seconds"].astype(np.float64) * 1e9).astype(np.int64)
                end = np.maximum(np.minimum(slices.end - storing, slices.end), at)
            kept = ended & ((end > at) | (name == "task:execute"))
            phase = Slices(slices.process[kept], slices.track[kept], at[kept], end[kept])
            yield from self._complete(phase, "phase", [name], ["{}"])
            at = end

    def _waits(self, slices: Slices, tasks: Array, attempts: Array) -> Iterator[bytes]:
        """Waits in ``get``, ``wait`` and ``put``: inside their task, or on tracks of their own if they overlap."""
        columns = self._columns("task_unblocked")
        if not len(columns):
            return
        end = columns["time_ns"].astype(np.int64)
        start = end - np.rint(columns["blocked_seconds"].astype(np.float64) * 1e9).astype(np.int64)
        process = self._processes(columns["process"])
        run = _newest(tasks, attempts, columns["task"])
        inside = run >= 0
        inside[inside] &= (slices.start[run[inside]] <= start[inside]) & (end[inside] <= slices.end[run[inside]])
        track = np.where(inside, slices.track[np.maximum(run, 0)] if len(slices) else 0, -1)
        inside &= ~_crossing(process, track, start, end)
        apart = ~inside
        track[apart] = WAITS + slots(process[apart], start[apart], end[apart])
        found = Slices(process, track, start, end)
        self._note(found)
        waiting_in = _WAITS[np.clip(columns["waiting_in"], 0, len(_WAITS) - 1)]
        yield from self._complete(found, "wait", [waiting_in], ['{"task_id":"', _hex(columns["task"]), '"}'])

    def _arrows(self, slices: Slices, tasks: Array) -> Iterator[bytes]:
        index = DenseIndex()
        rows = index.rows(tasks)
        last = np.full(index.count + 1, -1, np.int64)
        last[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        taken, objects = self._arguments()
        words = np.ascontiguousarray(objects).view("<u4").reshape(-1, 5)[:, :4]
        producers = np.ascontiguousarray(words).view(f"V{TASK_ID_BYTES}").ravel()
        source, target = last[index.rows(producers, create=False)], last[index.rows(taken, create=False)]
        at = slices.end[source] if len(slices) else source
        yield from self._flow("data", slices, source, target, at, 0)
        table = self.views.task_table
        source, target = last[index.rows(table["parent"], create=False)], last[index.rows(table["id"], create=False)]
        at = table["submitted_at"].astype(np.int64)
        yield from self._flow("control", slices, source, target, at, len(taken))

    def _arguments(self) -> tuple[Array, Array]:
        """Tasks and their arguments: those that had to be waited for, and those that were there."""
        waiting, given = self._columns("task_arguments_waiting"), self._columns("task_arguments_given")
        tasks, objects = [waiting["task"]], [waiting["object"]]
        for at, name in enumerate(("object", "object_2", "object_3", "object_4")):
            some = given["objects"] > at
            tasks.append(given["task"][some])
            objects.append(given[name][some])
        return np.concatenate(tasks), np.concatenate(objects)

    def _submits(self, slices: Slices, tasks: Array) -> Iterator[bytes]:
        """What a program submitted outside of tasks, on a track of its own, with arrows to what ran."""
        table = self.views.task_table
        rows = np.flatnonzero((table["parent"] == np.zeros(1, "V16")) & (table["submitted_at"] > 0))
        owners = np.ascontiguousarray(table["id"][rows]).view("V8").reshape(-1, 2)[:, 0]
        at = table["submitted_at"][rows]
        process = self._processes(np.ascontiguousarray(owners))
        made = Slices(process, np.full(len(rows), SUBMITS), at, at)
        self._note(made)
        yield from self._complete(made, "submit", ["submit::", self._texts(table["name"][rows])], ["{}"])
        run = _newest(tasks, np.zeros(len(tasks), np.int64), table["id"][rows])
        good = run >= 0
        numbers = np.flatnonzero(good) + (1 << 40)
        for phase, of, tid, time_ns in (
            ("s", process[good], np.full(int(good.sum()), SUBMITS), at[good]),
            ("f", slices.process[run[good]], slices.track[run[good]], slices.start[run[good]]),
        ):
            ends = ',"bp":"e"}' if phase == "f" else "}"
            yield from _joined(
                len(numbers),
                [f'{{"ph":"{phase}","cat":"submit","name":"submit","id":', numbers, ',"pid":', of, ',"tid":', tid,
                 ',"ts":', _instant(time_ns) // GRAIN_NS, ends],
            )  # fmt: skip

    def _flow(self, kind: str, slices: Slices, source: Array, target: Array, at: Array, first: int) -> Iterator[bytes]:
        """Arrows from the slice ``source`` at time ``at`` to the beginning of the slice ``target``."""
        good = (source >= 0) & (target >= 0)
        numbers = first + np.flatnonzero(good)
        source, target, at = source[good], target[good], at[good]
        if not len(source):
            return
        at = np.clip(at, slices.start[source], np.maximum(slices.end[source] - 1, slices.start[source]))
        for phase, run, time_ns in (("s", source, at), ("f", target, slices.start[target])):
            ends = ',"bp":"e"}' if phase == "f" else "}"
            yield from _joined(
                len(run),
                [f'{{"ph":"{phase}","cat":"{kind}","name":"{kind}","id":', numbers, ',"pid":', slices.process[run],
                 ',"tid":', slices.track[run], ',"ts":', _instant(time_ns) // GRAIN_NS, ends],
            )  # fmt: skip

    # --- GPUs -----------------------------------------------------------------------------------------------

    def _gpus(self, slices: Slices, tasks: Array, attempts: Array) -> Iterator[bytes]:
        """What GPUs did, a lane for each stream."""
        work = gpu_work(self.views)
        if not len(work):
            return
        identifiers = [identifier for identifier, _ in work.devices]
        self.group_names.update(work.devices)
        process = self._processes(np.frombuffer(b"".join(identifiers), "V8"))[work.device]
        slot = np.minimum(slots(work.lane, work.start, work.end), _LANE_SLOTS - 1)
        track = np.minimum(work.lane, _LANES_MAX - 1) * _LANE_SLOTS + slot + TASKS
        made = Slices(process, track, work.start, work.end)
        self._note(made)
        lanes, places = np.unique(process * 1_000_000 + track, return_index=True)
        for number, at in zip(lanes.tolist(), places.tolist(), strict=True):
            name, extra = work.lanes[int(work.lane[at])][1], int(slot[at])
            self.track_names[number // 1_000_000, number % 1_000_000] = name + (f" ({extra + 1})" if extra else "")
        quoted = pa.array([json.dumps(name)[1:-1] for name in work.names], pa.string())
        delays = np.where(work.launched > 0, np.maximum(work.start - work.launched, 0), 0)
        lasted = np.maximum(work.end.astype(np.int64) - work.start.astype(np.int64), 0)
        arguments = [
            '{"task_id":"', _hex(work.task), '","attributed_by":"', how_texts(work.how), '","after_launch_us":',
            _micros(delays), ',"duration_us":', _micros(lasted), "}",
        ]  # fmt: skip
        yield from self._complete(made, "gpu", [quoted.take(pa.array(work.name))], arguments)
        yield from self._launches(slices, _newest(tasks, attempts, work.task), made, work.launched)

    def _launches(self, slices: Slices, run: Array, work: Slices, launched: Array) -> Iterator[bytes]:
        """Arrows from a task to the first work that it had each stream do."""
        known = np.flatnonzero((run >= 0) & (launched > 0))
        if not len(known):
            return
        track = np.unique(work.process * 1_000_000 + work.track, return_inverse=True)[1].ravel()
        _, first = np.unique(run[known] * (int(track.max()) + 1) + track[known], return_index=True)
        target = known[first]
        source = run[target]
        at = np.clip(launched[target], slices.start[source], np.maximum(slices.end[source] - 1, slices.start[source]))
        numbers = np.arange(len(target)) + (1 << 41)
        for phase, of, rows, time_ns in (("s", slices, source, at), ("f", work, target, work.start[target])):
            ends = ',"bp":"e"}' if phase == "f" else "}"
            yield from _joined(
                len(target),
                [f'{{"ph":"{phase}","cat":"launch","name":"launch","id":', numbers, ',"pid":', of.process[rows],
                 ',"tid":', of.track[rows], ',"ts":', _instant(time_ns) // GRAIN_NS, ends],
            )  # fmt: skip

    # --- everything else ----------------------------------------------------------------------------------

    def _lasting(self, event: str, seconds: str, tracks: int, category: str, name: str) -> Iterator[bytes]:
        """Records that are written at the end of what they tell and say how long it took."""
        columns = self._columns(event)
        slices = self._ending(columns, seconds, tracks)
        yield from self._complete(slices, category, [self._texts(columns[name])], ["{}"])

    def _ending(self, columns: Columns, seconds: str, tracks: int) -> Slices:
        end = columns["time_ns"].astype(np.int64)
        start = end - np.rint(columns[seconds].astype(np.float64) * 1e9).astype(np.int64)
        process = self._processes(columns["process"])
        slices = Slices(process, tracks + slots(process, start, end), start, end)
        self._note(slices)
        return slices

    def _collectives(self) -> Iterator[bytes]:
        columns = self._columns("collective_ended")
        slices = self._ending(columns, "seconds", COLLECTIVES)
        arguments = [
            '{"group":"', self._texts(columns["group_name"]), '","bytes":', columns["data_bytes"].astype(np.int64),
            ',"members":', columns["members"].astype(np.int64), ',"wait_us":',
            _micros(np.rint(columns["wait_seconds"].astype(np.float64) * 1e9).astype(np.int64)), "}",
        ]  # fmt: skip
        yield from self._complete(slices, "collective", [self._texts(columns["operation"])], arguments)

    def _store(self) -> Iterator[bytes]:
        for event, seconds, name in (
            ("object_spilled", "spill_seconds", "spill"), ("object_restored", "restore_seconds", "restore"),
            ("object_created", "queue_seconds", "wait for room"),
        ):  # fmt: skip
            columns = self._columns(event)
            columns = columns.take(columns[seconds] > 0)
            slices = self._ending(columns, seconds, STORE)
            arguments = [
                '{"object_id":"', _hex(columns["object"]), '","bytes":', columns["object_bytes"].astype(np.int64), "}",
            ]  # fmt: skip
            yield from self._complete(slices, "object", [name], arguments)

    def _points(self) -> Iterator[bytes]:
        for event, name in (("worker_died", "worker died"), ("object_lost", "object lost"), ("user_mark", "")):
            columns = self._columns(event)
            if not len(columns):
                continue
            process = self._processes(columns["worker" if event == "worker_died" else "process"])
            self._note(Slices(process, np.full(len(process), TASKS), columns["time_ns"], columns["time_ns"]))
            shown = self._texts(columns["name"]) if event == "user_mark" else name
            yield from _joined(
                len(columns),
                ['{"ph":"i","s":"p","cat":"mark","name":"', shown, '","pid":', process, f',"tid":{TASKS},"ts":',
                 _instant(columns["time_ns"]) // GRAIN_NS, "}"],
            )  # fmt: skip

    def _counters(self) -> Iterator[bytes]:
        columns = self._columns("resource_sample")
        process = self._processes(columns["process"])
        used = pa.array(columns["used"]).cast(pa.string())
        yield from _joined(
            len(columns),
            ['{"ph":"C","name":"', self._texts(columns["resource"]), ' in use","pid":', process, ',"ts":',
             _instant(columns["time_ns"]) // GRAIN_NS, ',"args":{"used":', used, "}}"],
        )  # fmt: skip

    def _complete(self, slices: Slices, category: str, name: list[Any], arguments: list[Any]) -> Iterator[bytes]:
        start, length = slices.start // GRAIN_NS, (slices.end - slices.start) // GRAIN_NS
        yield from _joined(
            len(slices),
            [f'{{"ph":"X","cat":"{category}","name":"', *name, '","pid":', slices.process, ',"tid":', slices.track,
             ',"ts":', start, ',"dur":', length, ',"args":', *arguments, "}"],
        )  # fmt: skip

    def _note(self, slices: Slices) -> None:
        for pair in np.unique(slices.process * 1_000_000 + slices.track).tolist():
            self.used.setdefault(pair // 1_000_000, set()).add(pair % 1_000_000)

    def named_tracks(self) -> bytes:
        """Names and order of processes and tracks. Not empty: the array ends here, without a comma."""
        lines = []
        for process, number in self.numbers.items():
            row = self.views.process_table.rows.get(process)
            order = 0 if row is None or row["kind"] != ProcessKind.WORKER.name.lower() else 1
            order = 2 if process in self.group_names else order
            label = self.group_names.get(process) or self.views.process_label(process)
            facts = [("process_name", {"name": label}, 0),
                     ("process_sort_index", {"sort_index": order}, 0)]  # fmt: skip
            for track in sorted(self.used.get(number, ())):
                slot = (track - TASKS) % 100_000
                kind = track - slot
                named = self.track_names.get((number, track))
                named = named or _KINDS[kind] + (f" {slot + 1}" if slot else "")
                facts.append(("thread_name", {"name": named}, track))
                facts.append(("thread_sort_index", {"sort_index": track}, track))
            lines += [{"ph": "M", "name": name, "pid": number, "tid": tid, "args": args} for name, args, tid in facts]
        if not lines:
            lines = [{"ph": "M", "name": "process_name", "pid": 0, "tid": 0, "args": {"name": "nothing recorded"}}]
        return ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines).encode()


# --- columns ---------------------------------------------------------------------------------------------


def slots(process: Array, start: Array, end: Array) -> Array:
    """A slot for each interval, so that those of one process in one slot do not overlap; the lowest that is free."""
    found = np.zeros(len(start), np.int64)
    order = np.lexsort((end, start, process))
    edges = np.concatenate([[0], np.flatnonzero(np.diff(process[order])) + 1, [len(order)]]).astype(np.int64)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mine = order[low:high]
        starts, ends = start[mine], np.maximum(end[mine], start[mine])
        if len(mine) < 2 or (np.maximum.accumulate(ends)[:-1] <= starts[1:]).all():
            continue
        found[mine] = _overlapping_slots(starts.tolist(), ends.tolist())
    return found


def _overlapping_slots(starts: list[int], ends: list[int]) -> list[int]:
    """As ``slots``, for one process, sorted by start."""
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    found = []
    for start, end in zip(starts, ends, strict=True):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        slot = heapq.heappop(free) if free else len(busy)
        found.append(slot)
        heapq.heappush(busy, (end, slot))
    return found


def _known(started: Columns, ended: Columns) -> Array:
    """Which started attempts have an end."""
    index = DenseIndex()
    rows = index.rows(ended["task"])
    newest = np.full(index.count + 1, -1, np.int64)
    np.maximum.at(newest, rows[rows >= 0], ended["attempt"][rows >= 0].astype(np.int64))
    at = index.rows(started["task"], create=False)
    found: Array = (at >= 0) & (newest[at] >= started["attempt"].astype(np.int64))
    return found


def _newest(tasks: Array, attempts: Array, wanted: Array) -> Array:
    """For each wanted task the position of its newest run, -1 if it never ran."""
    index = DenseIndex()
    rows = index.rows(tasks)
    last = np.full(index.count + 1, -1, np.int64)
    order = np.argsort(attempts, kind="stable")
    order = order[rows[order] >= 0]
    last[rows[order]] = order
    # Of tasks that are not there the index says -1: the last entry, which stays -1.
    found: Array = last[index.rows(wanted, create=False)]
    return found


def _crossing(process: Array, track: Array, start: Array, end: Array) -> Array:
    """Which intervals of a track begin before one that began earlier has ended."""
    order = np.lexsort((start, track, process))
    base = process[order] * 1_000_000 + track[order]
    edges = np.concatenate([[0], np.flatnonzero(np.diff(base)) + 1, [len(order)]]).astype(np.int64)
    found = np.zeros(len(start), np.bool_)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mine = order[low:high]
        found[mine[1:]] = np.maximum.accumulate(end[mine])[:-1] > start[mine[1:]]
    return found


def _hex(ids: Array) -> pa.Array:
    """Ids as hex digits."""
    size = ids.dtype.itemsize
    text = np.ascontiguousarray(ids).tobytes().hex().encode()
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * (2 * size)
    return pa.LargeStringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(text)).cast(pa.string())


def _instant(time_ns: Array) -> Array:
    """Nanoseconds that are told exactly."""
    told: Array = time_ns.astype(np.int64) // GRAIN_NS * GRAIN_NS
    return told


def _micros(nanoseconds: Array) -> pa.Array:
    """Nanoseconds as microseconds with three digits after the point."""
    whole = pa.array(nanoseconds // 1000).cast(pa.string())
    return pc.binary_join_element_wise(whole, _THOUSANDTHS.take(pa.array(nanoseconds % 1000)), "")


def _joined(count: int, parts: list[Any]) -> Iterator[bytes]:
    """Lines out of parts: constants, arrays of numbers, arrays of text. Each ends with a comma."""
    columns = [
        part if isinstance(part, str) else part if isinstance(part, pa.Array) else pa.array(part) for part in parts
    ]
    for at in range(0, count, CHUNK_LINES):
        pieces = [
            pa.scalar(column) if isinstance(column, str) else column.slice(at, CHUNK_LINES).cast(pa.string())
            for column in columns
        ]
        lines = pc.binary_join_element_wise(*pieces, ",\n", "")
        offsets = np.frombuffer(lines.buffers()[1], np.int32, count=len(lines) + 1, offset=lines.offset * 4)
        yield lines.buffers()[2][int(offsets[0]) : int(offsets[-1])].to_pybytes()
