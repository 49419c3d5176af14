"""What all threads of a cluster do now, merged: equal stacks once, with who is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.store import joined
from obsray.telemetry.table import same_id
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

Row = dict[str, Any]
#: Stacks of a process that does not answer, out of its last samples.
LAST_SAMPLES_MAX = 8


def merged(view: Views, processes: list[Row], silent: list[Row], thing: str = "", everything: bool = False) -> Row:
    """``processes`` are rows of ``live_stacks.gather`` with their ``node``, ``silent`` nodes that did not answer.

    ``stacks``: ``frames`` (outermost first), ``count``, ``who`` (``process``, ``label``, ``thread``, and of what runs
    a task ``task``, ``function``, ``seconds``), most first. ``thing`` (hex): only this worker, node, task or actor.
    Threads of the runtime itself, and idle workers, only with ``everything``. Of a process that does not answer its
    last samples are told, with their age. Raises LookupError if ``thing`` names nothing that lives here, ValueError for
    what is no id.
    """
    chosen, task = _chosen(view, processes, thing)
    now = view.now_ns()
    found: dict[tuple[str, ...], Row] = {}
    hidden = 0
    for process in chosen:
        for thread in process["threads"] or _last_samples(view, process, now):
            if task and thread.get("task") != task:
                continue
            if not everything and not thing and _is_ours(process, thread):
                hidden += 1
                continue
            key = tuple(thread["stack"])
            row = found.setdefault(key, {"frames": thread["stack"], "count": 0, "who": []})
            row["count"] += 1
            row["who"].append(_who(view, process, thread, now))
    stacks = sorted(found.values(), key=lambda row: (-row["count"], -_longest(row), row["frames"]))
    unheard = [
        {"process": row["process"], "label": view.process_label(bytes.fromhex(row["process"])), "why": row["why"]}
        for row in chosen
        if row["how"] == "silent"
    ]
    return {
        "stacks": stacks, "processes": len(chosen), "threads": sum(row["count"] for row in stacks), "hidden": hidden,
        "unheard": unheard, "silent_nodes": silent,
        "by_signal": sum(row["how"] == "signal" for row in chosen),
    }  # fmt: skip


def _chosen(view: Views, processes: list[Row], thing: str) -> tuple[list[Row], str]:
    """The processes that are meant, and the task if only that is."""
    if not thing:
        return processes, ""
    try:
        identifier = bytes.fromhex(thing)
    except ValueError:
        raise ValueError(f"an id is a hex number, not {thing!r}") from None
    if len(identifier) == ids.WORKER_ID_BYTES:
        found = [row for row in processes if thing in (row["process"], row["node"])]
        if not found:
            raise LookupError(f"no living process has the id {thing}, nor has a living node")
        return found, ""
    actor = view.actor_table.rows.get(identifier)
    if actor is not None:
        found = [row for row in processes if row["process"] == actor["worker_id"]]
        if not found:
            raise LookupError(f"actor {actor['class_name']} ({ids.short(identifier)}) has no living process now")
        return found, ""
    found = [row for row in processes if any(thread.get("task") == thing for thread in row["threads"])]
    if not found:
        # One that does not answer may be named by its black box only.
        running = {now.process.hex() for now in view.running if now.task == identifier}
        found = [row for row in processes if row["process"] in running]
        if not found:
            raise LookupError(f"task {view.task_label(identifier)} does not run now; see obsray why {thing}")
        return found, ""
    return found, thing


def _is_ours(process: Row, thread: Row) -> bool:
    """Whether a thread is the runtime's own: of a process that runs no user code, or beside user code."""
    return process["kind"] not in ("driver", "worker") or bool(thread.get("runtime"))


def _who(view: Views, process: Row, thread: Row, now: int) -> Row:
    identifier = bytes.fromhex(process["process"])
    started = thread.get("started_at_ns")
    return {
        "process": process["process"], "label": view.process_label(identifier), "pid": process["pid"],
        "node": process["node"], "thread": thread.get("name") or "", "how": thread.get("how", process["how"]),
        "task": thread.get("task"), "function": thread.get("function"),
        "task_label": view.task_label(bytes.fromhex(thread["task"])) if thread.get("task") else None,
        "seconds": max(0, now - started) / NS if started else None, "age_seconds": thread.get("age_seconds"),
    }  # fmt: skip


def _longest(row: Row) -> float:
    return max((who["seconds"] or 0.0 for who in row["who"]), default=0.0)


def _last_samples(view: Views, process: Row, now: int) -> list[Row]:
    """What a process that does not answer was seen in last, thread by thread."""
    if process["how"] != "silent":
        return []
    return last_samples(view, bytes.fromhex(process["process"]), now)


def last_samples(view: Views, process: bytes, now: int) -> list[Row]:
    """The last sample of each task and thread of a process, newest first, as threads."""
    found = joined(view.store.select("stack_sampled", lambda c: same_id(c["process"], process)), "stack_sampled")
    texts = view.store.texts
    told: dict[tuple[bytes, int], Row] = {}
    for at in np.argsort(found["time_ns"], kind="stable")[::-1].tolist():
        key = found["task"][at].tobytes(), int(found["thread"][at])
        if key in told:
            continue
        row = view.task_table.index.row(key[0])
        started = int(view.task_table["started_at"][row]) if row >= 0 else 0
        told[key] = {
            "name": texts[key[1]] or "main", "stack": (texts[int(found["stack"][at])] or "(unknown)").split("\n"),
            "how": "sample", "age_seconds": max(0, now - int(found["time_ns"][at])) / NS,
            "at_ns": int(found["time_ns"][at]), "seconds": float(found["seconds"][at]),
            "cpu_seconds": float(found["cpu_seconds"][at]),
        }  # fmt: skip
        if any(key[0]):
            told[key] |= {
                "task": key[0].hex(), "function": texts[int(found["function"][at])], "started_at_ns": started or None,
            }  # fmt: skip
        if len(told) >= LAST_SAMPLES_MAX:
            break
    return list(told.values())
