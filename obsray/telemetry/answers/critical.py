"""The critical path of a job: backwards from its end, always to what came last, and what its time went into.

Each piece of the path is one kind of work: the driver, a part of a task, a result on its way, a place to run. Slack
says how much later a task might have ended before anybody who needed it had waited longer.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.answers.gpu_time import NAMES, GpuTime, union
from obsray.telemetry.answers.gpus import shares_of
from obsray.telemetry.answers.graph import (
    ARGUMENT,
    CAPACITY,
    EPSILON_NS,
    RETRY,
    SLOT,
    WORKER,
    Graph,
    job_to_look_at,
    keys,
)
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]
Piece = tuple[str, int, int, int]

KINDS = {
    "driver": "the driver computed or submitted",
    "fetch": "arguments were brought to the worker",
    "deserialise": "functions and arguments became Python objects, with the imports that they need",
    "run": "user code ran",
    "store": "results were written",
    "return": "a result was on its way to who waited for it",
    "dispatch": "a task that could run was handed to a worker",
    "queue": "a task waited for a place to run",
    "worker start": "a process started",
    "failed attempts": "earlier attempts of a task failed",
    "blocked": "somebody waited for what is not known",
}
#: Kinds that are parts of tasks.
_PARTS = ("fetch", "deserialise", "run", "store")
#: Pieces of the path that are shown one by one.
PIECES_SHOWN = 1000
TASKS_SHOWN = 20


def critical_path(view: Views, job: int | None = None, refresh: bool = True) -> Row:
    """What a job's duration consists of. Raises LookupError for a job without tasks.

    ``kinds`` and ``functions``: seconds of the path by kind and by function; ``path``: its pieces from the beginning
    (the longest ``PIECES_SHOWN``); ``gpu``: what the GPUs of its tasks did while these ran (empty without any);
    ``seconds``: its length, which is the job's from its first task's submission to its
    end; ``nearly``: the tasks beside the path with the least slack; ``sentence``.
    """
    if refresh:
        view.refresh()
    number = job_to_look_at(view, job)
    graph = Graph(view, number)
    if not graph.count:
        raise LookupError(f"no task of job {number:08x} has ended yet")
    pieces = walk(graph)
    begin, end = pieces[-1][1], pieces[0][2]
    total = (end - begin) / NS
    kinds, functions = _sums(graph, pieces)
    found: Row = {
        "job_id": f"{number:08x}",
        "from_ns": begin,
        "to_ns": end,
        "seconds": total,
        "tasks": graph.count,
        "tasks_on_path": len({task for _, _, _, task in pieces if task >= 0}),
        "kinds": [
            {"kind": kind, "seconds": kinds[kind], "share": kinds[kind] / total if total else 0.0, "what": KINDS[kind]}
            for kind in sorted(kinds, key=lambda one: -kinds[one])
        ],
        "functions": [
            {"name": name, "seconds": seconds, "share": seconds / total if total else 0.0}
            for name, seconds in sorted(functions.items(), key=lambda pair: -pair[1])
        ],
        "path": _shown(graph, pieces),
        "pieces": len(pieces),
        "nearly": _nearly(graph, pieces),
    }
    found["gpu"] = gpu_parts(view, graph, pieces)
    found["sentence"] = _sentence(found)
    return found


def _sums(graph: Graph, pieces: list[Piece]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by kind and by function."""
    names, low, high, task = zip(*pieces, strict=True)
    seconds = (np.array(high, np.int64) - np.array(low, np.int64)) / NS
    number = {kind: at for at, kind in enumerate(dict.fromkeys(names))}
    of_kind = np.bincount(np.fromiter(map(number.__getitem__, names), np.int64, len(names)), seconds)
    tasks = np.array(task, np.int64)
    codes = graph.name[tasks[tasks >= 0]]
    of_name = np.bincount(codes, seconds[tasks >= 0]) if len(codes) else np.empty(0)
    functions: dict[str, float] = {}
    for code in np.unique(codes).tolist():
        name = graph.view.store.texts[code]
        functions[name] = functions.get(name, 0.0) + float(of_name[code])
    return dict(zip(number, of_kind.tolist(), strict=True)), functions


