"""Post-mortem of a process: why it ended, what it did last, and what it had."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry import story
from obsray.telemetry.answers.stacks import last_samples
from obsray.telemetry.events import BY_NAME, signal_text
from obsray.telemetry.explain import size
from obsray.telemetry.objects import FREED
from obsray.telemetry.sentences import sentence
from obsray.telemetry.spine import read_now
from obsray.telemetry.store import joined
from obsray.telemetry.table import same_id
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array, Columns
    from obsray.telemetry.views import Views

Row = dict[str, Any]
EVENTS_MAX = 40
OBJECTS_MAX = 20
POINTS_MAX = 120
#: Records of a process looked at for its last ones; samples between them are many and say nothing here.
_TAIL_RECORDS = 5_000
_NOTICED_NS = NS
_ACTORS = (ids.SEQUENCE_ACTOR, ids.SEQUENCE_DETACHED_ACTOR)


def post_mortem(view: Views, thing: str, refresh: bool = True) -> Row:
    """What is left of a worker, of the last process of an actor, or of the one that a task ended with (hex).

    ``sentence``; ``cause`` (``cause``, ``exit_code``, ``signal``, ``error``, for memory ``used_bytes``,
    ``limit_bytes``, ``held_bytes``); ``running``: tasks that it was in the middle of; ``stacks``: what its threads were
    seen in last; ``memory``: its resident bytes over time; ``objects``: what it owned and mapped; ``events``: what it
    did last. Raises LookupError if nothing is known about it, ValueError for what is no id.
    """
    if refresh:
        view.refresh()
    process = _process_of(view, thing)
    row = view.process_table.rows.get(process)
    if row is None:
        raise LookupError(f"no process {process.hex()} is recorded in this session")
    died = row["died_at_ns"] or row["closed_at_ns"]
    until = died or view.now_ns()
    cause = _cause(view, process, row)
    running = _running(view, process, row)
    memory = _memory(view, process)
    return {
        "process": process.hex(), "label": view.process_label(process), "pid": row["pid"], "kind": row["kind"],
        "actor_id": row["actor_id"], "alive": died is None, "died_at_ns": died,
        "lived_seconds": max(0, until - row["registered_at_ns"]) / NS if row["registered_at_ns"] else None,
        "sentence": _sentence(view, process, row, cause, running), "cause": cause, "running": running,
        "stacks": last_samples(view, process, until), "memory": memory, "objects": _objects(view, process),
        "events": _events(view, process),
    }  # fmt: skip


def _process_of(view: Views, thing: str) -> bytes:
    try:
        identifier = bytes.fromhex(thing)
    except ValueError:
        raise ValueError(f"an id is a hex number, not {thing!r}") from None
    if len(identifier) == ids.WORKER_ID_BYTES:
        return identifier
    if len(identifier) != ids.TASK_ID_BYTES:
        raise ValueError(f"{thing} is no id of a worker, an actor or a task")
    if ids.kind_of(identifier) in _ACTORS and identifier in view.actor_table.rows:
        placed = view.store.about("actor_placed", "actor", identifier)
        if not placed:
            raise LookupError(f"actor {ids.short(identifier)} never had a process; see obsray why {thing}")
        dead = [one for one in placed if (view.process_table.rows.get(one["worker"]) or {}).get("died_at_ns")]
        worker: bytes = (dead or placed)[-1]["worker"]
        return worker
    row = view.task_table.index.row(identifier)
    if row < 0:
        raise LookupError(f"nothing is recorded about {thing}")
    attempts = view._attempts(row, identifier, view._task_row(row, view.now_ns()))
    deaths = ("worker_died", "oom", "node_died", "actor_died")
    killed = [one for one in attempts if one["worker_id"] and one["outcome"] in deaths]
    ran = [one for one in attempts if one["worker_id"]]
    if not ran:
        # It took its process with it so soon that nobody had told that it runs: its node says in the middle of what.
        ended = view.store.about("worker_died", "last_task", identifier)
        if ended:
            last: bytes = ended[-1]["worker"]
            return last
        raise LookupError(f"{view.task_label(identifier)} never ran; see obsray why {thing}")
    return bytes.fromhex((killed or ran)[-1]["worker_id"])


# --- why --------------------------------------------------------------------------------------------------


def _cause(view: Views, process: bytes, row: Row) -> Row:
    pressure = view.store.about("memory_pressure", "worker", process)
    last = pressure[-1] if pressure else {}
    return {
        "cause": row["died_cause"], "exit_code": row["exit_code"] if row["died_cause"] == "exit_code" else None,
        "signal": row["signal"] or None, "error": row["error"] or None, "peak_rss_bytes": row["rss_bytes"],
        "used_bytes": last.get("used_bytes"), "limit_bytes": last.get("limit_bytes"),
        "held_bytes": last.get("held_bytes"), "why_this_one": last.get("error"),
    }  # fmt: skip


def _running(view: Views, process: bytes, row: Row) -> list[Row]:
    """Tasks it was in the middle of, by its black box, by the attempts that ended with it, or by its node's word."""
    table = view.task_table
    tasks: dict[bytes, int] = {
        task: started_at for task, started_at, _, _ in read_now(view.store.rings.directory, process)
    }
    if row["died_at_ns"] is None:
        tasks |= {now.task: now.started_at_ns for now in view.running if now.process == process}
    elif row["last_task"] and row["died_cause"] not in ("intended", "idle"):
        tasks.setdefault(bytes.fromhex(row["last_task"]), 0)
    found = []
    for task, began in tasks.items():
        at = table.index.row(task)
        started = began or (int(table["started_at"][at]) if at >= 0 else 0)
        until = row["died_at_ns"] or view.now_ns()
        found.append({
            "task": task.hex(), "label": view.task_label(task), "started_at_ns": started or None,
            "seconds": max(0, until - started) / NS if started else None,
        })  # fmt: skip
    return found


