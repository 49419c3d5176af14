"""Names that programs know from ``ray.util.state.common``: kinds of things, options of questions, rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Any

from obsray.util.state.listing import LIMIT_DEFAULT, OPERATORS
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
)

DEFAULT_LIMIT = LIMIT_DEFAULT
DEFAULT_RPC_TIMEOUT = 30
StateSchema = StateRow


@unique
class StateResource(Enum):
    """What can be listed."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


@unique
class SummaryResource(Enum):
    """What can be summarized."""

    ACTORS = "actors"
    TASKS = "tasks"
    OBJECTS = "objects"


@dataclass
class ListApiOptions:
    """How a list is asked for; see ``obsray.util.state``. ``sort``, ``since``, ``until``, ``cursor`` are only here."""

    limit: int = LIMIT_DEFAULT
    timeout: float = DEFAULT_RPC_TIMEOUT
    detail: bool = False
    filters: list[tuple[str, str, Any]] | None = None
    exclude_driver: bool = True
    sort: str | None = None
    since: Any = None
    until: Any = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        for each in self.filters or ():
            if len(each) != 3 or each[1] not in OPERATORS:
                raise ValueError(f"filter {each!r}: must be (key, operator, value), operators {' '.join(OPERATORS)}")


@dataclass
class GetApiOptions:
    """How one thing is asked for."""

    timeout: float = DEFAULT_RPC_TIMEOUT


@dataclass
class SummaryApiOptions:
    """How a summary is asked for."""

    timeout: float = DEFAULT_RPC_TIMEOUT
    filters: list[tuple[str, str, Any]] | None = None
    summary_by: str | None = None


@dataclass
class GetLogOptions:
    """How a log is asked for; see ``obsray.util.state.get_log``."""

    timeout: float = DEFAULT_RPC_TIMEOUT
    node_id: str | None = None
    node_ip: str | None = None
    media_type: str = "file"
    filename: str | None = None
    actor_id: str | None = None
    task_id: str | None = None
    attempt_number: int = 0
    pid: int | None = None
    lines: int = 1000
    interval: float | None = None
    suffix: str = "out"
    submission_id: str | None = None


__all__ = [
    "DEFAULT_LIMIT",
    "DEFAULT_RPC_TIMEOUT",
    "ActorState",
    "ClusterEventState",
    "GetApiOptions",
    "GetLogOptions",
    "JobState",
    "ListApiOptions",
    "NodeState",
    "ObjectState",
    "PlacementGroupState",
    "RuntimeEnvState",
    "StateResource",
    "StateSchema",
    "SummaryApiOptions",
    "SummaryResource",
    "TaskState",
    "WorkerState",
]
