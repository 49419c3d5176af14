"""Why a task (or an actor) has no worker yet: out of the scheduler's newest decision about its shape."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.answers.answer import Answer, Code
from obsray.telemetry.answers.holders import Holder, holders, lacking, told
from obsray.telemetry.explain import duration, reason_text
from obsray.telemetry.queue_time import amounts
from obsray.telemetry.tables import NS, Row
from obsray.telemetry.tasks import QUEUED

if TYPE_CHECKING:
    from obsray.telemetry.answers.why import Explainer

_CODES = {
    "no_capacity": Code.NO_CAPACITY, "infeasible": Code.INFEASIBLE, "worker_starting": Code.WORKER_START,
    "worker_limit": Code.WORKER_LIMIT, "store_full": Code.STORE_FULL, "placement": Code.PLACEMENT,
    "affinity": Code.AFFINITY, "labels": Code.LABELS, "draining": Code.DRAINING, "fairness": Code.FAIRNESS,
    "environment": Code.ENVIRONMENT, "environment_failed": Code.ENVIRONMENT_FAILED, "locality": Code.ELSEWHERE,
    "gpus_kept_free": Code.ELSEWHERE,
    "capacity_free": Code.ON_ITS_WAY, "removed": Code.PLACEMENT_REMOVED, "node_died": Code.NODE_DIED,
}  # fmt: skip
_FIXES = {
    Code.NO_CAPACITY: "Wait for the holders, ask for less per task, or add workers or nodes.",
    Code.INFEASIBLE: "Ask for less, or add a node that has it; the task runs by itself as soon as one joins.",
    Code.LABELS: "Add a node with these labels, or change label_selector.",
    Code.AFFINITY: "Choose a node that is alive, or let the strategy be soft.",
    Code.WORKER_LIMIT: "End actors that are not needed (each has a process), wait for others outside of tasks, use "
    "fewer kinds of environments, or raise workers_max.",
    Code.ENVIRONMENT: "The environment is made once; later tasks find it there.",
    Code.DRAINING: "Add a node, or stop draining this one.",
}
#: Seconds after which a demand without an answer means that the scheduler is behind.
_LATE_SECONDS = 0.5


def code_of(decision: Row) -> Code:
    """The code of a decision's reason; what kind of infeasible it is can be read off its words."""
    code = _CODES.get(decision["reason"], Code.UNKNOWN)
    deficit = decision["deficit"]
    if "may run on node" in deficit:
        return Code.AFFINITY
    if decision["outcome"] == "infeasible" and code not in (Code.LABELS, Code.DRAINING):
        return Code.DRAINING if "drain" in deficit else Code.INFEASIBLE
    return code


def reason(explainer: Explainer, raw: Row) -> Answer:
    """Why a queued task has no worker."""
    view = explainer.view
    shape = explainer.text("shape", raw["row"])
    owner = ids.owner_of(raw["id"])
    since = max(raw["retried_at"], raw["ready_at"], raw["submitted_at"])
    waited = explainer.since(since)
    latest = view.lease_table.latest.get((owner, shape))
    ahead, mine = _queue(explainer, raw, owner, shape)
    if latest is None:
        return _unanswered(explainer, raw, owner, shape, waited)
    waiting = view.lease_table.waiting.get((owner, shape))
    if latest["outcome"] in ("granted", "withdrawn", "spilled") or waiting is None:
        made = _behind_its_own(explainer, raw, latest, waiting, waited, mine)
    else:
        made = explained(explainer, latest, raw["id"], waited)
        made = explainer.answer(raw, made.code, made.predicate, made.fix, made.because)
        made.facts = explainer.candidates(latest)
    if ahead:
        many = "task is" if ahead == 1 else "tasks are"
        made.facts.append(f"{ahead} {many} ahead of it, of the same owner and shape")
    usual = explainer.usual_seconds(raw["row"])
    if usual is not None and made.code in (Code.NO_CAPACITY, Code.BEHIND_OTHERS, Code.FAIRNESS):
        made.eta_seconds = (ahead + 1) * usual / max(1, len(mine))
    return made


