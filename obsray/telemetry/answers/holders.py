"""Who holds what: leases and the tasks on them now, and which tasks ran while another one waited."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from obsray.telemetry.explain import duration, task_label
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import BLOCKED, RUNNING, STATES

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

_AMOUNT = re.compile(r"(?:^|\s)([\w.\-:/]+):([\d.]+)(?=\s|$)")
_LACK = re.compile(r"([\w.\-:/]+) [\d.]+\s?\w* more \(")
_NOT_RESOURCES = ("env",)


class Holder(NamedTuple):
    """One lease, and what runs on its worker. ``row``: that of its task, -1 if nothing runs there."""

    worker: bytes
    shape: str
    since_ns: int
    actor: str
    row: int
    blocked: bool
    text: str


def amounts(shape: str) -> dict[str, float]:
    """The resources that the name of a shape asks for: ``CPU:1 GPU:0.5`` and whatever stands around it."""
    return {name: float(value) for name, value in _AMOUNT.findall(shape) if name not in _NOT_RESOURCES}


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


def ran_meanwhile(view: Views, start: int, end: int, without: int, shape: str) -> list[tuple[str, float]]:
    """Functions whose tasks ran between two instants, with the seconds of it that they took, most first. Only those
    that hold something of what ``shape`` asks for."""
    wanted = set(amounts(shape))
    table = view.task_table
    began, ended = table["started_at"], table["ended_at"]
    until = np.where(ended >= began, ended, end)
    overlap: Array = np.minimum(until, end) - np.maximum(began, start)
    rows = np.flatnonzero((began > 0) & (overlap > 0))
    rows = rows[rows != without]
    if wanted and len(rows):
        # Calls of actors have no shape of their own: their actor holds what it was given.
        codes = np.unique(table["shape"][rows])
        competing = [code for code in codes.tolist() if wanted & set(amounts(view.store.texts[code]))]
        rows = rows[np.isin(table["shape"][rows], competing)]
    if not len(rows):
        return []
    sums = np.bincount(table["name"][rows], weights=overlap[rows] / NS)
    order = np.argsort(sums)[::-1]
    return [(view.store.texts[int(code)], float(sums[code])) for code in order[:3].tolist() if sums[code] > 0]


def state_of(view: Views, row: int) -> str:
    return STATES[int(view.task_table["state"][row])]
