"""The rows of the state API, and how they come out of the rows of the views.

A row has its fields as attributes and as keys: ``row.state``, ``row["state"]``, ``dict(row)``. Ids are hex strings,
``*_ms`` milliseconds since the epoch; None is not known or not yet. Fields with a default need ``detail=True``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from obsray.core import options as opts
from obsray.core.protocol.messages import CONSTRUCTOR_RAISED, PACK_BY_LABEL
from obsray.telemetry.events import TaskType
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import STATES

_Row = dict[str, Any]
R = TypeVar("R", bound="StateRow")

#: How a task ended -> the name of its error.
ERROR_TYPES = {
    "app_error": "TASK_EXECUTION_EXCEPTION",
    "cancelled": "TASK_CANCELLED",
    "worker_died": "WORKER_DIED",
    #: As in Ray, which says so of all that a driver leaves behind.
    "owner_died": "WORKER_DIED",
    "node_died": "NODE_DIED",
    "oom": "OUT_OF_MEMORY",
    "lost_argument": "OBJECT_LOST",
    "actor_died": "ACTOR_DIED",
    "actor_unavailable": "ACTOR_UNAVAILABLE",
    "system_error": "SYSTEM_ERROR",
    "environment_failed": "RUNTIME_ENV_SETUP_FAILED",
    "nested_too_deep": "TASK_UNSCHEDULABLE_ERROR",
    "unschedulable": "TASK_UNSCHEDULABLE_ERROR",
    "placement_removed": "TASK_PLACEMENT_GROUP_REMOVED",
}
#: What ended a process -> the kind of its end; all others are SYSTEM_ERROR.
EXIT_TYPES = {
    "intended": "INTENDED_USER_EXIT",
    "killed_by_request": "INTENDED_USER_EXIT",
    "idle": "INTENDED_SYSTEM_EXIT",
    "owner_died": "INTENDED_SYSTEM_EXIT",
    "placement_removed": "INTENDED_SYSTEM_EXIT",
    "oom": "NODE_OUT_OF_MEMORY",
}
ERROR_OUTCOMES = {error: outcome for outcome, error in ERROR_TYPES.items()}
#: The names of the states of tasks: to Ray's users one that was cancelled has FAILED, with TASK_CANCELLED as its error.
CANCELLED = "CANCELLED"
TASK_STATES = tuple("FAILED" if state == CANCELLED else state for state in STATES)
TASK_TYPES = {
    TaskType.TASK: "NORMAL_TASK",
    TaskType.ACTOR_CREATION: "ACTOR_CREATION_TASK",
    TaskType.ACTOR_CALL: "ACTOR_TASK",
    TaskType.DRIVER: "DRIVER_TASK",
}
ADDRESS = "127.0.0.1"


@dataclass(frozen=True, eq=False)
class StateRow(Mapping[str, Any]):
    """A row: attributes and keys."""

    #: The field that says when the thing began, in the unit of its name; "" if none does.
    began: ClassVar[str] = ""

    def began_ns(self) -> int | None:
        """When the thing began, in nanoseconds since the epoch; None if that is not known."""
        value = getattr(self, self.began)
        return None if value is None else int(value * (1e6 if self.began.endswith("_ms") else 1e9))

    def __getitem__(self, key: str) -> Any:
        if key not in self.__dataclass_fields__ or key == "began":
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter([each.name for each in fields(self)])

    def __len__(self) -> int:
        return len(fields(self))

    def asdict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return dict(self)

    def without_detail(self: R) -> R:
        """A copy without what was not asked for."""
        return replace(self, **{each.name: None for each in fields(self) if each.default is None})


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskState(StateRow):
    """One attempt of a task or actor call. A cancelled one is ``FAILED``, with ``TASK_CANCELLED`` as error type;
    filters know the state ``CANCELLED``."""

    began: ClassVar[str] = "creation_time_ms"

    task_id: str
    attempt_number: int
    name: str
    state: str
    job_id: str
    actor_id: str | None
    type: str
    func_or_class_name: str
    parent_task_id: str | None
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None
    # detail
    error_message: str | None = None
    creation_time_ms: float | None = None
    start_time_ms: float | None = None
    end_time_ms: float | None = None
    required_resources: dict[str, float] | None = None
    placement_group_id: str | None = None
    trace_id: str | None = None
    queue_seconds: float | None = None
    run_seconds: float | None = None
    result_bytes: int | None = None
    gpu_seconds: float | None = None
    gpu_kernels: int | None = None
    labels: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ActorState(StateRow):
    """One actor."""

    began: ClassVar[str] = "creation_time_ms"

    actor_id: str
    class_name: str
    state: str
    job_id: str | None
    name: str
    node_id: str | None
    pid: int | None
    ray_namespace: str
    # detail
    worker_id: str | None = None
    required_resources: dict[str, float] | None = None
    death_cause: dict[str, Any] | None = None
    is_detached: bool | None = None
    placement_group_id: str | None = None
    num_restarts: int | None = None
    max_restarts: int | None = None
    repr_name: str | None = None
    calls: int | None = None
    creation_time_ms: float | None = None
    start_time_ms: float | None = None
    end_time_ms: float | None = None
    labels: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class PlacementGroupState(StateRow):
    """One placement group; ``bundles`` have their resources and the node they are on."""

    began: ClassVar[str] = "creation_time_ms"

    placement_group_id: str
    name: str
    creator_job_id: str | None
    state: str
    # detail
    strategy: str | None = None
    topology_strategy: dict[str, str] | None = None
    bundles: list[dict[str, Any]] | None = None
    is_detached: bool | None = None
    namespace: str | None = None
    reason: str | None = None
    stats: dict[str, Any] | None = None
    creation_time_ms: float | None = None
    start_time_ms: float | None = None
    end_time_ms: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectState(StateRow):
    """One object; ``type`` and ``pid`` are of the process that owns it, ``task_status`` of the task that made it."""

    began: ClassVar[str] = "creation_time_ms"

    object_id: str
    object_size: int
    state: str
    task_status: str | None
    call_site: str | None
    type: str | None
    pid: int | None
    ip: str
    # detail
    owner_id: str | None = None
    producer: str | None = None
    node_ids: list[str] | None = None
    pins: int | None = None
    age_seconds: float | None = None
    creation_time_ms: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class WorkerState(StateRow):
    """One worker or driver process; ``state`` says what it does now, ``exit_cause`` what ended it, ``exit_type`` of
    which kind that is to Ray's users. ``end_time_ms`` is 0 while it lives."""

    began: ClassVar[str] = "start_time_ms"

    worker_id: str
    is_alive: bool
    worker_type: str
    state: str
    exit_type: str | None
    node_id: str | None
    ip: str
    pid: int | None
    # detail
    exit_cause: str | None = None
    exit_detail: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    actor_id: str | None = None
    current_task_id: str | None = None
    rss_bytes: int | None = None
    start_time_ms: float | None = None
    end_time_ms: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class NodeState(StateRow):
    """One node; ``end_time_ms`` is 0 while it lives."""

    began: ClassVar[str] = "start_time_ms"

    node_id: str
    node_ip: str
    node_name: str
    is_head_node: bool
    state: str
    state_message: str | None
    resources_total: dict[str, float]
    labels: dict[str, str]
    # detail
    pid: int | None = None
    start_time_ms: float | None = None
    end_time_ms: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class JobState(StateRow):
    """One run of a driver program; ``*_time`` are seconds since the epoch."""

    began: ClassVar[str] = "start_time"

    job_id: str
    type: str
    status: str
    entrypoint: str
    namespace: str
    pid: int | None
    start_time: float | None
    end_time: float | None
    tasks: int
    # detail
    driver_id: str | None = None
    error_type: str | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class RuntimeEnvState(StateRow):
    """One environment of workers. ``success`` is None while it is being made; ``ref_cnt`` processes are in it."""

    environment_id: str
    runtime_env: Any
    state: str
    success: bool | None
    creation_time_ms: float | None
    node_id: str | None
    ref_cnt: int
    bytes: int | None
    # detail
    error: str | None = None


