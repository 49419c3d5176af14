"""One thing by its id."""

from __future__ import annotations

from typing import Any, TypeVar

from obsray.util.state.lists import (
    list_actors,
    list_jobs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_tasks,
    list_workers,
)
from obsray.util.state.rows import (
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    StateRow,
    TaskState,
    WorkerState,
)

R = TypeVar("R", bound=StateRow)
_ATTEMPTS_MAX = 1 << 16


def get_task(
    id: Any, address: str | None = None, timeout: float = 30, _explain: bool = False
) -> TaskState | list[TaskState] | None:
    """The task of this id (hex) or of a reference to its result; a list of its attempts if there are several."""
    identifier = id if isinstance(id, str) else id.task_id().hex()
    found = list_tasks(address, [("task_id", "=", identifier)], limit=_ATTEMPTS_MAX, timeout=timeout, detail=True)
    return found if len(found) > 1 else _first(found)


def get_actor(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> ActorState | None:
    """The actor of this id, None if there is none."""
    return _first(list_actors(address, [("actor_id", "=", id)], timeout=timeout, detail=True))


def get_placement_group(
    id: str, address: str | None = None, timeout: float = 30, _explain: bool = False
) -> PlacementGroupState | None:
    """The placement group of this id, None if there is none."""
    return _first(list_placement_groups(address, [("placement_group_id", "=", id)], timeout=timeout, detail=True))


def get_objects(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> list[ObjectState]:
    """The object of this id, as a list; also if it is gone. Empty if there never was one."""
    found = list_objects(address, [("object_id", "=", id)], timeout=timeout, detail=True)
    return found or list_objects(
        address, [("object_id", "=", id), ("state", "in", ["FREED", "LOST"])], timeout=timeout, detail=True
    )


def get_worker(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> WorkerState | None:
    """The worker of this id, None if there is none."""
    return _first(list_workers(address, [("worker_id", "=", id)], timeout=timeout, detail=True))


def get_node(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> NodeState | None:
    """The node of this id, None if there is none."""
    return _first(list_nodes(address, [("node_id", "=", id)], timeout=timeout, detail=True))


def get_job(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> JobState | None:
    """The job of this id, None if there is none."""
    return _first(list_jobs(address, [("job_id", "=", id)], timeout=timeout, detail=True))


def _first(found: list[R]) -> R | None:
    return found[0] if found else None