def _sentence(view: Views, process: bytes, row: Row, cause: Row, running: list[Row]) -> str:
    label = view.process_label(process)
    doing = f", in the middle of {', '.join(one['label'] for one in running[:3])}" if running else ""
    if row["died_at_ns"] is None:
        ended = "ended in order" if row["closed_at_ns"] else "lives"
        return f"{label} {ended}{doing if not row['closed_at_ns'] else ''}"
    how = {
        "intended": "ended as asked", "idle": "ended because it had nothing to do",
        "exit_code": f"exited with code {row['exit_code']}", "oom": "was killed because memory ran out",
        "signal": f"was killed by {signal_text(row['signal'])}",
        "killed_by_request": "was killed on request", "parent_died": "was killed with the process that forks workers",
        "owner_died": "was killed after the end of its owner",
        "start_failed": "did not come up", "placement_removed": "was killed with its placement group",
        "node_died": "was lost with its node",
    }.get(row["died_cause"] or "", f"ended ({row['died_cause']})")  # fmt: skip
    numbers = ""
    if cause["limit_bytes"]:
        numbers = f": {size(cause['used_bytes'])} of {size(cause['limit_bytes'])} were in use"
        if cause["held_bytes"]:
            numbers += f", {size(cause['held_bytes'])} of it by this process"
        if cause["why_this_one"]:
            numbers += f"; {cause['why_this_one']}"
    elif cause["error"] and cause["error"] not in how:
        numbers = f": {cause['error']}"
    return f"{label} {how}{doing}{numbers}"


# --- what it had ------------------------------------------------------------------------------------------


def _memory(view: Views, process: bytes) -> Row:
    """Its resident memory as the collector saw it, thinned out to ``POINTS_MAX`` points with the peaks kept."""
    found = joined(view.store.select("process_sample", lambda c: same_id(c["worker"], process)), "process_sample")
    order = np.argsort(found["time_ns"], kind="stable")
    times, rss = found["time_ns"][order], found["rss_bytes"][order].astype(np.int64)
    if not len(times):
        return {"points": [], "peak_bytes": None, "first_bytes": None, "last_bytes": None}
    parts = np.array_split(np.arange(len(times)), min(POINTS_MAX, len(times)))
    highest = [int(part[np.argmax(rss[part])]) for part in parts]
    return {
        "points": [{"at_ns": int(times[at]), "rss_bytes": int(rss[at])} for at in highest],
        "peak_bytes": int(rss.max()), "first_bytes": int(rss[0]), "last_bytes": int(rss[-1]),
    }  # fmt: skip


def _objects(view: Views, process: bytes) -> Row:
    """What it owned and was not freed before it ended, and what it mapped last."""
    table = view.object_table
    count = table.index.count
    died = (view.process_table.rows.get(process) or {}).get("died_at_ns") or view.now_ns()
    owned: list[Row] = []
    total = 0
    if count:
        states = table.states()
        owners = np.ascontiguousarray(table["id"][:count]).view(np.uint8).reshape(-1, ids.OBJECT_ID_BYTES)[:, :8]
        mine = (owners == np.frombuffer(process, np.uint8)).all(axis=1)
        # What its node freed because it was gone was there until then; its end is noticed and recorded a little later.
        mine &= (states != FREED) | (table["freed_at"][:count] >= died - _NOTICED_NS)
        rows = np.flatnonzero(mine)
        total = int(table["bytes"][rows].sum())
        for row in rows[np.argsort(-table["bytes"][rows].astype(np.int64), kind="stable")][:OBJECTS_MAX].tolist():
            facts = view._object_row(row, states, died)
            owned.append(
                {name: facts[name] for name in ("object_id", "bytes", "kind", "producer", "call_site", "state")}
            )
        count = len(rows)
    pinned: dict[bytes, int] = {}
    for record in view.store.about("object_pinned", "worker", process)[::-1]:
        pinned.setdefault(record["object"], int(record["object_bytes"]))
    return {
        "owned": owned, "owned_count": count, "owned_bytes": total,
        "mapped": [{"object_id": one.hex(), "bytes": many} for one, many in list(pinned.items())[:OBJECTS_MAX]],
        "mapped_count": len(pinned), "mapped_bytes": sum(pinned.values()),
    }  # fmt: skip


def _events(view: Views, process: bytes) -> list[Row]:
    """What it recorded itself last, and what others recorded about it, oldest first."""
    reader = view.store.ring(process)
    records: list[Row] = []
    if reader is not None:
        after = max(0, reader.state.position - _TAIL_RECORDS)

        def mine(columns: Columns) -> Array:
            return same_id(columns["process"], process) & (columns["sequence"] > after)

        names: dict[str, Callable[[Columns], Array]] = dict.fromkeys(BY_NAME.keys() - story.SAMPLES, mine)
        records = view.store.mentions(names, {}, EVENTS_MAX * 8)
    own = [
        {
            "time_ns": record["time_ns"], "event": record["event"], "process_label": view.process_label(process),
            "text": sentence(record, view),
        }
        for record in records[-EVENTS_MAX:]
    ]  # fmt: skip
    about = [
        {name: record[name] for name in ("time_ns", "event", "process_label", "text")}
        for record in story.tell(view, process.hex())
        if record["process"] != process.hex()
    ]
    return sorted([*own, *about[-EVENTS_MAX:]], key=lambda record: int(record["time_ns"]))[-EVENTS_MAX:]