def gpu_parts(view: Views, graph: Graph, pieces: list[Piece]) -> list[Row]:
    """Seconds of GPUs within the tasks on the path, where these are on it: work, and idleness by cause.

    A task with two GPUs has twice its time.
    """
    of_task: dict[int, list[tuple[int, int]]] = {}
    for _, low, high, task in pieces:
        if task >= 0:
            of_task.setdefault(int(graph.row[task]), []).append((low, high))
    if not view.gpu_table.kernels_total or not of_task:
        return []
    time = GpuTime(view, pieces[-1][1], pieces[0][2])
    own = time.pieces.take(time.pieces.attempt >= 0)
    rows = time.attempts.row[own.attempt] if len(own.attempt) else own.attempt
    order = np.argsort(rows, kind="stable")
    sums = np.zeros(len(NAMES))
    for row, spans in of_task.items():
        low, high = np.searchsorted(rows[order], [row, row + 1])
        mine = own.take(order[low:high])
        for begin, end in zip(*(each.tolist() for each in union(*np.array(spans, np.int64).T)), strict=True):
            seconds = np.maximum(np.minimum(mine.end, end) - np.maximum(mine.start, begin), 0) / NS
            sums += np.bincount(mine.activity, seconds, len(NAMES))
    return shares_of(dict(zip(NAMES, sums.tolist(), strict=True)))


# --- the walk ----------------------------------------------------------------------------------------------


def walk(graph: Graph) -> list[Piece]:
    """The pieces (kind, from, to, task or -1) of the path, newest first, without gaps."""
    at, context = graph.finish()
    floor = int(graph.submitted.min())
    columns = {
        name: getattr(graph, name).tolist()
        for name in ("start", "end", "submitted", "context", "bound", "bound_at", "bound_by", "ready_at", "ready_by")
    }
    waits = _waits_of(graph)
    parts = _edges_of_parts(graph)
    passed: set[tuple[int, int]] = set()
    pieces: list[Piece] = []

    def add(kind: str, low: int, high: int, task: int) -> None:
        if high > low:
            pieces.append((kind, low, high, task))

    while at > floor:
        is_task = context < graph.count
        begin = columns["start"][context] if is_task else floor
        wait = _last_wait(waits.get(context), at)
        if wait is not None and wait[0] > begin:
            ended, began, awaited = wait
            _inside(add, parts, columns, context if is_task else -1, min(ended, at), at)
            if awaited >= 0 and columns["end"][awaited] <= at:
                there = columns["end"][awaited]
                add("return", min(there, ended), min(ended, at), awaited)
                at, context = min(there, ended), awaited
            elif awaited >= 0 and columns["start"][awaited] < ended and (context, at) not in passed:
                # An item of a task that went on: it was there when the wait was over.
                passed.add((context, at))
                at, context = min(ended, at), awaited
            else:
                low = max(min(began, at), begin)
                add("blocked", low, min(ended, at), context if is_task else -1)
                at = low
            continue
        _inside(add, parts, columns, context if is_task else -1, begin, at)
        if not is_task:
            break
        at, context = _before_start(add, columns, context)
    return pieces


def _before_start(add: Any, columns: dict[str, list[int]], task: int) -> tuple[int, int]:
    """From the start of a task to what it waited for last: when, and in which context to go on."""
    start, bound, bound_at = columns["start"][task], columns["bound"][task], columns["bound_at"][task]
    add("dispatch", bound_at, start, task)
    if bound in (ARGUMENT, SLOT, CAPACITY):
        return bound_at, columns["bound_by"][task]
    if bound in (WORKER, RETRY):
        ready = min(columns["ready_at"][task], bound_at)
        add("worker start" if bound == WORKER else "failed attempts", ready, bound_at, task)
        if columns["ready_by"][task] >= 0:
            return ready, columns["ready_by"][task]
    return columns["submitted"][task], columns["context"][task]


