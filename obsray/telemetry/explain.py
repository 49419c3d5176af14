"""Why a task took as long as it did, and why one does not run yet: sentences made from the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obsray import ids
from obsray.telemetry.tasks import BLOCKED, DISPATCHED, FINISHED, QUEUED, RUNNING, WAITING_ARGUMENTS

Row = dict[str, Any]
_NS = 1_000_000_000
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

_REASONS = {
    "none": "",
    "capacity_free": "capacity was free",
    "no_capacity": "no capacity free",
    "infeasible": "no node can ever run it",
    "worker_starting": "a worker process is starting",
    "worker_limit": "the limit of worker processes is reached",
    "reclaimed_for_others": "workers were given to others that wait",
    "blocked_in_get": "a task waits in get",
    "idle_timeout": "nothing was left to do",
    "owner_died": "the owner died",
    "worker_died": "the worker died",
    "store_full": "the object store is full",
    "placement": "its placement group",
    "affinity": "the node it must run on is not free",
    "locality": "its data is elsewhere",
    "gpus_kept_free": "it needs no GPU, and nodes without one have room",
    "draining": "the node is draining",
    "node_died": "the node died",
    "fairness": "others are served first",
    "labels": "no node has the labels it asks for",
    "removed": "it was removed",
    "environment": "its environment is being made",
    "environment_failed": "its environment cannot be made",
}


def reason_text(reason: str) -> str:
    """A reason of a decision in words."""
    return _REASONS.get(reason, reason.replace("_", " "))


def duration(seconds: float) -> str:
    """A duration for people: ``0.8 ms``, ``1.2 s``, ``3 min 20 s``."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """A number of bytes for people, in binary units as everywhere: ``64 B``, ``47.7 MiB``."""
    step = 0
    while count >= 1024 and step < len(_BINARY) - 1:
        count /= 1024
        step += 1
    return f"{count:.0f} B" if step == 0 else f"{three_digits(count)} {_BINARY[step]}"


def three_digits(value: float) -> str:
    """``4``, ``3.14``, ``41.5``, ``512``."""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Piece:
    """Builds the ordered list of where the time went."""

    def __init__(self) -> None:
        self.pieces: list[Row] = []

    def add(self, what: str, from_ns: int, to_ns: int, why: str, seconds: float | None = None) -> int:
        """Append one piece if it has a length; returns where the next begins."""
        if from_ns and to_ns and to_ns > from_ns:
            length = (to_ns - from_ns) / _NS if seconds is None else seconds
            self.pieces.append({"what": what, "seconds": length, "from_ns": from_ns, "to_ns": to_ns, "why": why})
        return max(from_ns, to_ns)


def time_split(raw: Row, now_ns: int, why_queued: str) -> list[Row]:
    """Where the time of the last attempt went, in order. ``raw`` holds the task's fields out of the table."""
    pieces = Piece()
    submitted, ready = raw["submitted_at"], raw["ready_at"]
    # What ended it while it waited, or before its worker could say how it went.
    cut = raw["finished_at"] if raw["state"] >= FINISHED else 0
    at = submitted or raw["dispatched_at"] or raw["started_at"]
    if raw["unready"]:
        until = ready or (now_ns if raw["state"] == WAITING_ARGUMENTS else at if raw["dispatched_at"] else cut or at)
        number = raw["unready"]
        at = pieces.add("waiting for arguments", at, until, f"{number} argument{'s' * (number > 1)} did not exist yet")
    if raw["retried_at"] and raw["attempt"]:
        pieces.add("earlier attempts", at, raw["retried_at"], _failed_attempts(raw["attempt"]))
        at = max(at, raw["retried_at"])
    until = raw["dispatched_at"] or (now_ns if raw["state"] == QUEUED else 0 if raw["started_at"] else cut)
    at = pieces.add("queued", at, until, why_queued) if until else at
    started = raw["started_at"]
    until = started or (now_ns if raw["state"] == DISPATCHED else cut if raw["dispatched_at"] else 0)
    worker = raw["worker_label"]
    if until:
        at = pieces.add("dispatch", at, until, f"on its way to {worker} and behind what was sent there before")
    if not started:
        return pieces.pieces
    if raw["ended_at"] >= started:
        _finished_split(pieces, raw)
    elif raw["state"] in (RUNNING, BLOCKED):
        if raw["state"] == BLOCKED:
            at = pieces.add("run", started, raw["blocked_at"], f"running on {worker}")
            pieces.add("blocked in get", at, now_ns, "waits for a value; its CPU is given back")
        else:
            pieces.add("run", started, now_ns, f"running on {worker}")
    else:
        pieces.add("run", started, cut, f"running on {worker}, which did not live to say how it went")
    return pieces.pieces


