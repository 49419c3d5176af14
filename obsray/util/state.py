"""The state API: what runs, what ran and what exists, as rows with attributes.

    from obsray.util import state
    state.list_tasks(filters=[("name", "=", "square"), ("state", "!=", "FINISHED")])

Answers come from the telemetry of a session directory: the running session's, or of any session on this machine given
as ``address`` (its name or path; the newest if there is none), also after it ended. Nothing is cut before it is
filtered. A filter is ``(key, "=" or "!=", value)`` with a key of the row; all must hold; text is compared without
regard to case. Fields marked as detail are None without ``detail=True``. ``timeout`` and ``raise_on_missing_output``
are accepted for compatibility: an answer is complete and needs no other process.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from obsray.core.protocol.addresses import is_address
from obsray.core.runtime import joining
from obsray.core.runtime.questions import ask as ask_node
from obsray.core.runtime.session import current_or_none
from obsray.errors import RaySystemError
from obsray.telemetry import asking
from obsray.telemetry.store import find_session
from obsray.telemetry.tasks import STATES as TASK_STATES
from obsray.telemetry.views import Views
from obsray.util.state_rows import (
    ERROR_OUTCOMES,
    TASK_TYPES,
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateRow,
    TaskState,
    WorkerState,
    actor_row,
    environment_row,
    event_row,
    group_row,
    job_row,
    member_row,
    node_row,
    object_row,
    task_rows,
    worker_row,
)

Filter = tuple[str, str, Any]
T = TypeVar("T")
R = TypeVar("R", bound=StateRow)

LIMIT_DEFAULT = 100
_MB = 1 << 20

#: Keys that the views can compare themselves and that are the same for every attempt of a task.
_TASK_KEYS = frozenset({"task_id", "name", "type", "actor_id", "parent_task_id"})
_OPERATORS = ("=", "!=")
_EXISTING: list[Filter] = [("state", "!=", "FREED"), ("state", "!=", "LOST")]


def ask(address: str | None, question: Callable[[Views], T]) -> T:
    """Put a question to the views of a session, brought up to date."""
    return asking.ask(_directory(address), question)


def _directory(address: str | None) -> Path:
    if address is not None:
        if is_address(address):
            return joining.find(joining.Address(address, f"address={address!r}"))
        return find_session(address)
    session = current_or_none()
    return find_session() if session is None or session.closed else session.directory


def _rows(kind: type[R], found: Iterator[R], filters: Sequence[Filter] | None, limit: int, detail: bool) -> list[R]:
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit={limit!r}: must be a number >= 1")
    _check(kind, filters)
    rows = []
    for row in found:
        if all(_holds(row[key], operator, value) for key, operator, value in filters or ()):
            rows.append(row if detail else row.without_detail())
            if len(rows) == limit:
                break
    return rows


def _check(kind: type[StateRow], filters: Sequence[Filter] | None) -> None:
    keys = [each.name for each in fields(kind)]
    for each in filters or ():
        if len(each) != 3:
            raise ValueError(f"filter {each!r}: must be (key, operator, value)")
        if each[1] not in _OPERATORS:
            raise ValueError(f"filter {each!r}: the operator must be = or !=")
        if each[0] not in keys:
            raise ValueError(f"filter {each!r}: the keys are {', '.join(keys)}")


def _holds(found: Any, operator: str, value: Any) -> bool:
    if isinstance(value, str) and found is not None:
        # Text is compared without regard to case, also the text of a number or of True.
        equal = str(found).lower() == value.lower()
    else:
        equal = bool(found == value)
    return equal if operator == "=" else not equal


# --- lists -------------------------------------------------------------------------------------------------------


def list_tasks(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[TaskState]:
    """Attempts of tasks and actor calls, newest first: each retry is a row of its own."""
    _check(TaskState, filters)
    return ask(address, lambda views: _rows(TaskState, _tasks(views, filters or (), limit), filters, limit, detail))


def _tasks(views: Views, filters: Sequence[Filter], limit: int) -> Iterator[TaskState]:
    always: list[Filter] = []
    for key, operator, value in filters:
        if key in _TASK_KEYS and isinstance(value, str):
            if key != "name" and key != "type":
                always.append((key, operator, value.lower()))
            elif operator == "=":
                # Case makes no difference: of those that contain it, the rows themselves are compared.
                always.append((key, "contains", value))
    # The views know the newest attempt of a task: of tasks that have one they can be asked more, by array operations.
    once = [*always, *_of_one_attempt(filters), ("attempt", "=", 0)]
    retried = [*always, ("attempt", ">", 0)]
    sources = (
        _pages(lambda offset: views.tasks(once, offset=offset, limit=max(limit, 256), refresh=False)),
        _pages(lambda offset: views.tasks(retried, offset=offset, limit=256, refresh=False)),
    )
    node = views.store.session().get("node")
    for row in heapq.merge(*sources, key=lambda row: row["submitted_at_ns"] or 0, reverse=True):
        found = views.task(row["task_id"], refresh=False) if row["attempt"] else None
        yield from task_rows(row, found["attempts"] if found else (), node)


def _of_one_attempt(filters: Sequence[Filter]) -> Iterator[Filter]:
    for key, operator, value in filters:
        if key == "state" and isinstance(value, str):
            yield key, operator, value.upper()
        elif operator != "=":
            continue
        elif (key == "worker_id" and isinstance(value, str)) or (key == "worker_pid" and isinstance(value, int)):
            yield key, operator, value
        elif key == "error_type" and value in ERROR_OUTCOMES:
            yield "outcome", operator, ERROR_OUTCOMES[value]


def _pages(page: Callable[[int], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        found = page(offset)
        yield from found["rows"]
        offset += len(found["rows"])
        if not found["rows"] or offset >= found["total"]:
            return


def _newest_first(*sources: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from heapq.merge(*sources, key=lambda row: row["submitted_at_ns"] or 0, reverse=True)


def list_actors(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ActorState]:
    """Actors, dead ones too, newest first."""
    return ask(
        address,
        lambda views: _rows(ActorState, map(actor_row, views.actors(refresh=False)), filters, limit, detail),
    )


def list_placement_groups(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[PlacementGroupState]:
    """Placement groups, removed ones too, newest first."""

    def question(views: Views) -> list[PlacementGroupState]:
        rows = map(group_row, views.placement_groups(refresh=False))
        return _rows(PlacementGroupState, rows, filters, limit, detail)

    return ask(address, question)


def list_objects(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ObjectState]:
    """Objects that exist, largest first. With a filter on ``state`` also those that are FREED or LOST."""
    _check(ObjectState, filters)
    mine: list[Filter] = [
        (key, operator, value.lower() if key == "object_id" else value.upper())
        for key, operator, value in filters or ()
        if key in ("object_id", "state") and isinstance(value, str)
    ]
    if not any(each[0] == "state" for each in mine):
        mine += _EXISTING

    def question(views: Views) -> list[ObjectState]:
        kinds = _process_kinds(views)
        pages = _pages(lambda offset: views.objects(mine, offset=offset, limit=max(limit, 256), refresh=False))
        found = (object_row(row, _task_state(views, row), kinds.get(row["owner"])) for row in pages)
        return _rows(ObjectState, found, filters, limit, detail)

    return ask(address, question)


def _process_kinds(views: Views) -> dict[str, tuple[str, int]]:
    return {row["worker_id"]: (row["kind"].upper(), row["pid"]) for row in views.workers(refresh=False)}


def _task_state(views: Views, row: dict[str, Any]) -> str | None:
    found = views.task_table.index.row(bytes.fromhex(row["task_id"])) if row["kind"] == "result" else -1
    return TASK_STATES[int(views.task_table["state"][found])] if found >= 0 else None


def list_workers(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[WorkerState]:
    """Workers and drivers, dead ones too."""

    def question(views: Views) -> list[WorkerState]:
        node = views.store.session().get("node")
        processes = [row for row in views.workers(refresh=False) if row["kind"] in ("worker", "driver")]
        return _rows(WorkerState, (worker_row(row, node) for row in processes), filters, limit, detail)

    return ask(address, question)


def list_nodes(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[NodeState]:
    """Nodes, dead ones too. While the runtime runs its node is asked, afterwards what was recorded."""

    def question(views: Views) -> list[NodeState]:
        facts = views.store.session()
        members = cluster_members(views.store.session_dir, facts) if views.store.is_live() else []
        recorded = [node_row(row, facts) for row in views.nodes(refresh=False)]
        rows = [member_row(member) for member in members] or recorded
        return _rows(NodeState, iter(rows), filters, limit, detail)

    return ask(address, question)


def cluster_members(directory: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What the node of a session says of all nodes of its cluster; empty for a node on its own, or a silent one."""
    if not facts.get("control_address_tcp"):
        return []
    try:
        found: list[dict[str, Any]] = ask_node(directory, "nodes")
    except (OSError, RaySystemError):
        return []
    return found


