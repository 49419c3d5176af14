"""Profiles: where the code of tasks spends its time, out of the samples that processes take all the time.

A sample stands for some seconds of one thread, and for how many of them that was on a CPU. Stacks are frames from the
outermost to the innermost, ``name (file:line)`` each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.events import Outcome
from obsray.telemetry.store import joined
from obsray.telemetry.table import same_id

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array, Columns
    from obsray.telemetry.views import Views

Row = dict[str, Any]
#: What a driver's samples are listed under.
DRIVER = "(driver)"
#: Stacks of an answer at most; those with the least time go, and the answer says so.
STACKS_MAX = 5_000
LINES_MAX = 50
#: Tasks at least, to tell slow ones from fast ones.
COMPARED_TASKS_MIN = 4
#: Fewer samples than this on one side of a comparison are said to be few.
FEW_SAMPLES = 20
_LINE = re.compile(r":\d+\)$")
_ACTORS = (ids.SEQUENCE_ACTOR, ids.SEQUENCE_DETACHED_ACTOR)


def profile(view: Views, function: str = "", thing: str = "", slow_vs_fast: bool = False, refresh: bool = True) -> Row:
    """Where the time went of a function, or of one task, actor or process (``thing``, hex); of everything if of none.

    ``stacks`` (``frames``, ``samples``, ``seconds``, ``cpu_seconds``), most time first; ``lines``: the lines that ran
    or waited; ``functions`` with their sums. With ``slow_vs_fast`` the slowest tenth of a function's tasks is compared
    with its faster half: ``slow_seconds`` and ``fast_seconds`` of each stack are means per task. Raises LookupError
    for what has no samples or cannot be compared, ValueError for what is no id.
    """
    if refresh:
        view.refresh()
    found, what = _samples(view, function, thing)
    sides, tasks = None, 0
    rows = view.task_table.index.rows(found["task"], create=False)
    if slow_vs_fast:
        if not function:
            raise LookupError("slow and fast tasks of which function? Give one")
        sides = _sides(view, function)
    seen = rows[rows >= 0]
    tasks = len(np.unique(seen))
    answer: Row = {
        "what": what, "function": function or None, "id": thing or None,
        "samples": int(found["samples"].sum()), "seconds": float(found["seconds"].sum()),
        "cpu_seconds": float(found["cpu_seconds"].sum()), "tasks": tasks, "functions": _functions(view, found),
        "slow_vs_fast": None, "notes": _notes(view),
    }  # fmt: skip
    stacks = _stacks(view, found)
    if sides is not None:
        answer["slow_vs_fast"] = _compared(view, found, rows, sides, stacks)
    answer["lines"] = _lines(stacks)
    stacks.sort(key=lambda row: -max(row["seconds"], row.get("slow_seconds", 0.0), row.get("fast_seconds", 0.0)))
    answer["left_out"] = max(0, len(stacks) - STACKS_MAX)
    answer["stacks"] = stacks[:STACKS_MAX]
    return answer


# --- which samples ----------------------------------------------------------------------------------------


def _samples(view: Views, function: str, thing: str) -> tuple[Columns, str]:
    texts = view.store.texts
    masks: list[Callable[[Columns], Array]] = []
    what = []
    if function:
        code = texts.find(function)
        masks.append(lambda columns: _equal(columns["function"], code))
        what.append(f"function {function}" if function != DRIVER else "the driver")
    if thing:
        mask, called = _of_thing(view, thing)
        masks.append(mask)
        what.append(called)

    def where(columns: Columns) -> Array:
        kept: Array = np.ones(len(columns), np.bool_)
        for mask in masks:
            kept &= mask(columns)
        return kept

    found = joined(view.store.select("stack_sampled", where), "stack_sampled")
    named = " and ".join(what) or "everything"
    if not len(found):
        raise LookupError(_nothing(view, named, function))
    return found, named


def _equal(codes: Array, code: int | None) -> Array:
    found: Array = codes == (-1 if code is None else code)
    return found


def _of_thing(view: Views, thing: str) -> tuple[Any, str]:
    try:
        identifier = bytes.fromhex(thing)
    except ValueError:
        raise ValueError(f"an id is a hex number, not {thing!r}") from None
    table = view.task_table
    if len(identifier) == ids.WORKER_ID_BYTES:
        return lambda columns: same_id(columns["process"], identifier), view.process_label(identifier)
    if len(identifier) != ids.TASK_ID_BYTES:
        raise ValueError(f"{thing} is no id of a task, an actor or a process")
    if ids.kind_of(identifier) in _ACTORS and identifier in view.actor_table.rows:
        wanted = np.frombuffer(identifier, "V16")[0]

        def of_actor(columns: Columns) -> Array:
            rows = table.index.rows(columns["task"], create=False)
            of: Array = (rows >= 0) & (table["actor"][np.maximum(rows, 0)] == wanted)
            return of | same_id(columns["task"], identifier)

        return of_actor, f"actor {view.actor_table.rows[identifier]['class_name']} ({ids.short(identifier)})"
    return lambda columns: same_id(columns["task"], identifier), view.task_label(identifier)


def _nothing(view: Views, named: str, function: str) -> str:
    if not view.store.select("stack_sampled"):
        return "nothing was sampled in this session: it ran with profile_hz=0 or telemetry off, or for a moment only"
    names = {view.store.texts[int(code)] for code in np.unique(view.task_table["name"])}
    if function and function not in names and function != DRIVER:
        near = sorted(name for name in names if name and function.lower() in name.lower())[:5]
        return f"no task is called {function!r}" + (f"; there are {', '.join(near)}" if near else "")
    return (
        f"no sample of {named}: it ran for less than the time between two looks (profile_hz), or in stretches of a few "
        "milliseconds, of which samples see little"
    )


def _functions(view: Views, found: Columns) -> list[Row]:
    codes, back = np.unique(found["function"], return_inverse=True)
    seconds, cpu = np.bincount(back, found["seconds"]), np.bincount(back, found["cpu_seconds"])
    samples = np.bincount(back, found["samples"])
    return [
        {
            "function": view.store.texts[int(codes[at])], "samples": int(samples[at]), "seconds": float(seconds[at]),
            "cpu_seconds": float(cpu[at]),
        }
        for at in np.argsort(-seconds, kind="stable").tolist()
    ]  # fmt: skip


def _notes(view: Views) -> list[str]:
    notes = []
    for row in view.store.rows("stacks_overflowed"):
        text = (
            f"{view.process_label(row['worker'])} was seen in more than {row['stacks_max']} different stacks: of "
            "others only the innermost function is shown"
        )
        if text not in notes:
            notes.append(text)
    return notes


# --- sums -------------------------------------------------------------------------------------------------


def _stacks(view: Views, found: Columns) -> list[Row]:
    """The stacks in the order of their codes."""
    threads = found["thread"].astype(np.int64) << 32 | found["stack"].astype(np.int64)
    keys, back = np.unique(threads, return_inverse=True)
    samples = np.bincount(back, found["samples"])
    seconds, cpu = np.bincount(back, found["seconds"]), np.bincount(back, found["cpu_seconds"])
    made = []
    for at, key in enumerate(keys.tolist()):
        thread, text = view.store.texts[key >> 32], view.store.texts[key & 0xFFFFFFFF]
        frames = (text or "(unknown)").split("\n")
        made.append({
            "frames": [f"(thread {thread})", *frames] if thread else frames, "samples": int(samples[at]),
            "seconds": float(seconds[at]), "cpu_seconds": float(cpu[at]), "_key": key,
        })  # fmt: skip
    return made


def _sides(view: Views, function: str) -> tuple[Array, Array, float, float]:
    """Rows of the slow and of the fast tasks of a function, and from and up to which run time they count as such."""
    table = view.task_table
    code = view.store.texts.find(function)
    rows = np.flatnonzero(
        (table["name"] == (-1 if code is None else code)) & (table["ended_attempt"] >= 0)
        & (table["worker_outcome"] == int(Outcome.OK))
    )  # fmt: skip
    if len(rows) < COMPARED_TASKS_MIN:
        raise LookupError(
            f"{len(rows)} task(s) of {function} ended well; to tell slow ones from fast ones it takes at least "
            f"{COMPARED_TASKS_MIN}"
        )
    seconds = table["run_seconds"][rows]
    slowest = np.sort(seconds)[-max(1, len(seconds) // 10) :]
    fast_to, slow_from = float(np.median(seconds)), float(slowest[0])
    if slow_from <= fast_to:
        raise LookupError(f"no task of {function} is slower than the others: all take about {fast_to:.3g} s")
    return rows[seconds >= slow_from], rows[seconds <= fast_to], slow_from, fast_to


def _compared(
    view: Views, found: Columns, rows: Array, sides: tuple[Array, Array, float, float], stacks: list[Row]
) -> Row:
    slow, fast, slow_from, fast_to = sides
    keys = found["thread"].astype(np.int64) << 32 | found["stack"].astype(np.int64)
    counts = {}
    for name, chosen in (("slow", slow), ("fast", fast)):
        mine = np.isin(rows, chosen)
        counts[name] = int(found["samples"][mine].sum())
        sums: dict[int, float] = {}
        own, back = np.unique(keys[mine], return_inverse=True)
        if len(own):
            sums = dict(zip(own.tolist(), np.bincount(back, found["seconds"][mine]).tolist(), strict=True))
        for row in stacks:
            row[f"{name}_seconds"] = sums.get(row["_key"], 0.0) / len(chosen)
    notes = [
        f"only {count} samples of {name} tasks: take it as a hint"
        for name, count in counts.items()
        if count < FEW_SAMPLES
    ]
    seconds = view.task_table["run_seconds"]
    return {
        "slow_tasks": len(slow), "fast_tasks": len(fast), "slow_from_seconds": slow_from, "fast_to_seconds": fast_to,
        "slow_mean_seconds": float(seconds[slow].mean()), "fast_mean_seconds": float(seconds[fast].mean()),
        "slow_samples": counts["slow"], "fast_samples": counts["fast"], "notes": notes,
    }  # fmt: skip


def _lines(stacks: list[Row]) -> list[Row]:
    """The innermost lines, most time first."""
    found: dict[str, Row] = {}
    for row in stacks:
        row.pop("_key", None)
        line = found.setdefault(row["frames"][-1], {"line": row["frames"][-1], "seconds": 0.0, "cpu_seconds": 0.0})
        for name in ("seconds", "cpu_seconds", "slow_seconds", "fast_seconds"):
            if name in row:
                line[name] = line.get(name, 0.0) + row[name]
    return sorted(found.values(), key=lambda row: -row["seconds"])[:LINES_MAX]


# --- trees ------------------------------------------------------------------------------------------------


class Node:
    """One function in the tree of who called whom: ``total`` with what it called, ``own`` without.

    ``before``: the same of the other side of a comparison. ``cpu``: how much of ``total`` was on a CPU.
    """

    __slots__ = ("before", "children", "cpu", "name", "own", "total")

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = self.own = self.cpu = self.before = 0.0
        self.children: dict[str, Node] = {}

    def sorted(self) -> list[Node]:
        """What it called, most time first."""
        return sorted(self.children.values(), key=lambda node: (-node.total, -node.before, node.name))

    def to_row(self) -> Row:
        """As plain values, for JSON."""
        return {
            "name": self.name, "seconds": self.total, "own_seconds": self.own, "cpu_seconds": self.cpu,
            "fast_seconds": self.before, "children": [child.to_row() for child in self.sorted()],
        }  # fmt: skip


def tree(found: Row, lines: bool = False, cpu: bool = False) -> Node:
    """The answer of ``profile`` as a tree. ``lines`` tells lines of a function apart; ``cpu`` counts time on CPUs only.

    Of a comparison ``total`` is that of slow tasks, ``before`` that of fast ones.
    """
    compared = found["slow_vs_fast"] is not None
    root = Node(found["what"])
    for stack in found["stacks"]:
        seconds = stack["slow_seconds"] if compared else stack["cpu_seconds"] if cpu else stack["seconds"]
        before = stack["fast_seconds"] if compared else 0.0
        if seconds <= 0 and before <= 0:
            continue
        on_cpu = seconds if cpu else seconds * min(1.0, stack["cpu_seconds"] / (stack["seconds"] or 1.0))
        node = root
        for step in _path(stack["frames"], lines):
            node.total += seconds
            node.before += before
            node.cpu += on_cpu
            node = node.children.setdefault(step, Node(step))
        node.total += seconds
        node.before += before
        node.cpu += on_cpu
        node.own += seconds
    return root


def _path(frames: Iterable[str], lines: bool) -> list[str]:
    return list(frames) if lines else [_LINE.sub(")", frame) for frame in frames]


def collapsed(found: Row) -> str:
    """One line for each stack, ``a;b;c 1234`` in microseconds: the format of flame graph tools."""
    return "".join(
        f"{';'.join(frame.replace(';', ',') for frame in stack['frames'])} {max(1, round(stack['seconds'] * 1e6))}\n"
        for stack in found["stacks"]
    )