def _queue(explainer: Explainer, raw: Row, owner: bytes, shape: str) -> tuple[int, list[Holder]]:
    """How many queued tasks of the same owner and shape are ahead of a task, and the leases its owner holds for it."""
    view, table = explainer.view, explainer.view.task_table
    rows = table.open_rows
    same = rows[(table["shape"][rows] == table["shape"][raw["row"]]) & (table["state"][rows] == QUEUED)]
    words = np.ascontiguousarray(table["id"][same]).view("<u8").reshape(-1, 2)
    me = np.frombuffer(raw["id"], "<u8")
    before = (words[:, 0] == me[0]) & (words[:, 1].byteswap() < me[1:].byteswap()[0])
    mine = [
        holder
        for holder in holders(view, [])
        if holder.shape == shape and not holder.actor and _owner_of_lease(view, holder.worker) == owner
    ]
    return int(np.count_nonzero(before)), mine


def _owner_of_lease(view: Any, worker: bytes) -> bytes:
    return next((row["owner"] for row in view.lease_table.held.values() if row["worker"] == worker), b"")


def _unanswered(explainer: Explainer, raw: Row, owner: bytes, shape: str, waited: str) -> Answer:
    demand = explainer.view.lease_table.demand.get((owner, shape))
    if demand is None:
        return explainer.answer(
            raw, Code.ON_ITS_WAY, f"was submitted {waited} ago; its owner has not asked for a worker yet"
        )
    late = (explainer.now - demand["time_ns"]) / NS
    lag = explainer.view.samples.newest("node_sample").get("loop_lag_seconds", 0.0)
    predicate = f"has waited {waited}: the scheduler has not answered the demand for {shape} of {duration(late)} ago"
    if late > _LATE_SECONDS and lag:
        predicate += f" (its loop is {duration(lag)} late)"
    return explainer.answer(raw, Code.SCHEDULER, predicate)


def _behind_its_own(
    explainer: Explainer, raw: Row, latest: Row, waiting: Row | None, waited: str, mine: list[Holder]
) -> Answer:
    """The newest word was a grant (or a hand-over): others of the same shape come first, on the workers they have."""
    if latest["outcome"] == "spilled":
        node = latest["chosen_node"].hex()[:8]
        return explainer.answer(
            raw, Code.ELSEWHERE,
            f"has waited {waited}: node {node} was asked for a worker because {reason_text(latest['reason'])} here",
        )  # fmt: skip
    busy = [holder for holder in mine if holder.row >= 0]
    if not busy:
        if waiting is not None and latest["wanted"] > 1:
            made = explained(explainer, waiting, raw["id"], waited)
            return explainer.answer(raw, made.code, made.predicate, made.fix, made.because)
        return explainer.answer(
            raw, Code.ON_ITS_WAY, f"has waited {waited}: a worker was granted and is on its way to its owner"
        )
    blocked = _blocked_chain(explainer, mine)
    if blocked is not None:
        return explainer.answer(
            raw, Code.DEADLOCK, f"has waited {waited} for room on the workers of its shape, but all of them wait: "
            f"{told(mine)}", blocked.fix, blocked,
        )  # fmt: skip
    code = Code.NO_CAPACITY if waiting is not None and waiting["reason"] == "no_capacity" else Code.BEHIND_OTHERS
    count = f"{len(mine)} worker{'s' * (len(mine) > 1)}"
    predicate = f"has waited {waited} for room on the {count} that its owner holds for it: {told(mine)}"
    if code is Code.NO_CAPACITY and waiting is not None:
        predicate += f"; there is no capacity for more ({waiting['deficit']})"
    return explainer.answer(raw, code, predicate, _FIXES[Code.NO_CAPACITY])