def list_jobs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[JobState]:
    """Drivers that joined, newest first."""
    return ask(address, lambda views: _rows(JobState, map(job_row, views.jobs(refresh=False)), filters, limit, detail))


def list_runtime_envs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[RuntimeEnvState]:
    """Environments that tasks, actors or drivers asked for, newest first."""

    def question(views: Views) -> list[RuntimeEnvState]:
        node = next((row["node_id"] for row in views.nodes(refresh=False)), None)
        rows = ({**row, "node_id": node} for row in views.environments(refresh=False))
        return _rows(RuntimeEnvState, map(environment_row, rows), filters, limit, detail)

    return ask(address, question)


def list_cluster_events(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ClusterEventState]:
    """Warnings and errors of the runtime, newest first: processes that died, retries, lost objects, full stores."""

    def question(views: Views) -> list[ClusterEventState]:
        # Without a filter no more are looked at than are wanted.
        found = views.troubles(limit if not filters else 1 << 30, refresh=False)
        return _rows(ClusterEventState, map(event_row, found), filters, limit, detail)

    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit={limit!r}: must be a number >= 1")
    return ask(address, question)


# --- one ---------------------------------------------------------------------------------------------------------


def get_task(id: Any, address: str | None = None, timeout: float = 30) -> TaskState | list[TaskState] | None:
    """The task of this id (hex) or of a reference to its result; a list of its attempts if there are several."""
    identifier = id if isinstance(id, str) else id.task_id().hex()
    found = list_tasks(address, [("task_id", "=", identifier)], limit=1 << 16, detail=True)
    return found if len(found) > 1 else _first(found)