def _json(text: str) -> Any:
    """What JSON text says; the text itself if it was cut."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterEventState(StateRow):
    """Something that went wrong; ``time`` is seconds since the epoch, ``source_type`` the kind of event."""

    began: ClassVar[str] = "time"

    severity: str
    time: float
    source_type: str
    message: str
    event_id: str
    # detail
    custom_fields: dict[str, Any] | None = None


def event_row(row: _Row) -> ClusterEventState:
    """A row of ``Views.troubles``."""
    return ClusterEventState(
        severity=row["severity"].upper(),
        time=row["time_ns"] / NS,
        source_type=row["event"],
        message=row["text"],
        event_id=f"{row['process']}{row['time_ns']:016x}",
        custom_fields={**row["fields"], "process": row["process_label"]},
    )


def _ms(time_ns: int | None) -> float | None:
    return None if time_ns is None else time_ns / 1e6


def resources_of(shape: str) -> dict[str, float]:
    found = {}
    for part in shape.split():
        name, colon, amount = part.rpartition(":")
        if colon:
            try:
                found[name] = float(amount)
            except ValueError:
                continue
    return found


def earlier_rows(
    row: _Row, attempts: Sequence[_Row], node_of: Callable[[str | None], str | None]
) -> Iterator[TaskState]:
    """Attempts of a task before its newest, newest first; ``row`` is the task's."""
    newest = task_row(row, None)
    for attempt in reversed(attempts):
        if attempt["attempt"] >= row["attempt"]:
            continue
        outcome = attempt["outcome"]
        yield replace(
            newest,
            attempt_number=attempt["attempt"],
            state="FINISHED" if outcome == "ok" else "FAILED",
            node_id=node_of(attempt["worker_id"]),
            worker_id=attempt["worker_id"],
            worker_pid=attempt["worker_pid"],
            error_type=ERROR_TYPES.get(outcome or "worker_died"),
            error_message=attempt["error"],
            start_time_ms=_ms(attempt["started_at_ns"]),
            end_time_ms=_ms(attempt["ended_at_ns"]),
            queue_seconds=None,
            run_seconds=attempt["run_seconds"],
            result_bytes=None,
        )


