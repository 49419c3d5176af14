"""Whether what a thing is with stands still: its worker, its node, its owner, or the process that forks workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obsray import ids
from obsray.telemetry.answers.answer import Answer, Code
from obsray.telemetry.explain import duration
from obsray.telemetry.tables import NS, Row

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

#: Codes of what has a process, and of what waits for one.
_WITH_PROCESS = frozenset({Code.RUNNING, Code.BLOCKED_IN_GET, Code.ON_ITS_WAY, Code.IDLE, Code.BEHIND_OTHERS})
#: Of what is there, whoever has it to give is its owner.
_THERE = frozenset({Code.FINISHED, Code.IN_STORE, Code.SPILLED})
_WITHOUT = frozenset(
    {Code.SCHEDULER, Code.WORKER_START, Code.ON_ITS_WAY, Code.ENVIRONMENT, Code.NO_CAPACITY, Code.UNKNOWN}
)


def add_halt(view: Views, identifier: bytes, answer: Answer) -> None:
    """Say so in the answer about a thing that waits for nothing else, if that is why it does not go on."""
    if answer.because is not None or answer.code not in _WITH_PROCESS | _WITHOUT | _THERE:
        return
    halts = view.halts(refresh=False)
    if answer.code in _THERE:
        _add_owner(view, identifier, answer, halts)
        return
    row = _halt_of(view, halts, identifier, answer) if halts else None
    if row is None:
        return
    seconds = duration(max(0, view.now_ns() - row["halted_at_ns"]) / NS)
    answer.code = Code.STANDS_STILL
    answer.predicate += f"; {row['label']} has stood still for {seconds}: {row['why']}"
    answer.fix = row["fix"]


def _add_owner(view: Views, identifier: bytes, answer: Answer, halts: list[Row]) -> None:
    owner = ids.owner_of(identifier).hex()
    row = next((row for row in halts if row["worker_id"] == owner), None)
    if row is not None:
        answer.predicate += f"; its owner, {row['label']}, stands still and gives it to nobody: {row['why']}"
        answer.fix = row["fix"]


def _halt_of(view: Views, halts: list[Row], identifier: bytes, answer: Answer) -> Row | None:
    """The process that it needs and that stands still."""
    by_worker = {row["worker_id"]: row for row in halts if row["worker_id"]}
    worker, node = _place(view, identifier)
    if worker in by_worker:
        return by_worker[worker]
    owner = ids.owner_of(identifier).hex()
    if answer.code not in _WITHOUT or worker:
        return next((row for row in halts if row["name"] == "node" and row["node_id"] == node), None)
    home = _node_of(view, identifier)
    here = [row for row in halts if not home or row["node_id"] == home]
    found = [row for row in here if row["name"] == "node"] or [row for row in here if row["name"] == "zygote"]
    return by_worker.get(owner) or (found[0] if found else None)


def _place(view: Views, identifier: bytes) -> tuple[str, str]:
    """The worker (hex) that a task or actor is with, and its node; "" if none."""
    actor = identifier
    row = view.task_table.index.row(identifier)
    if row >= 0:
        table = view.task_table
        at = int(table["worker"][row])
        if at >= 0:
            worker = table.workers.ids[at]
            return worker.hex(), _node_of(view, worker)
        actor = table["actor"][row].tobytes()
    known = view.actor_table.rows.get(actor)
    if known is None or known["state"] != "ALIVE":
        return "", ""
    return known["worker_id"] or "", known["node_id"] or ""


def _node_of(view: Views, identifier: bytes) -> str:
    """The node where something is at home, "" if nobody has told of it."""
    mark = ids.mark_of(identifier).hex()
    return next((row["node_id"] for row in view.cluster_table.nodes.values() if row["node_id"].startswith(mark)), "")