def _edges_of_parts(graph: Graph) -> list[list[int]]:
    """Where the parts of each task meet: its start, the ends of fetching, deserialising and running, its end."""
    fetch, unpack, store = (
        (graph.seconds(f"{name}_seconds") * NS).astype(np.int64) for name in ("fetch", "deserialize", "store")
    )
    fetched = np.minimum(graph.start + fetch, graph.end)
    unpacked = np.minimum(fetched + unpack, graph.end)
    return [one.tolist() for one in (fetched, unpacked, np.maximum(graph.end - store, unpacked))]


def _inside(add: Any, parts: list[list[int]], columns: dict[str, list[int]], task: int, low: int, high: int) -> None:
    """The pieces of a context between two instants, newest first: of a task its parts, in their order."""
    if task < 0:
        add("driver", low, high, -1)
        return
    fetched, unpacked, ran = parts[0][task], parts[1][task], parts[2][task]
    if high > ran:
        add("store", ran if ran > low else low, high, task)
        high = ran
    if high > unpacked:
        add("run", unpacked if unpacked > low else low, high, task)
        high = unpacked
    if high > fetched:
        add("deserialise", fetched if fetched > low else low, high, task)
        high = fetched
    add("fetch", low, high, task)


def _waits_of(graph: Graph) -> dict[int, tuple[list[int], list[int], list[int]]]:
    """Context -> ends, starts and awaited tasks of its waits, by end."""
    found: dict[int, tuple[list[int], list[int], list[int]]] = {}
    edges = np.flatnonzero(np.diff(graph.wait_context, prepend=-1))
    for low, high in zip(edges.tolist(), np.append(edges[1:], len(graph.wait_context)).tolist(), strict=False):
        found[int(graph.wait_context[low])] = (
            graph.wait_end[low:high].tolist(), graph.wait_start[low:high].tolist(), graph.wait_for[low:high].tolist(),
        )  # fmt: skip
    return found


def _last_wait(waits: tuple[list[int], list[int], list[int]] | None, at: int) -> tuple[int, int, int] | None:
    if waits is None:
        return None
    ends, starts, awaited = waits
    number = bisect_right(ends, at) - 1
    return (ends[number], starts[number], awaited[number]) if number >= 0 else None


# --- slack -------------------------------------------------------------------------------------------------