def task_row(row: _Row, node: str | None) -> TaskState:
    """A row of ``Views.tasks``, and the node of its worker: the task's newest attempt."""
    return TaskState(
        task_id=row["task_id"],
        attempt_number=row["attempt"],
        name=row["name"],
        state="FAILED" if row["state"] == CANCELLED else row["state"],
        job_id=row["job_id"],
        actor_id=row["actor_id"],
        type=row["type"],
        func_or_class_name=row["name"],
        parent_task_id=row["parent_task_id"],
        node_id=node if row["worker_id"] else None,
        worker_id=row["worker_id"],
        worker_pid=row["worker_pid"],
        error_type=ERROR_TYPES.get(row["outcome"] or ""),
        error_message=row["error"],
        creation_time_ms=_ms(row["submitted_at_ns"]),
        start_time_ms=_ms(row["started_at_ns"]),
        end_time_ms=_ms(row["ended_at_ns"]),
        required_resources=resources_of(row["shape"]),
        placement_group_id=row["placement_group_id"],
        trace_id=row["trace_id"],
        queue_seconds=row["queue_seconds"],
        run_seconds=row["run_seconds"],
        result_bytes=row["result_bytes"],
        gpu_seconds=row["gpu_seconds"],
        gpu_kernels=row["gpu_kernels"],
        labels=row["labels"],
    )


def actor_row(row: _Row) -> ActorState:
    """A row of ``Views.actors``."""
    died = row["died_at_ns"] is not None
    return ActorState(
        actor_id=row["actor_id"],
        class_name=row["class_name"],
        state=row["state"],
        job_id=row["job_id"],
        name=row["name"],
        node_id=row["node_id"],
        pid=row["pid"],
        ray_namespace=row["namespace"],
        worker_id=row["worker_id"],
        required_resources=resources_of(row["shape"]),
        death_cause={"cause": row["died_cause"], "error_message": row["error"]} if died else None,
        is_detached=row["detached"],
        placement_group_id=row["placement_group_id"],
        num_restarts=row["restarts"],
        max_restarts=row["restarts_max"],
        repr_name=row["repr_name"],
        calls=row["calls"],
        creation_time_ms=_ms(row["created_at_ns"]),
        start_time_ms=_ms(row["alive_at_ns"]),
        end_time_ms=_ms(row["died_at_ns"]),
        labels=row["labels"],
    )


def group_row(row: _Row) -> PlacementGroupState:
    """A row of ``Views.placement_groups``."""
    bundles = [
        {
            "bundle_id": index,
            "unit_resources": {name: opts.floating(name, amount) for name, amount in amounts.items()},
            "node_id": row["bundle_nodes"][index],
        }
        for index, amounts in enumerate(row["bundle_amounts"])
    ]
    waited, strategy = row["pending_seconds"], row["strategy"]
    label = strategy[len(PACK_BY_LABEL) :] if strategy.startswith(PACK_BY_LABEL) else ""
    return PlacementGroupState(
        placement_group_id=row["group_id"],
        name=row["name"],
        creator_job_id=row["job_id"],
        state=row["state"],
        strategy=strategy,
        topology_strategy={label: "STRICT_PACK"} if label else None,
        bundles=bundles,
        is_detached=row["detached"],
        namespace=row["namespace"],
        reason=row["why"] or None,
        stats={
            "end_to_end_creation_latency_ms": None if waited is None else waited * 1000,
            "scheduling_attempt": row["attempts"],
            "workers": row["workers"],
        },
        creation_time_ms=_ms(row["requested_at_ns"]),
        start_time_ms=_ms(row["created_at_ns"]),
        end_time_ms=_ms(row["removed_at_ns"]),
    )


def object_row(row: _Row, task_status: str | None, owner: tuple[str, int] | None) -> ObjectState:
    """A row of ``Views.objects``, with the state of the task that made it and kind and pid of the owner."""
    return ObjectState(
        object_id=row["object_id"],
        object_size=row["bytes"],
        state=row["state"],
        task_status=task_status,
        call_site=row["call_site"],
        type=owner[0] if owner else None,
        pid=owner[1] if owner else None,
        ip=ADDRESS,
        owner_id=row["owner"],
        producer=row["producer"],
        node_ids=(row["nodes"] or "").split(),
        pins=row["pins"],
        age_seconds=row["age_seconds"],
        creation_time_ms=_ms(row["put_at_ns"] or row["created_at_ns"]),
    )