def get_actor(id: str, address: str | None = None, timeout: float = 30) -> ActorState | None:
    """The actor of this id, None if there is none."""
    return _first(list_actors(address, [("actor_id", "=", id)], detail=True))


def get_placement_group(id: str, address: str | None = None, timeout: float = 30) -> PlacementGroupState | None:
    """The placement group of this id, None if there is none."""
    return _first(list_placement_groups(address, [("placement_group_id", "=", id)], detail=True))


def get_objects(id: str, address: str | None = None, timeout: float = 30) -> list[ObjectState]:
    """The object of this id, as a list; also if it is gone. Empty if there never was one."""
    found = list_objects(address, [("object_id", "=", id)], detail=True)
    for state in () if found else ("FREED", "LOST"):
        found += list_objects(address, [("object_id", "=", id), ("state", "=", state)], detail=True)
    return found


def get_worker(id: str, address: str | None = None, timeout: float = 30) -> WorkerState | None:
    """The worker of this id, None if there is none."""
    return _first(list_workers(address, [("worker_id", "=", id)], detail=True))


def get_node(id: str, address: str | None = None, timeout: float = 30) -> NodeState | None:
    """The node of this id, None if there is none."""
    return _first(list_nodes(address, [("node_id", "=", id)], detail=True))


def get_job(id: str, address: str | None = None, timeout: float = 30) -> JobState | None:
    """The job of this id, None if there is none."""
    return _first(list_jobs(address, [("job_id", "=", id)], detail=True))


def _first(found: list[R]) -> R | None:
    return found[0] if found else None


# --- summaries: over everything, not over a page -----------------------------------------------------------------


def summarize_tasks(address: str | None = None, timeout: float = 30, **_: Any) -> dict[str, Any]:
    """``{"cluster": {"summary": {name: {type, state_counts}}, "total_tasks": ...}}``, tasks by their newest attempt."""
    return ask(address, _summary_of_tasks)


def _summary_of_tasks(views: Views) -> dict[str, Any]:
    table, texts = views.task_table, views.store.texts
    names, first = np.unique(table["name"], return_index=True)
    types = {texts[code]: TASK_TYPES[kind] for code, kind in zip(names.tolist(), table["type"][first], strict=True)}
    summary = {
        row["name"]: {
            "func_or_class_name": row["name"],
            "type": types[row["name"]],
            "state_counts": row["by_state"],
        }
        for row in views.functions(refresh=False)
    }
    totals = dict(
        zip(TASK_TYPES.values(), np.bincount(table["type"], minlength=len(TASK_TYPES)).tolist(), strict=False)
    )
    return {
        "cluster": {
            "summary": summary,
            "total_tasks": totals["NORMAL_TASK"],
            "total_actor_tasks": totals["ACTOR_TASK"],
            "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
            "summary_by": "func_name",
        }
    }


def summarize_actors(address: str | None = None, timeout: float = 30, **_: Any) -> dict[str, Any]:
    """``{"cluster": {"summary": {class_name: {state_counts}}, "total_actors": ...}}``."""

    def question(views: Views) -> dict[str, Any]:
        summary: dict[str, dict[str, Any]] = {}
        actors = views.actors(refresh=False)
        for row in actors:
            entry = summary.setdefault(row["class_name"], {"class_name": row["class_name"], "state_counts": {}})
            entry["state_counts"][row["state"]] = entry["state_counts"].get(row["state"], 0) + 1
        return {"cluster": {"summary": summary, "total_actors": len(actors), "summary_by": "class"}}

    return ask(address, question)


