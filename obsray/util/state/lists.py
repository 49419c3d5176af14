"""Lists: of tasks, actors, objects, processes, nodes, jobs, environments, groups, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from obsray.telemetry.views import Views
from obsray.util.state import columns, listing, remote
from obsray.util.state.listing import LIMIT_DEFAULT, Asked, Filter, Rows
from obsray.util.state.rows import (
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
    worker_row,
)
from obsray.util.state.sessions import ask, cluster_members

R = TypeVar("R", bound=StateRow)


def list_tasks(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[TaskState]:
    """Attempts of tasks and actor calls, newest first: each retry is a row of its own."""
    asked = listing.check(TaskState, filters, limit, detail, sort, since, until, cursor, "-creation_time_ms")
    return ask(address, lambda views: columns.list_tasks(views, asked), remote.rows("tasks", TaskState, asked), timeout)


def list_objects(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[ObjectState]:
    """Objects that exist, largest first. With a filter on ``state`` also those that are FREED or LOST."""
    asked = listing.check(ObjectState, filters, limit, detail, sort, since, until, cursor, "-object_size")
    return ask(
        address, lambda views: columns.list_objects(views, asked), remote.rows("objects", ObjectState, asked), timeout
    )


def list_actors(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[ActorState]:
    """Actors, dead ones too, newest first."""
    asked = listing.check(ActorState, filters, limit, detail, sort, since, until, cursor)
    return _listed(address, ActorState, asked, timeout, lambda views: map(actor_row, views.actors(refresh=False)))


def list_placement_groups(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[PlacementGroupState]:
    """Placement groups, removed ones too, newest first."""
    asked = listing.check(PlacementGroupState, filters, limit, detail, sort, since, until, cursor)
    return _listed(
        address,
        PlacementGroupState,
        asked,
        timeout,
        lambda views: map(group_row, views.placement_groups(refresh=False)),
    )


def list_workers(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[WorkerState]:
    """Workers and drivers, dead ones too."""
    asked = listing.check(WorkerState, filters, limit, detail, sort, since, until, cursor)
    return _listed(address, WorkerState, asked, timeout, _workers)


def list_nodes(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[NodeState]:
    """Nodes, dead ones too. While the runtime runs its node is asked, afterwards what was recorded."""
    asked = listing.check(NodeState, filters, limit, detail, sort, since, until, cursor)
    return _listed(address, NodeState, asked, timeout, _nodes)


def list_jobs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[JobState]:
    """Drivers that joined, newest first."""
    asked = listing.check(JobState, filters, limit, detail, sort, since, until, cursor)
    return _listed(address, JobState, asked, timeout, lambda views: map(job_row, views.jobs(refresh=False)))


def list_runtime_envs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[RuntimeEnvState]:
    """Environments that tasks, actors or drivers asked for, newest first."""
    asked = listing.check(RuntimeEnvState, filters, limit, detail, sort, since, until, cursor)
    return _listed(address, RuntimeEnvState, asked, timeout, _environments)


def list_cluster_events(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[ClusterEventState]:
    """Warnings and errors of the runtime, newest first: processes that died, retries, lost objects,
    full stores."""
    asked = listing.check(ClusterEventState, filters, limit, detail, sort, since, until, cursor)
    return _listed(address, ClusterEventState, asked, timeout, _events)


def _listed(
    address: str | None, kind: type[R], asked: Asked, timeout: float, rows: Callable[[Views], Iterable[R]]
) -> Rows[R]:
    elsewhere = remote.rows(_NOUNS[kind], kind, asked)
    return ask(address, lambda views: listing.page(kind, rows(views), asked, views.now_ns()), elsewhere, timeout)


_NOUNS: dict[type[StateRow], str] = {
    ActorState: "actors", PlacementGroupState: "placement_groups", WorkerState: "workers", NodeState: "nodes",
    JobState: "jobs", RuntimeEnvState: "runtime_envs", ClusterEventState: "cluster_events",
}  # fmt: skip


def _workers(views: Views) -> Iterable[WorkerState]:
    for row in views.workers(refresh=False):
        if row["kind"] in ("worker", "driver"):
            yield worker_row(row, columns.hex_node(views, row["worker_id"]))


def _nodes(views: Views) -> Iterable[NodeState]:
    facts = views.store.session()
    members = cluster_members(views.store.session_dir, facts) if views.store.is_live() else []
    rows = views.nodes(refresh=False)
    ended = {row["node_id"]: row["stopped_at_ns"] for row in rows}
    return [member_row(each, ended.get(each["node"].hex())) for each in members] or [node_row(r, facts) for r in rows]


def _environments(views: Views) -> Iterable[RuntimeEnvState]:
    node = next((row["node_id"] for row in views.nodes(refresh=False)), None)
    return (environment_row({**row, "node_id": node}) for row in views.environments(refresh=False))


def _events(views: Views) -> Iterable[ClusterEventState]:
    return map(event_row, views.troubles(1 << 30, refresh=False))