def worker_row(row: _Row, node: str | None) -> WorkerState:
    """A row of ``Views.workers``."""
    return WorkerState(
        worker_id=row["worker_id"],
        is_alive=row["state"] != "DEAD",
        worker_type=row["kind"].upper(),
        state=row["state"],
        exit_type=_exit_type(row),
        node_id=node,
        ip=ADDRESS,
        pid=row["pid"] or None,
        exit_cause=row["died_cause"].upper() if row["died_cause"] else None,
        exit_detail=row["error"],
        exit_code=row["exit_code"],
        signal=row["signal"],
        actor_id=row["actor_id"],
        current_task_id=row["current_task_id"],
        rss_bytes=row["rss_bytes"],
        start_time_ms=_ms(row["registered_at_ns"]),
        end_time_ms=_ms(row["died_at_ns"] or row["closed_at_ns"]) if row["state"] == "DEAD" else 0.0,
    )


def _exit_type(row: _Row) -> str | None:
    """The kind of a process' end, None before it."""
    if row["state"] != "DEAD":
        return None
    if row["died_cause"] is None:
        # A driver, of which nobody knows more than whether it said goodbye.
        return "INTENDED_USER_EXIT" if row["closed_at_ns"] else "SYSTEM_ERROR"
    if row["died_cause"] == "intended" and row["error"] == CONSTRUCTOR_RAISED:
        return "USER_ERROR"
    return EXIT_TYPES.get(row["died_cause"], "SYSTEM_ERROR")


def node_row(row: _Row, facts: _Row) -> NodeState:
    """A row of ``Views.nodes``; ``facts`` are those of the session, which its head node knows first."""
    is_head = row["node_id"] == facts.get("node")
    offered = (facts.get("resources") or {}) if is_head else {}
    resources = {name: opts.floating(name, amount) for name, amount in offered.items()}
    resources.update((name, values["total"]) for name, values in row["resources"].items())
    return NodeState(
        node_id=row["node_id"],
        node_ip=ADDRESS,
        node_name=row["host"],
        is_head_node=is_head,
        state=row["state"],
        state_message=row["error"],
        resources_total=resources,
        labels=dict(facts.get("labels") or {}) if is_head else {},
        pid=row["pid"],
        start_time_ms=_ms(row["started_at_ns"]),
        end_time_ms=_ms(row["stopped_at_ns"]) if row["state"] == "DEAD" else 0.0,
    )


def member_row(row: _Row, ended: int | None) -> NodeState:
    """What a node of a cluster answers about one of its nodes (the request "nodes"), and when that is known to have
    ended."""
    host = str(row.get("address") or "").rpartition(":")[0]
    return NodeState(
        node_id=row["node"].hex(),
        node_ip=host or ADDRESS,
        node_name=row["name"],
        is_head_node=bool(row.get("head")),
        state="ALIVE" if row["alive"] else "DEAD",
        state_message=None if row["alive"] else row.get("reason") or None,
        resources_total={
            **{name: opts.floating(name, amount) for name, amount in row["resources"].items()},
            "object_store_memory": float(row["object_store_memory"]),
        },
        labels=dict(row["labels"]),
        pid=row["pid"],
        start_time_ms=_ms(row["started_at_ns"]),
        end_time_ms=0.0 if row["alive"] else _ms(ended),
    )


def job_row(row: _Row) -> JobState:
    """A row of ``Views.jobs``."""
    return JobState(
        job_id=row["job_id"],
        type="DRIVER",
        status=row["state"],
        entrypoint=row["entrypoint"],
        namespace=row["namespace"],
        pid=row["pid"],
        start_time=row["started_at_ns"] / NS if row["started_at_ns"] else None,
        end_time=row["ended_at_ns"] / NS if row["ended_at_ns"] else None,
        tasks=row["tasks"],
        driver_id=row["driver_id"],
        error_type=row["cause"],
        metadata=_json(row.get("metadata") or "{}"),
    )


def environment_row(row: _Row) -> RuntimeEnvState:
    """A row of ``Views.environments``."""
    return RuntimeEnvState(
        environment_id=row["environment_id"],
        runtime_env=_json(row["description"]),
        state=row["state"],
        success={"READY": True, "REMOVED": True, "FAILED": False}.get(row["state"]),
        creation_time_ms=None if row["setup_seconds"] is None else row["setup_seconds"] * 1e3,
        node_id=row.get("node_id"),
        ref_cnt=row["workers"],
        bytes=row["environment_bytes"],
        error=row["error"],
    )
