"""Who holds what: leases and the tasks on them now."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from obsray.telemetry.explain import duration, task_label
from obsray.telemetry.queue_time import amounts
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import BLOCKED, RUNNING, STATES

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

_LACK = re.compile(r"([\w.\-:/]+) [\d.]+\s?\w* more \(")


class Holder(NamedTuple):
    """One lease, and what runs on its worker. ``row``: that of its task, -1 if nothing runs there."""

    worker: bytes
    shape: str
    since_ns: int
    actor: str
    row: int
    blocked: bool
    text: str


def lacking(deficit: str) -> list[str]:
    """The resources that a decision says are missing."""
    return list(dict.fromkeys(_LACK.findall(deficit)))


def holders(view: Views, resources: list[str], group: bytes = b"") -> list[Holder]:
    """The leases that hold any of ``resources`` (all if empty), longest first; with ``group`` those inside of it."""
    running = {now.process: now for now in view.running}
    found = []
    table = view.task_table
    for lease in view.lease_table.held.values():
        held = amounts(lease["shape"])
        if resources and not any(held.get(name) for name in resources):
            continue
        if group and any(group) and lease["group"] != group:
            continue
        worker = lease["worker"]
        process = view.process_table.rows.get(worker) or {}
        if process.get("died_at_ns"):
            continue
        now = running.get(worker)
        row = table.index.row(now.task) if now is not None else -1
        if now is None:
            mine = table.open_rows[table["worker"][table.open_rows] == table.workers.row(worker)]
            here = mine[np.isin(table["state"][mine], (RUNNING, BLOCKED))]
            row = int(here[0]) if len(here) else -1
        found.append(_holder(view, lease, process.get("actor_id") or "", row))
    found.sort(key=lambda holder: holder.since_ns)
    return found


def _holder(view: Views, lease: dict[str, Any], actor: str, row: int) -> Holder:
    worker, table, now = lease["worker"], view.task_table, view.now_ns()
    where = f"worker {worker.hex()[:8]}"
    since, blocked = lease["time_ns"], False
    if actor:
        known = view.actor_table.rows.get(bytes.fromhex(actor)) or {}
        text = f"actor {known.get('class_name') or actor[:8]} on {where} for {_since(since, now)}"
    elif row >= 0:
        blocked = int(table["state"][row]) == BLOCKED
        label = task_label(view.store.texts[int(table["name"][row])], table["id"][row].tobytes())
        started = int(table["started_at"][row]) or since
        how = ", which waits in get," if blocked else ""
        text = f"{label}{how} on {where} for {_since(started, now)}"
    else:
        text = f"{where}, leased for {lease['shape']} and idle, for {_since(since, now)}"
    return Holder(worker, lease["shape"], since, actor, row, blocked, text)


def _since(then: int, now: int) -> str:
    return duration(max(0, now - then) / NS)


def told(found: list[Holder], most: int = 3) -> str:
    """The holders as a part of a sentence."""
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(holder.text for holder in found[:most]) + more


def state_of(view: Views, row: int) -> str:
    return STATES[int(view.task_table["state"][row])]