def explained(explainer: Explainer, decision: Row, identifier: bytes, waited: str) -> Answer:
    """What a decision that is no grant means for whoever waits: code, predicate, fix and what it waits for."""
    code = code_of(decision)
    deficit, view = decision["deficit"], explainer.view
    because: Answer | None = None
    asked = " ".join(f"{name}:{value:g}" for name, value in amounts(decision["shape"]).items())
    if code is Code.NO_CAPACITY:
        return _no_capacity(explainer, decision, waited)
    if code in (Code.INFEASIBLE, Code.LABELS, Code.AFFINITY):
        said = {
            Code.INFEASIBLE: "no node can ever run it", Code.LABELS: "no node has the labels it asks for",
            Code.AFFINITY: "it is bound to a node that cannot take it",
        }[code]  # fmt: skip
        predicate = f"has waited {waited}: {said}: {deficit or reason_text(decision['reason'])}"
        if code is Code.INFEASIBLE and asked and not deficit:
            predicate += f" (it asks for {asked})"
    elif code is Code.WORKER_START:
        predicate = f"has waited {waited} for a worker process that is starting{_starting(explainer)}"
    elif code is Code.ENVIRONMENT:
        environment = view.environment_table.of_shape(decision["shape"])
        predicate = f"has waited {waited} for its runtime environment, which is being made"
        if environment:
            since = explainer.since(environment.get("asked_at_ns") or 0)
            predicate += f" since {since} ({environment['description']})"
    elif code is Code.PLACEMENT:
        predicate = f"has waited {waited} for its placement group: {deficit}"
        group = view.group_table.rows.get(decision["group"])
        if group is not None and group["state"] != "CREATED":
            because = explainer.explain(decision["group"])
            predicate = f"has waited {waited} for {because.subject}"
    else:
        said = reason_text(decision["reason"])
        predicate = f"has waited {waited}: {said}{f' ({deficit})' if deficit else ''}"
    return Answer("", identifier.hex(), "", "", "", code, predicate, _FIXES.get(code, ""), because=because)


def _no_capacity(explainer: Explainer, decision: Row, waited: str) -> Answer:
    deficit, view = decision["deficit"], explainer.view
    lacks = lacking(deficit)
    group = decision["group"] if any(decision["group"]) else b""
    found = holders(view, lacks, group)
    where = " in its placement group" if group else ""
    predicate = f"has waited {waited} for {_needed(deficit) or 'room'}{where}"
    if found:
        predicate += f", held by {told(found)}"
    for resource in lacks:
        chain = _blocked_chain(explainer, [holder for holder in found if amounts(holder.shape).get(resource)])
        if chain is not None:
            predicate += f"; whoever holds {resource} waits in get for tasks that need it, too"
            return Answer("", "", "", "", "", Code.DEADLOCK, predicate, chain.fix, because=chain)
    return Answer("", "", "", "", "", Code.NO_CAPACITY, predicate, _FIXES[Code.NO_CAPACITY])


def _needed(deficit: str) -> str:
    """``CPU 1 more (0 of 2 free)`` as ``CPU (1 more needed, 0 of 2 free)``."""
    return re.sub(r"([\w.\-:/]+) (\S+(?: \w+)?) more \(([^()]*)\)", r"\1 (\2 more needed, \3)", deficit)


def _blocked_chain(explainer: Explainer, found: list[Holder]) -> Answer | None:
    """If every holder waits in get for what cannot run without them: the chain that shows it."""
    if not found or not all(holder.blocked for holder in found):
        return None
    table = explainer.view.task_table
    for holder in found:
        chain = explainer.explain(table["id"][holder.row].tobytes())
        if chain.root.code is Code.DEADLOCK:
            return chain
    return None


def _starting(explainer: Explainer) -> str:
    rows = [
        row for row in explainer.view.process_table.rows.values()
        if row["starting_at_ns"] and not row["registered_at_ns"] and not row["died_at_ns"]
    ]  # fmt: skip
    if not rows:
        return ""
    first = min(rows, key=lambda row: row["starting_at_ns"])
    return f": worker {first['worker_id'][:8]}, begun {explainer.since(first['starting_at_ns'])} ago"