def summarize_objects(address: str | None = None, timeout: float = 30, **_: Any) -> dict[str, Any]:
    """``{"cluster": {"summary": {call site: {total_objects, total_size_mb, ...}}, ...}}`` of the objects that exist."""

    def question(views: Views) -> dict[str, Any]:
        summary: dict[str, dict[str, Any]] = {}
        total_bytes = total = 0
        owners: dict[str, set[str]] = {}
        for row in _pages(lambda offset: views.objects(_EXISTING, offset=offset, limit=1 << 14, refresh=False)):
            site = row["call_site"] or row["producer"] or "unknown"
            entry = summary.setdefault(site, {"total_objects": 0, "total_size_mb": 0.0, "state_counts": {}})
            entry["total_objects"] += 1
            entry["total_size_mb"] += row["bytes"] / _MB
            entry["state_counts"][row["state"]] = entry["state_counts"].get(row["state"], 0) + 1
            owners.setdefault(site, set()).add(row["owner"])
            total, total_bytes = total + 1, total_bytes + row["bytes"]
        for site, entry in summary.items():
            entry["total_num_workers"] = len(owners[site])
            entry["total_num_nodes"] = 1
        return {
            "cluster": {
                "summary": summary,
                "total_objects": total,
                "total_size_mb": total_bytes / _MB,
                "callsite_enabled": True,
                "summary_by": "callsite",
            }
        }

    return ask(address, question)


# --- logs --------------------------------------------------------------------------------------------------------


def list_logs(address: str | None = None, glob_filter: str = "*", **_: Any) -> dict[str, list[str]]:
    """Names of the log files of a session, by whose they are: ``worker_out``, ``worker_err``, ``system``."""
    found: dict[str, list[str]] = {}
    for path in sorted((_directory(address) / "logs").glob(glob_filter)):
        kind = f"worker_{path.suffix[1:]}" if path.name.startswith("worker-") else "system"
        found.setdefault(kind, []).append(path.name)
    return found


def get_log(
    address: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    worker_id: str | None = None,
    pid: int | None = None,
    tail: int = -1,
    suffix: str = "out",
    encoding: str = "utf-8",
    errors: str = "replace",
    **_: Any,
) -> Iterator[str]:
    """The lines of one log: a file of ``list_logs``, or what a process wrote to stdout (``suffix="err"``: stderr).

    The process is that of an actor (its newest), a task (all that the process wrote, its newest attempt's), a worker
    or a pid. ``tail`` lines from the end, all for -1. Works for dead processes. Raises ValueError unless exactly one is
    given, FileNotFoundError if there is no such log.
    """
    given = {"filename": filename, "actor_id": actor_id, "task_id": task_id, "worker_id": worker_id, "pid": pid}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ValueError(f"give exactly one of {', '.join(given)}, got {', '.join(named) or 'none'}")
    if suffix not in ("out", "err"):
        raise ValueError(f'suffix={suffix!r}: must be "out" or "err"')
    if filename is None:
        filename = f"worker-{ask(address, lambda views: _worker_of(views, named))}.{suffix}"
    path = _directory(address) / "logs" / Path(filename).name
    if path.name != filename or not path.is_file():
        raise FileNotFoundError(f"there is no log {filename!r}; list_logs() tells which there are")
    return _lines(path, tail, encoding, errors)


def _worker_of(views: Views, named: dict[str, Any]) -> str:
    ((key, value),) = named.items()
    rows: list[dict[str, Any]]
    if key == "task_id":
        rows = views.tasks([("task_id", "=", value)], limit=1, refresh=False)["rows"]
    else:
        rows = [
            row for row in (views.actors if key == "actor_id" else views.workers)(refresh=False) if row[key] == value
        ]
    workers = [row["worker_id"] for row in rows if row["worker_id"]]
    if not workers:
        raise FileNotFoundError(f"no process is known for {key}={value!r}")
    return str(workers[-1])


def _lines(path: Path, tail: int, encoding: str, errors: str) -> Iterator[str]:
    with path.open(encoding=encoding, errors=errors) as log:
        yield from log if tail < 0 else deque(log, tail)


__all__ = [
    "ActorState",
    "ClusterEventState",
    "JobState",
    "NodeState",
    "ObjectState",
    "PlacementGroupState",
    "RuntimeEnvState",
    "StateRow",
    "TaskState",
    "WorkerState",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]  # fmt: skip
