"""Where the time of a task that is over went, with the reason of each part, and why one failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray import ids
from obsray.causes import gist
from obsray.telemetry.answers.answer import Answer, Code
from obsray.telemetry.explain import duration, size
from obsray.telemetry.tables import NS, Row

if TYPE_CHECKING:
    from obsray.telemetry.answers.tasks import Tasks
    from obsray.telemetry.views import Views

#: Parts of a task's time below this share of all of it are not worth a word in its sentence.
_TOLD_SHARE = 0.05
_PARTS_TOLD_MAX = 4
_FAILURES = {
    "app_error": (Code.APP_ERROR, "failed: its function raised"),
    "oom": (Code.OUT_OF_MEMORY, "failed: its worker was killed because it ran out of memory"),
    "worker_died": (Code.WORKER_DIED, "failed: its worker died"),
    "node_died": (Code.NODE_DIED, "failed: its worker was lost with its node"),
    "lost_argument": (Code.ARGUMENT_LOST, "failed: an argument was lost"),
    "unschedulable": (Code.INFEASIBLE, "failed: it can never run"),
    "placement_removed": (Code.PLACEMENT_REMOVED, "failed: its placement group was removed"),
    "environment_failed": (Code.ENVIRONMENT_FAILED, "failed: its runtime environment cannot be made"),
    "nested_too_deep": (Code.WORKER_LIMIT, "failed: every process there may be waited for others"),
    "owner_died": (Code.OWNER_DIED, "failed"),
    "result_lost": (Code.LOST, "finished, and its result was lost"),
}
_FIXES = {
    Code.OUT_OF_MEMORY: "Use less memory in a task, run fewer at once (memory=...), or give the node more.",
    Code.APP_ERROR: "See the traceback: obsray get task {}.",
    Code.WORKER_DIED: "See what the process printed last: obsray logs --task {}.",
    Code.WORKER_LIMIT: "Pass references as arguments instead of getting them inside of tasks, or raise workers_max.",
    Code.ENVIRONMENT_FAILED: "Mend runtime_env; nothing in it is tried again by itself.",
}


def time_of(view: Views, raw: Row) -> list[Row]:
    """The parts of a task's time in order; waiting in the queue is split by what the scheduler said meanwhile."""
    found = []
    for piece in view.time_split(raw, view.now_ns(), ""):
        if piece["what"] == "fetch arguments":
            found.append({**piece, "why": _fetched(view, raw, piece)})
        elif piece["what"] == "waiting for arguments":
            found.append({**piece, "why": _last_argument(view, raw) or piece["why"]})
        elif piece["what"] == "dispatch" and piece["seconds"] > 0.001:
            found.append({**piece, "why": _before_it(view, raw) or piece["why"]})
        else:
            found.append(piece)
    return found


def _fetched(view: Views, raw: Row, piece: Row) -> str:
    """What was brought to the worker while it fetched arguments."""
    # The collector and the nodes read the same clock, but a record is written a moment after what it tells of.
    low, high = piece["from_ns"] - NS // 100, piece["to_ns"] + NS // 100
    for event, done in (("transfer_done", "pulling"), ("object_restored", "reading from disk")):
        count, total, source = 0, 0, ""
        for columns in view.store.select(event):
            times = columns["time_ns"].astype(np.int64)
            here = (times >= low) & (times <= high)
            count += int(np.count_nonzero(here))
            total += int(columns["object_bytes"][here].sum())
            if event == "transfer_done" and here.any():
                source = f" from node {columns['source'][here][0].tobytes().hex()[:8]}"
        if count:
            return f"{done} {size(total)}{source}"
    return str(piece["why"])


def _last_argument(view: Views, raw: Row) -> str:
    ready = view.store.about("task_ready", "task", raw["id"], 10)
    if not ready or not any(ready[-1]["last_argument"]):
        return ""
    return f"the last to come was the result of {view.task_label(ids.task_of(ready[-1]['last_argument']))}"


def _before_it(view: Views, raw: Row) -> str:
    """What ran on its worker between its arrival and its start."""
    table = view.task_table
    mine = int(table["worker"][raw["row"]])
    there = np.flatnonzero((table["worker"] == mine) & (table["ended_at"] > raw["dispatched_at"]))
    there = there[(table["started_at"][there] > 0) & (table["started_at"][there] < raw["started_at"])]
    if not len(there):
        return ""
    names = np.bincount(table["name"][there])
    what = f"{len(there)} task{'s' * (len(there) > 1)} of {view.store.texts[int(names.argmax())]}"
    return f"behind {what} on {raw['worker_label']}"


def summary(view: Views, raw: Row, parts: list[Row]) -> str:
    """The end of a sentence: how long it took, and the largest parts of it in order."""
    total = sum(part["seconds"] for part in parts)
    attempts = f" in {raw['attempt'] + 1} attempts" if raw["attempt"] else ""
    if not parts:
        return f"finished{attempts}"
    shown = sorted(parts, key=lambda part: -part["seconds"])[:_PARTS_TOLD_MAX]
    shown = [part for part in parts if part in shown and part["seconds"] >= _TOLD_SHARE * total]
    told = "; ".join(f"{duration(part['seconds'])} {_short(part, raw)}" for part in shown)
    return f"took {duration(total)}{attempts}: {told}"


def _short(part: Row, raw: Row) -> str:
    what = part["what"]
    if what == "run":
        return f"running {raw['name']} ({duration(min(raw['cpu_seconds'], raw['run_seconds']))} on a CPU)"
    if what in ("queued", "dispatch", "waiting for arguments", "fetch arguments", "earlier attempts"):
        return f"{what} ({part['why']})" if part["why"] else str(what)
    return str(what)


def failure(explainer: Tasks, raw: Row, outcome: str, said: str) -> Answer:
    """Why a task failed for good."""
    view = explainer.view
    code, predicate = _FAILURES.get(outcome, (Code.SYSTEM_ERROR, "failed by an error of the runtime"))
    if outcome in ("oom", "worker_died", "node_died"):
        deaths = _deaths(view, raw)
        if raw["attempt"]:
            predicate += f", {raw['attempt'] + 1} times in all"
        if deaths and deaths[-1]["cause"] == "oom":
            predicate += f"; it used {size(max(death['rss_bytes'] for death in deaths))}"
        if deaths and deaths[-1]["cause"] == "node_died":
            code = Code.NODE_DIED
    elif outcome == "owner_died":
        predicate += " while it ran" if raw["started_at"] > raw["retried_at"] else " before it began"
    elif "owner" in said.lower() and "died" in said.lower():
        code = Code.OWNER_DIED
    elif "node" in said.lower() and ("dead" in said.lower() or "does not exist" in said.lower()):
        code = Code.AFFINITY if outcome == "unschedulable" else code
    text = f"{predicate}: {said}" if said else predicate
    made = explainer.answer(raw, code, text, _FIXES.get(code, "").format(ids.short(raw["id"])))
    made.facts += [f"attempt {r['attempt']} {r['outcome']}: {gist(r['error'])}" for r in _retries(view, raw)]
    return made


def _retries(view: Views, raw: Row) -> list[Row]:
    return view.store.about("task_retried", "task", raw["id"]) if raw["attempt"] else []


def _deaths(view: Views, raw: Row) -> list[Row]:
    return view.store.about("worker_died", "last_task", raw["id"], 100)