def _failed_attempts(count: int) -> str:
    return f"{count} attempt{'s' * (count > 1)} failed in this time"


def _finished_split(pieces: Piece, raw: Row) -> None:
    at, worker = raw["started_at"], raw["worker_label"]

    def step(what: str, seconds: float, why: str) -> None:
        nonlocal at
        end = at + int(seconds * _NS)
        pieces.add(what, at, end, why, seconds)
        at = end

    step("fetch arguments", raw["fetch_seconds"], "arguments were mapped or copied to the worker")
    given = f"the function, if it was new there, and {size(raw['argument_bytes'])} of arguments became Python objects"
    step("deserialise", raw["deserialize_seconds"], given)
    cpu = min(raw["cpu_seconds"], raw["run_seconds"])
    step("run", raw["run_seconds"], f"in {raw['name']} on {worker}, {duration(cpu)} of it on a CPU")
    step("blocked in get", raw["blocked_seconds"], "waited inside get, wait or put; its CPU was given back")
    step("store result", raw["store_seconds"], f"{size(raw['result_bytes'])} of result were stored or sent")


def pending_reason(raw: Row, now_ns: int, facts: PendingFacts) -> str | None:
    """Why a task does not run yet, as one sentence; None if it runs or is over."""
    state = raw["state"]
    if state >= FINISHED or state in (RUNNING, BLOCKED):
        return None
    since = raw["retried_at"] or raw["ready_at"] or raw["submitted_at"]
    waited = duration(max(0, now_ns - since) / _NS) if since else "some time"
    if state == WAITING_ARGUMENTS:
        missing = facts.missing_arguments()
        if missing:
            return f"waits {waited} for {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}"
        return f"waits {waited} for {raw['unready']} argument(s) that do not exist yet"
    if state == DISPATCHED:
        sent = duration(max(0, now_ns - raw["dispatched_at"]) / _NS)
        return f"sent to {raw['worker_label']} {sent} ago; it runs there when what was sent before is done"
    decision = facts.decision
    if decision is None:
        return f"queued {waited}: the scheduler has not answered its owner's demand yet"
    return f"queued {waited}: {decision_text(decision)}{facts.holders()}"


class PendingFacts:
    """What ``pending_reason`` asks about: the newest decision for the task's shape, and questions answered lazily."""

    def __init__(
        self, decision: Row | None, missing_arguments: Callable[[], list[str]], holders: Callable[[], str]
    ) -> None:
        self.decision = decision
        self.missing_arguments = missing_arguments
        self.holders = holders


def decision_text(decision: Row) -> str:
    """What a lease decision says, in words."""
    deficit = decision["deficit"]
    said = reason_text(decision["reason"])
    if decision["outcome"] == "infeasible":
        return f"infeasible: {deficit or said}"
    if decision["outcome"] == "granted":
        return f"a worker was granted ({said}) and is on its way"
    if decision["reason"] == "placement" and deficit:
        return str(deficit)
    return f"{said} ({deficit})" if deficit else said or decision["outcome"]


def label(process: Row | None, process_id: bytes) -> str:
    """How a process is called in sentences: ``worker 3fa2c1d0 (pid 123)``."""
    kind = process["kind"] if process else "worker"
    pid = f" (pid {process['pid']})" if process and process["pid"] else ""
    return f"{kind} {process_id.hex()[:8]}{pid}"


def task_label(name: str, task: bytes) -> str:
    return f"{name or 'task'} ({ids.short(task)})"