def slack_seconds(graph: Graph) -> Array:
    """For each task how much later it might have ended before what needs its result had waited longer."""
    finish, _ = graph.finish()
    source, target, room = _edges(graph)
    order = np.argsort(target, kind="stable")
    source, target, room = source[order], target[order], room[order]
    slack = (finish - graph.end) / NS
    fed = np.zeros(graph.count, np.bool_)
    fed[source] = True
    slack[fed] = np.inf
    outgoing = np.bincount(source[target < graph.count], minlength=graph.count)
    # Waits of drivers are where a delay is felt at once: no further slack behind them.
    driver = target >= graph.count
    np.minimum.at(slack, source[driver], room[driver])
    source, target, room = source[~driver], target[~driver], room[~driver]
    edges = np.searchsorted(target, np.arange(graph.count + 1))
    front = np.flatnonzero(outgoing == 0)
    while len(front):
        lengths = edges[front + 1] - edges[front]
        into = np.repeat(edges[front] - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
        made = source[into]
        np.minimum.at(slack, made, np.repeat(slack[front], lengths) + room[into])
        np.subtract.at(outgoing, made, 1)
        candidates = np.unique(made)
        front = candidates[outgoing[candidates] == 0]
    found: Array = np.where(np.isfinite(slack), np.maximum(slack, 0.0), 0.0)
    return found


def _edges(graph: Graph) -> tuple[Array, Array, Array]:
    """Who needed whose end: (task, needing task or driver's number, seconds to spare)."""
    producer, consumer = graph.argument_of[:, 0], graph.argument_of[:, 1]
    earlier = graph.end[producer] <= graph.start[consumer]
    producer, consumer = producer[earlier], consumer[earlier]
    spare = (np.maximum(graph.bound_at[consumer], graph.end[producer]) - graph.end[producer]) / NS
    # A child whose context waited until after it had ended.
    child = np.arange(graph.count)
    base = int(graph.start.min()) - EPSILON_NS
    known = keys(graph.wait_context, graph.wait_end, base)
    mine = keys(graph.context, graph.end - EPSILON_NS // 4, base)
    at = np.searchsorted(known, mine)
    inside = np.minimum(at, max(len(known) - 1, 0))
    good = (at < len(known)) if len(known) else np.zeros(graph.count, np.bool_)
    if len(known):
        good &= (graph.wait_context[inside] == graph.context) & (graph.wait_start[inside] <= graph.end + EPSILON_NS)
        good &= (graph.context >= graph.count) | (graph.end[np.minimum(graph.context, graph.count - 1)] >= graph.end)
        good &= graph.context != child
    waited = (graph.wait_end[inside[good]] - graph.end[good]) / NS if len(known) else np.empty(0)
    return (
        np.concatenate([producer, child[good]]),
        np.concatenate([consumer, graph.context[good]]),
        np.concatenate([spare, np.maximum(waited, 0.0)]),
    )


def _nearly(graph: Graph, pieces: list[Piece]) -> list[Row]:
    """Long tasks beside the path that have the least slack."""
    slack = slack_seconds(graph)
    on_path = np.zeros(graph.count, np.bool_)
    on_path[[task for _, _, _, task in pieces if task >= 0]] = True
    length = (graph.end - graph.start) / NS
    beside = np.flatnonzero(~on_path & (length > 0))
    # What is both long and tight: how long it ran for each second it may slip.
    weight = length[beside] / (slack[beside] + 0.01)
    chosen = beside[np.argsort(weight)[::-1][:TASKS_SHOWN]]
    return [
        {
            "task_id": graph.view.task_table["id"][graph.row[number]].tobytes().hex(), "name": graph.name_of(number),
            "seconds": float(length[number]), "slack_seconds": float(slack[number]),
            "from_ns": int(graph.start[number]),
        }
        for number in chosen.tolist()
    ]  # fmt: skip


# --- words -------------------------------------------------------------------------------------------------


def _shown(graph: Graph, pieces: list[Piece]) -> list[Row]:
    kept = pieces
    if len(pieces) > PIECES_SHOWN:
        bound = sorted((high - low for _, low, high, _ in pieces), reverse=True)[PIECES_SHOWN - 1]
        kept = [piece for piece in pieces if piece[2] - piece[1] >= bound][:PIECES_SHOWN]
    table = graph.view.task_table
    found = []
    for kind, low, high, task in reversed(kept):
        identifier = table["id"][graph.row[task]].tobytes() if task >= 0 else b""
        found.append(
            {
                "kind": kind, "from_ns": low, "to_ns": high, "seconds": (high - low) / NS,
                "task_id": identifier.hex() or None, "task": ids.short(identifier) if identifier else None,
                "name": graph.name_of(task) if task >= 0 else None,
            }
        )  # fmt: skip
    return found


def _sentence(found: Row) -> str:
    kinds = [f"{row['share']:.0%} {row['kind']}" for row in found["kinds"][:3] if row["share"] >= 0.01]
    text = f"the critical path of job {found['job_id']} is {found['seconds']:.3g} s long: {', '.join(kinds)}"
    functions = [f"{row['name']} ({row['share']:.0%})" for row in found["functions"][:2] if row["share"] >= 0.05]
    return f"{text}; most of it in {' and '.join(functions)}" if functions else text
